"""Sentence embeddings: an encoder from Hugging Face, its batches, and the application that a replica serves it by."""

from serve_app.engines.embedding.engine import EncoderEngine as EncoderEngine
