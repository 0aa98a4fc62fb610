"""What LoRA adapters add: task adapters of the lab's small model, and one of SmolLM2-135M-Instruct on ISEAR."""
