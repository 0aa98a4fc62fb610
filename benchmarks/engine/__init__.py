"""How the transformers engine's throughput grows with concurrency."""
