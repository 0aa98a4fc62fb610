"""The vLLM engine: one model behind vLLM's AsyncLLM, in OpenAI's terms. Importing this does not import vLLM."""

from serve_app.engines.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
