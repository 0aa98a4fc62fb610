"""`jethro adapter`."""
