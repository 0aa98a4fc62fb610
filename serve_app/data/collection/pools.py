"""The pools whose answers are collected: a config's, run in this process or behind a running endpoint."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from serve_app.config import Config
from serve_app.engines.factory import build_engine
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import ConfigError
from serve_app.pools.base import Pool
from serve_app.pools.directory import Directory
from serve_app.pools.factory import build_pool, capabilities
from serve_app.pools.http import HttpPool, UpstreamOptions
from serve_app.pools.upstream import Backoff, Timeouts
from serve_app.types import Price

_NO_RETRIES = Backoff(retries=0)
"""The collection retries by itself, and reports it."""


@asynccontextmanager
async def pools_here(config: Config, names: Sequence[str] = ()) -> AsyncIterator[dict[str, Pool]]:
    """The config's pools of these names (all, without any): engines started in this process, upstreams by HTTP.

    Raises ConfigError for an unknown name, a missing model or key; DependencyError for a missing extra.
    """
    async with AsyncExitStack() as stack:
        pools: dict[str, Pool] = {}
        for name in _chosen(config, names):
            settings = config.pools[name]
            pool: Pool
            if settings.remote:
                pool = build_pool(name, settings, cluster_secret="", timeout_s=config.limits.request_timeout_s)
            else:
                engine = build_engine(name, settings, config.adapters)
                pool = LocalPool(name, engine, Price(**settings.price.model_dump()))
                await engine.start()
            stack.push_async_callback(pool.aclose)
            pools[name] = pool
        yield pools


@asynccontextmanager
async def pools_at(
    url: str, config: Config, names: Sequence[str] = (), key: str | None = None
) -> AsyncIterator[dict[str, Pool]]:
    """The same pools behind the OpenAI-compatible endpoint at `url`, called by their model ids: no router decides.

    Prices are the config's. Raises ConfigError for an unknown name.
    """
    timeout_s = config.limits.request_timeout_s
    async with AsyncExitStack() as stack:
        pools: dict[str, Pool] = {}
        for name in _chosen(config, names):
            settings = config.pools[name]
            wire = UpstreamOptions(
                upstream_model=settings.model,
                headers={"authorization": f"Bearer {key}"} if key else {},
                timeouts=Timeouts(first_byte_s=timeout_s, idle_s=timeout_s),
                backoff=_NO_RETRIES,
                identify=False,
            )
            directory = Directory.fixed(name, [f"{url.rstrip('/').removesuffix('/v1')}/v1"])
            price = Price(**settings.price.model_dump())
            pool = HttpPool(name, settings.model, directory, wire, price=price, capabilities=capabilities(settings))
            stack.push_async_callback(pool.aclose)
            pools[name] = pool
        yield pools


def _chosen(config: Config, names: Sequence[str]) -> list[str]:
    if unknown := [name for name in names if name not in config.chat_pools]:
        raise ConfigError(f"the config has no pool {unknown[0]!r} that chats: it has {', '.join(config.chat_pools)}")
    return list(dict.fromkeys(names)) or list(config.chat_pools)
