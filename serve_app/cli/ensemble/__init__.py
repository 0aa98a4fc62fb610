"""`jethro ensemble`."""
