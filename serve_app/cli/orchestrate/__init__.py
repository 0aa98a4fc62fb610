"""`jethro orchestrate`."""
