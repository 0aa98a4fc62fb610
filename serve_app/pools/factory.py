"""Pools from the config, all over HTTP: replicas and remote upstreams."""

import json
from pathlib import Path
from typing import Final

from serve_app.config import secret
from serve_app.config.engines import EncoderSettings, OpenAISettings, TransformersSettings, VllmSettings
from serve_app.config.pools import PoolConfig
from serve_app.pools.client_session import Proxy
from serve_app.pools.directory import Directory
from serve_app.pools.http import HttpPool, UpstreamOptions
from serve_app.pools.upstream import Backoff, Timeouts
from serve_app.types import Capabilities, Price
from serve_app.wire.parameters import TRANSFORMERS, VLLM

_REPLICA_RETRIES = 5


def build_pool(name: str, pool: PoolConfig, *, cluster_secret: str, timeout_s: float) -> HttpPool:
    """The client of a pool. A pool of replicas has no members until its directory discovers them.

    Raises ConfigError if the upstream's key is not set.
    """
    if isinstance(pool.engine, OpenAISettings):
        directory = Directory.fixed(name, pool.engine.urls)
        options = remote_options(name, pool, pool.engine)
    else:
        directory = Directory(name, wait_s=pool.wait_s)
        options = UpstreamOptions(
            upstream_model=pool.model,
            headers={"authorization": f"Bearer {cluster_secret}"},
            timeouts=Timeouts(connect_s=5.0, first_byte_s=timeout_s, idle_s=timeout_s),
            backoff=Backoff(retries=_REPLICA_RETRIES),
            places=pool.max_ongoing_requests,
        )
    return HttpPool(
        name, pool.model, directory, options, price=Price(**pool.price.model_dump()), capabilities=capabilities(pool)
    )


def capabilities(pool: PoolConfig) -> Capabilities:
    """The capabilities of the pool's engine, as far as the config shows them."""
    engine = pool.engine
    if isinstance(engine, TransformersSettings):
        return Capabilities(guided=True, tools=True, adapters=engine.adapters is not None, parameters=TRANSFORMERS)
    if isinstance(engine, VllmSettings):
        return Capabilities(
            guided=True,
            tools=engine.tool_parser is not None,
            adapters=engine.adapters is not None,
            max_context_tokens=engine.max_context_tokens,
            vision=reads_images(engine),
            image_urls=engine.fetches_images,
            parameters=VLLM | ({"priority"} if engine.by_priority else set()),
        )
    if isinstance(engine, EncoderSettings):
        return Capabilities(logprobs=False, embeddings=True)
    return Capabilities(
        embeddings=engine.embeddings,
        logprobs=engine.logprobs,
        guided=engine.guided,
        tools=engine.tools,
        max_context_tokens=engine.max_context_tokens,
        vision=engine.vision,
        image_urls=engine.image_urls,
        parameters=frozenset(engine.parameters),
        echoes=engine.echoes,
        unknown=True,
    )


_SEES: Final = ("vision_config", "visual", "vision_tower", "mm_vision_tower", "img_processor", "vit_config")
"""Keys of a model's config.json that only models which read images have; of some a part of it holds them."""


def reads_images(engine: VllmSettings) -> bool:
    """Whether a model that vLLM runs reads images: as configured, else as its config.json on this machine says."""
    if engine.vision is not None:
        return engine.vision
    file = Path(engine.path) / "config.json"
    if not file.is_file() and (cached := _cached_config(engine.path)) is not None:
        file = Path(cached)
    try:
        described = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):  # the engine says what is wrong with it
        return False
    if not isinstance(described, dict):
        return False
    parts = [described, *(part for part in described.values() if isinstance(part, dict))]
    return any(part.get(key) for part in parts for key in _SEES)


def _cached_config(path: str) -> str | None:
    """The config.json of a Hugging Face id in this machine's cache."""
    try:
        from huggingface_hub import try_to_load_from_cache  # an engine's extra brings it
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(path, "config.json")
    except ValueError:  # no id
        return None
    return found if isinstance(found, str) else None


def remote_options(name: str, pool: PoolConfig, engine: OpenAISettings) -> UpstreamOptions:
    """Key, timeouts and proxy of a remote pool. Raises ConfigError if the upstream's key is not set."""
    headers, proxy = {}, None
    if engine.proxy:
        auth = (
            secret(engine.proxy_auth_env, used_by=f"pools.{name}.engine.proxy_auth_env")
            if engine.proxy_auth_env
            else ""
        )
        user, _, password = auth.partition(":")
        proxy = Proxy(engine.proxy, user, password)
    if engine.api_key_env:
        key = secret(engine.api_key_env, used_by=f"pools.{name}.engine.api_key_env")
        headers["authorization"] = f"Bearer {key}"
    return UpstreamOptions(
        upstream_model=engine.upstream_model or pool.model,
        headers=headers,
        timeouts=Timeouts(engine.connect_timeout_s, engine.first_byte_timeout_s, engine.idle_timeout_s),
        backoff=Backoff(retries=engine.retries),
        identify=False,
        proxy=proxy,
    )
