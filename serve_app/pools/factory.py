"""Pools from the config: all of them over HTTP, replicas of ours and remote upstreams alike."""

from serve_app.config import secret
from serve_app.config.engines import OpenAIEngine, TransformersEngine, VllmEngine
from serve_app.config.pools import PoolConfig
from serve_app.pools.directory import Directory
from serve_app.pools.http import HttpPool, Wire
from serve_app.pools.retry import Backoff
from serve_app.pools.upstream import Timeouts
from serve_app.types import Capabilities, Price

_REPLICA_RETRIES = 5


def build_pool(name: str, pool: PoolConfig, *, cluster_secret: str, timeout_s: float) -> HttpPool:
    """The caller's side of a pool. A pool of ours has no members until its directory follows somebody.

    Raises ConfigError when the upstream's key is not set.
    """
    if isinstance(pool.engine, OpenAIEngine):
        directory = Directory.fixed(name, [url.rstrip("/") for url in pool.engine.urls])
        wire = _remote_wire(name, pool, pool.engine)
    else:
        directory = Directory(name, wait_s=pool.wait_s)
        wire = Wire(
            upstream_model=pool.model,
            headers={"authorization": f"Bearer {cluster_secret}"},
            timeouts=Timeouts(connect_s=5.0, first_byte_s=timeout_s, idle_s=timeout_s),
            backoff=Backoff(retries=_REPLICA_RETRIES),
            places=pool.max_ongoing_requests,
        )
    return HttpPool(
        name,
        pool.model,
        directory,
        wire,
        price=Price(**pool.price.model_dump()),
        capabilities=capabilities(pool),
    )


def capabilities(pool: PoolConfig) -> Capabilities:
    """What the pool's engine can honour, as far as the config tells."""
    engine = pool.engine
    if isinstance(engine, TransformersEngine):
        return Capabilities()
    if isinstance(engine, VllmEngine):
        return Capabilities(
            guided=True,
            tools=engine.tool_parser is not None,
            adapters=bool(engine.adapters),
            max_context_tokens=engine.max_context_tokens,
        )
    return Capabilities(
        logprobs=engine.logprobs,
        guided=engine.guided,
        tools=engine.tools,
        max_context_tokens=engine.max_context_tokens,
    )


def _remote_wire(name: str, pool: PoolConfig, engine: OpenAIEngine) -> Wire:
    headers = {}
    if engine.api_key_env:
        key = secret(engine.api_key_env, used_by=f"pools.{name}.engine.api_key_env")
        headers["authorization"] = f"Bearer {key}"
    return Wire(
        upstream_model=engine.upstream_model or pool.model,
        headers=headers,
        timeouts=Timeouts(engine.connect_timeout_s, engine.first_byte_timeout_s, engine.idle_timeout_s),
        backoff=Backoff(retries=engine.retries),
        identify=False,
    )
