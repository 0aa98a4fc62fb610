"""Routing over any number of pools: the one of highest utility, quality less what it costs."""

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import numpy as np

from serve_app.arrays import Floats
from serve_app.config.strategies import MultiPoolConfig
from serve_app.numbers import usd
from serve_app.pools.attempt import lacking, refusal, why_skipped
from serve_app.pools.base import Pool
from serve_app.routing.estimate import Estimate
from serve_app.routing.serving.served import ScoringFailed, ServedRouter
from serve_app.routing.strategy import answer, held_by, stays_reason
from serve_app.strategy import Context, Event
from serve_app.types import Cause, Decision, Query

NAME = "jethro-route-all"
"""The strategy's name in requests."""
_SAFE = "large"
"""The pool that answers where there is no estimate."""

logger = logging.getLogger("jethro.routing")


@dataclass(frozen=True, slots=True)
class Utility:
    """Utility = quality - caution * std - cost / quality_usd, in units of quality.

    `quality_usd` is what one unit of quality (a right answer, where quality is 0 or 1) is worth in US dollars:
    1 / λ of the usual q - λ c (Dekoninck et al. 2025, section 3; the willingness to pay of RouterBench, Hu et al.
    2024). `caution` is the number of standard errors that an uncertain estimate is marked down by.
    """

    quality_usd: float
    caution: float = 0.0

    def __post_init__(self) -> None:
        if not self.quality_usd > 0:
            raise ValueError(f"quality_usd is {self.quality_usd}: a unit of quality must be worth something")

    def of(self, quality: Floats, std: Floats, cost_usd: Floats) -> Floats:
        """Utilities in the shape of the arguments."""
        return np.asarray(quality - self.caution * std - cost_usd / self.quality_usd, dtype=np.float64)


class MultiPoolStrategy:
    """Calls the pool of highest utility among those that support the query; the others follow by utility.

    Only pools with an estimate take part. Without an estimate `large` is called first, to be safe. `expected` of the
    Decision holds quality, its standard error, cost, and utility of every pool.
    """

    def __init__(
        self,
        name: str,
        router: ServedRouter,
        utility: Utility,
        pools: Mapping[str, Pool],
        *,
        cached_discount: float = 0.0,
    ) -> None:
        """`router` estimates pools; `pools` by name, `large` among them.

        `cached_discount`: the share of the price of prompt tokens that a pool saves on those it has just read.
        """
        self._discount = cached_discount
        self.name = name
        self._router = router
        self._version = f"{router.version}@{utility.quality_usd:g}usd"
        self._utility = utility
        self._pools = pools

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The decision alone. Raises UnsupportedParameter if no pool supports the query."""
        return (await self._choose(query, decision_id))[0]

    def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then what was spent; see the contract."""
        return answer(partial(self._choose, query, context.call.id), query, context)

    async def _choose(self, query: Query, decision_id: str) -> tuple[Decision, list[Pool]]:
        started = perf_counter()
        try:
            expected = self._expected(query, await self._router.estimate(query.scored))
            order = sorted(expected, key=lambda name: -expected[name]["utility"])
            reason = _reason(order, expected, self._utility)
            cause: Cause = "utility"
        except ScoringFailed as failure:
            expected, cause = {}, "no_score"
            order = sorted(self._pools, key=lambda name: name != _SAFE)
            reason = f"router {self._router.name} gave no estimate ({failure}): {_SAFE} to be safe"
        if (held := held_by(query, map(self._pools.__getitem__, order))) is not None:
            order = [held.name, *(name for name in order if name != held.name)]
            cause, reason = "session", stays_reason(held, reason)
        able, lack = self._able(query, order)
        if lack is not None:
            reason = f"{reason}, but {why_skipped(self._pools[order[0]].model, lack)}"
            cause = "unable"
        decision = Decision(
            id=decision_id,
            strategy=self.name,
            pool=able[0].name,
            model=able[0].model,
            reason=reason,
            router=self._router.name,
            policy_version=self._version,
            expected=expected,
            decision_ms=(perf_counter() - started) * 1e3,
            cause=cause,
        )
        return decision, able

    def _expected(self, query: Query, estimate: Estimate) -> dict[str, dict[str, float]]:
        """Quality, cost, and utility of each pool that is both estimated and served."""
        estimate = estimate.only(self._pools)
        if query.images:  # routers read text alone
            estimate = replace(estimate, prompt_tokens=estimate.prompt_tokens + query.image_tokens)
        cost = estimate.cost_usd({name: self._pools[name].price for name in estimate.pools})
        if (session := query.session) is not None and session.pool in estimate.pools:
            # what this pool has read is cheap to read again, and every other would have to read it anew
            at = estimate.pools.index(session.pool)
            read_usd = self._pools[session.pool].price.input_usd_per_million / 1e6
            cost[0, at] -= self._discount * session.shared * float(estimate.prompt_tokens[0, at]) * read_usd
        utility = self._utility.of(estimate.quality, estimate.std, cost)
        return {
            pool: {
                "quality": round(float(estimate.quality[0, j]), 4),
                "quality_std": round(float(estimate.std[0, j]), 4),
                "cost_usd": float(cost[0, j]),
                "utility": float(utility[0, j]),
            }
            for j, pool in enumerate(estimate.pools)
        }

    def _able(self, query: Query, order: Sequence[str]) -> tuple[list[Pool], str | None]:
        """Pools that support the query, in order, and what the first of all lacks."""
        lacks = {name: lacking(query, self._pools[name]) for name in order}
        able = [self._pools[name] for name in order if lacks[name] is None]
        if not able:
            raise refusal(lacks[order[0]] or "", " or ".join(self._pools[name].model for name in order))
        return able, lacks[order[0]]


def _reason(order: Sequence[str], expected: Mapping[str, Mapping[str, float]], utility: Utility) -> str:
    first = expected[order[0]]
    text = f"utility {first['utility']:.3f}: quality {first['quality']:.3f} at {usd(first['cost_usd'])}"
    if len(order) > 1:
        text += f"; next {order[1]} {expected[order[1]]['utility']:.3f}"
    return f"{text} (a unit of quality is worth {usd(utility.quality_usd)})"


def route_all(
    config: MultiPoolConfig, router: ServedRouter | None, pools: Mapping[str, Pool]
) -> MultiPoolStrategy | None:
    """The strategy over the pools that serve the models which `router` estimates.

    None, and logged, without such a router or if `large` is not among the pools.
    """
    models = router.estimated_models if router is not None else {}
    if router is None or not models:
        logger.error("routing.multi_pool: no router %r that estimates pools: train it or name another", config.router)
        return None
    known = {name: pool for name, pool in pools.items() if models.get(name) == pool.model}
    for name in sorted(set(pools) - set(known)):
        logger.warning(
            "routing.multi_pool: %s takes no part: router %s learned of %s there, not of %s",
            name,
            config.router,
            models.get(name, "no model"),
            pools[name].model,
        )
    if "large" not in known:
        logger.error("routing.multi_pool: router %s has no estimate of the large pool's model", config.router)
        return None
    return MultiPoolStrategy(
        "route-all", router, Utility(config.quality_usd, config.caution), known, cached_discount=config.cached_discount
    )
