"""`jethro adapter`: LoRA adapters, trained and registered."""
