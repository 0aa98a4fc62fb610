"""`jethro cascade`."""
