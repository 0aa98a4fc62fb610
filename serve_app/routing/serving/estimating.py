"""Estimates while others are served, and the strategy over all pools that a config and a router make."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from serve_app.config.tree import MultiPoolConfig
from serve_app.pools.base import Pool
from serve_app.routing.estimate import Estimate
from serve_app.routing.multi_pool import MultiPoolStrategy, Utility
from serve_app.routing.serving.scoring import Complaints
from serve_app.types import Query

NAME = "jethro-route-all"
"""What callers ask for."""

logger = logging.getLogger("jethro.routing")


class AwaitedEstimates:
    """Estimates computed elsewhere, asked for with a time limit. `models` are those it learned of, by pool."""

    def __init__(
        self, name: str, models: Mapping[str, str], ask: Callable[[Query], Awaitable[Estimate]], timeout_s: float
    ) -> None:
        self.name = name
        self.models = models
        self._ask = ask
        self._timeout_s = timeout_s
        self._complaints = Complaints(name)

    async def estimate(self, query: Query) -> Estimate:
        """See Estimates."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(query)
        except Exception as e:
            raise self._complaints.failure(e) from e


def route_all(
    config: MultiPoolConfig, estimates: AwaitedEstimates | None, version: str, pools: Mapping[str, Pool]
) -> MultiPoolStrategy | None:
    """The strategy over the pools that serve the models which the estimates are of; None, and logged, if there is
    no such estimate or `large` is not among them."""
    if estimates is None:
        logger.error("routing.multi_pool: no router %r that estimates pools: train it or name another", config.router)
        return None
    known = {name: pool for name, pool in pools.items() if estimates.models.get(name) == pool.model}
    for name in sorted(set(pools) - set(known)):
        logger.warning(
            "routing.multi_pool: %s takes no part: router %s learned of %s there, not of %s",
            name,
            config.router,
            estimates.models.get(name, "no model"),
            pools[name].model,
        )
    if "large" not in known:
        logger.error("routing.multi_pool: router %s knows nothing of the large pool's model", config.router)
        return None
    return MultiPoolStrategy("route-all", estimates, version, Utility(config.quality_usd, config.caution), known)
