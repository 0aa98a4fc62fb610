"""LoRA adapters: the registry that Gateways and replicas share, their files, and the base model each belongs to."""
