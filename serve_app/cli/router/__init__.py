"""`jethro router`."""
