"""Sentence embeddings: an encoder from Hugging Face, its batches, and a replica's answer to /v1/embeddings."""
