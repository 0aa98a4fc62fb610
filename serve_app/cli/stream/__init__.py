"""`jethro stream`."""
