"""Settings of the three engines."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from serve_app.config.base import Node


class TransformersSettings(Node):
    """A Hugging Face model run by transformers, batched at every step; CPU or one GPU."""

    kind: Literal["transformers"] = "transformers"
    path: str = Field(description="Folder or Hugging Face id; `lab:small` and `lab:large` are the embedded models.")
    device: str = Field("cpu", description="cpu, cuda or cuda:N.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Number format of the weights.")
    threads: PositiveInt = Field(1, description="CPU threads of the replica's forward passes.")
    max_batch: PositiveInt = Field(64, description="Sequences that share one forward pass.")
    max_waiting: PositiveInt = Field(256, description="Requests that may wait for a place; beyond it 429.")


class VllmSettings(Node):
    """A model run by vLLM's AsyncLLM; `args` are passed to AsyncEngineArgs as they are."""

    kind: Literal["vllm"] = "vllm"
    path: str = Field(description="Folder or Hugging Face id; `lab:small` and `lab:large` are the embedded models.")
    tensor_parallel: PositiveInt = Field(1, description="GPUs that one replica splits the model over.")
    max_context_tokens: PositiveInt | None = Field(None, description="Longest context; null: the model's.")
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Share of GPU memory that vLLM takes."
    )
    cpu_kv_cache_gib: PositiveInt | None = Field(None, description="CPU build: memory of the KV cache.")
    prefix_caching: bool = Field(True, description="Reuse the KV cache of equal prefixes.")
    adapters: dict[str, str] = Field(default_factory=dict, description="LoRA adapters: name to folder or id.")
    tool_parser: str | None = Field(None, description="vLLM's tool-call parser; without it tools are refused.")
    max_waiting: PositiveInt = Field(256, description="Requests that may wait for a place; beyond it 429.")
    args: dict[str, Any] = Field(default_factory=dict, description="Further AsyncEngineArgs.")


class OpenAISettings(Node):
    """Any OpenAI-compatible upstream, reached by URL. Such a pool has no replicas of ours."""

    kind: Literal["openai"] = "openai"
    urls: tuple[str, ...] = Field(min_length=1, description="Base URLs that end in /v1; one is chosen per request.")
    upstream_model: str | None = Field(None, description="The upstream's model id; default: the pool's model.")
    api_key_env: str | None = Field(None, description="Environment variable that holds the upstream's key.")
    connect_timeout_s: PositiveFloat = Field(5.0, description="Longest wait for a connection.")
    first_byte_timeout_s: PositiveFloat = Field(120.0, description="Longest wait for the first byte.")
    idle_timeout_s: PositiveFloat = Field(60.0, description="Longest silence inside a stream.")
    retries: Annotated[int, Field(ge=0, le=10)] = Field(2, description="Further tries before the first byte.")
    guided: bool = Field(False, description="The upstream supports response_format.")
    tools: bool = Field(False, description="The upstream supports tools.")
    logprobs: bool = Field(True, description="The upstream supports log-probabilities.")
    max_context_tokens: PositiveInt | None = Field(None, description="Longest context; null: not checked.")


EngineConfig = Annotated[TransformersSettings | VllmSettings | OpenAISettings, Field(discriminator="kind")]
