"""Settings of the engines."""

import difflib
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, field_validator

from serve_app.config.adapters import AdapterCacheConfig, VllmAdaptersConfig
from serve_app.config.base import FolderOrFile, ModelName, Node
from serve_app.wire.parameters import HINTS, NEEDED, OPENAI

ENCODER: Final = "minilm"
"""The sentence encoder that ships."""
_ROUTES = ("/chat/completions", "/completions", "/embeddings")


def web_address(url: str) -> str:
    """A URL with scheme and host, as it is to be used. Raises ValueError with the fix."""
    if any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError("a URL has no blanks or control characters: remove them")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "://" not in url:
        raise ValueError("write the URL with its scheme, http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("a URL holds no user and password: name the environment variable that holds the key")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0 or parts.netloc.endswith(":"):
        raise ValueError("the URL needs a host, and a port from 1 to 65535 or none")
    if "\\" in url or not _resolvable(parts.hostname):
        raise ValueError("the host is no name or address: dots separate labels of 1 to 63 characters")
    if "#" in url:
        raise ValueError("a fragment (#...) is never sent: remove it")
    return url


def _resolvable(host: str) -> bool:
    """Whether the host can be looked up, which says nothing of whether there is one."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _base_url(url: str) -> str:
    """The prefix of the API's paths. The path of a whole route is cut back to it; a query stays."""
    base, mark, query = web_address(url).partition("?")
    base = base.rstrip("/")
    for route in _ROUTES:
        base = base.removesuffix(route)
    return base.rstrip("/") + (mark + query if query else "")


def _proxy_url(url: str) -> str:
    if urlsplit(web_address(url)).path not in ("", "/") or "?" in url:
        raise ValueError("a proxy is scheme, host and port alone: remove the path")
    return url


BaseUrl = Annotated[str, AfterValidator(_base_url)]
ProxyUrl = Annotated[str, AfterValidator(_proxy_url)]


class TransformersSettings(Node):
    """A Hugging Face model run by transformers, batched at every step; CPU or one GPU."""

    kind: Literal["transformers"] = "transformers"
    path: FolderOrFile = Field(
        description="Folder or Hugging Face id; `lab:small` and `lab:large` are the embedded models, "
        "`package:smollm2-135m-instruct` is taken from its Python package once."
    )
    device: str = Field("cpu", description="cpu, cuda or cuda:N.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Number format of the weights.")
    threads: PositiveInt = Field(1, description="CPU threads of the replica's forward passes.")
    max_batch: PositiveInt = Field(64, description="Sequences that share one forward pass.")
    max_waiting: PositiveInt = Field(256, description="Requests that may wait for a place; beyond it 429.")
    adapters: AdapterCacheConfig | None = Field(
        None, description="Serve the registered LoRA adapters of this model; null: none."
    )
    max_tokens: PositiveInt | None = Field(
        None, description="Longest answer where the request names none; null: as far as the context allows."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="Where the request sets neither temperature nor top_p; null: 1, OpenAI's default."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="The same; null: 1.")
    tool_prompt: Literal["auto", "none"] = Field(
        "auto",
        description="How the model reads of tools: by its chat template, or by a system text if that knows none "
        "(auto); or not at all, so that calls need tool_choice `required` or a name (none, always for `lab:` models).",
    )


class VllmSettings(Node):
    """A model run by vLLM's AsyncLLM; `args` are passed to AsyncEngineArgs as they are."""

    kind: Literal["vllm"] = "vllm"
    path: FolderOrFile = Field(
        description="Folder or Hugging Face id; `lab:small` and `lab:large` are the embedded models."
    )
    tensor_parallel: PositiveInt = Field(1, description="GPUs that one replica splits the model over.")
    max_context_tokens: PositiveInt | None = Field(None, description="Longest context; null: the model's.")
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Share of GPU memory that vLLM takes."
    )
    cpu_kv_cache_gib: PositiveInt | None = Field(None, description="CPU build: memory of the KV cache.")
    prefix_caching: bool = Field(True, description="Reuse the KV cache of equal prefixes.")
    adapters: VllmAdaptersConfig | None = Field(
        None, description="Serve the registered LoRA adapters of this model; null: none."
    )
    tool_parser: str | None = Field(None, description="vLLM's tool-call parser; without it tools are refused.")
    vision: bool | None = Field(
        None,
        description="The model reads images. Those given by URL are refused unless `args.allowed_media_domains` names "
        "hosts, since the replica fetches them; null: as the model's config.json says, where it is on this machine.",
    )
    max_waiting: PositiveInt = Field(256, description="Requests that may wait for a place; beyond it 429.")
    args: dict[str, Any] = Field(default_factory=dict, description="Further AsyncEngineArgs.")

    @property
    def fetches_images(self) -> bool:
        """Whether its replicas fetch images of hosts that the operator has named."""
        return bool(self.args.get("allowed_media_domains"))

    @property
    def by_priority(self) -> bool:
        """Whether its scheduler goes by the priority that a request has."""
        return self.args.get("scheduling_policy") == "priority"


class EncoderSettings(Node):
    """A sentence encoder in float32, for /v1/embeddings; batched across requests, on CPU."""

    kind: Literal["encoder"] = "encoder"
    path: FolderOrFile = Field(
        ENCODER,
        description="minilm (all-MiniLM-L6-v2, which ships) or a folder in sentence-transformers' format.",
    )
    threads: PositiveInt = Field(2, description="Passes that the replica runs at once, each on one CPU.")
    window: PositiveInt | None = Field(
        None, description="Most tokens of a text that are read; null: as many as the model was made for (minilm: 256)."
    )
    too_long: Literal["truncate", "refuse"] = Field(
        "truncate",
        description="A text beyond the window: its beginning is embedded and the answer carries a warning, as "
        "sentence-transformers cuts it, or it is refused with status 400, as OpenAI does.",
    )
    max_waiting: PositiveInt = Field(8192, description="Inputs that may wait for a pass; beyond it 429.")


class OpenAISettings(Node):
    """Any OpenAI-compatible upstream, reached by URL. Such a pool has no replicas of ours."""

    kind: Literal["openai"] = "openai"
    urls: tuple[BaseUrl, ...] = Field(
        description="Base URLs, most end in /v1; a query is kept; one is chosen per request."
    )
    upstream_model: ModelName | None = Field(None, description="The upstream's model id; default: the pool's model.")
    api_key_env: str | None = Field(None, description="Environment variable that holds the upstream's key.")
    proxy: ProxyUrl | None = Field(None, description="HTTP proxy to reach the URLs by; the environment names none.")
    proxy_auth_env: str | None = Field(None, description="Environment variable that holds the proxy's user:password.")
    connect_timeout_s: PositiveFloat = Field(5.0, description="Longest wait for a connection.")
    first_byte_timeout_s: PositiveFloat = Field(120.0, description="Longest wait for the first event; bytes extend it.")
    idle_timeout_s: PositiveFloat = Field(60.0, description="Longest silence inside a stream.")
    retries: Annotated[int, Field(ge=0, le=10)] = Field(2, description="Further tries before the first byte.")
    embeddings: bool = Field(
        False, description="The model is an embedding model: the pool serves /v1/embeddings, and no chat."
    )
    guided: bool = Field(False, description="The upstream supports response_format.")
    tools: bool = Field(False, description="The upstream supports tools.")
    logprobs: bool = Field(True, description="The upstream supports log-probabilities.")
    vision: bool = Field(False, description="The upstream's model reads images.")
    image_urls: bool = Field(
        True, description="With vision: it is handed the URLs of images, which it fetches; false: only images as data."
    )
    parameters: tuple[str, ...] = Field(
        OPENAI,
        description="Further parameters that the upstream takes, such as top_k where it is vLLM's. A request with "
        "another that would change the answer goes elsewhere; other wishes are left out.",
    )
    echoes: bool = Field(
        False,
        description="Send back what its answers had besides text (reasoning, thinking blocks, signatures of tool "
        "calls) when a caller repeats them in a conversation.",
    )
    max_context_tokens: PositiveInt | None = Field(None, description="Longest context; null: not checked.")

    @field_validator("parameters")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = NEEDED | HINTS
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f", did you mean {near[0]}?" if near else ""
                raise ValueError(f"{name!r} is no such parameter{hint} (known: {', '.join(sorted(known))})")
        return names

    @field_validator("urls")
    @classmethod
    def _different(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if not urls or len(set(urls)) < len(urls):
            raise ValueError("give one URL or more, each once")
        return urls


EngineConfig = Annotated[
    TransformersSettings | VllmSettings | EncoderSettings | OpenAISettings, Field(discriminator="kind")
]
