"""What another policy would have done: on calibration data, and on the decisions of the log."""
