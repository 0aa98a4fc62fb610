"""Fine-tuning of LoRA adapters: of any causal language model on rows of one's own, and of the lab's small model."""
