"""Load on a running OpenAI-compatible endpoint."""
