"""Runs a Hugging Face causal language model with continuous batching of our own, on CPU or one GPU.

Needs the extra `transformers`. One worker thread owns the model; see `worker` for the loop and `batch` for the tensors.
"""

from serve_app.engines.transformers.engine import HFEngine

__all__ = ["HFEngine"]
