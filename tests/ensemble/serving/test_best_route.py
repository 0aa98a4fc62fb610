"""BEST-Route in service: which pool is called how often, what is returned, and what the decision shows."""

from typing import Any

import pytest

from serve_app.config.tree import Config
from serve_app.engines.local_pool import LocalPool
from serve_app.ensemble.serving.best_route import BestOf, BestRouteStrategy
from serve_app.errors import ConfigError, UpstreamError
from serve_app.gateway.catalogue import Catalogue
from serve_app.routing.artefact import Registered
from serve_app.routing.kinds.best_route import BestRouteRouter, SampledEstimate, SampledPool
from serve_app.routing.registry import load_router
from serve_app.routing.serving.loading import RouterSet
from serve_app.routing.serving.served import ServedRouter
from serve_app.types import Query
from tests.cascade.fakes import engine_of, pool, query, run, told
from tests.ensemble.serving.fakes import assert_nothing_is_open
from tests.ensemble.serving.test_strategy import BOTH

CHANCES = {("small", 1): 0.5, ("small", 2): 0.6, ("small", 3): 0.8, ("large", 1): 1.0}


class Fitted(BestRouteRouter):
    """Knows its estimates; or fails."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails

    def sampled_estimates(self, queries: Any) -> list[list[SampledEstimate]]:
        if self.fails:
            raise ZeroDivisionError
        return [[SampledEstimate(SampledPool(*at), p, 10.0, 5.0) for at, p in CHANCES.items()] for _ in queries]


def served(router: Fitted) -> ServedRouter:
    async def call(asked: Query, act: str) -> Any:
        assert act == "sampled"
        return router.sampled_estimates((asked,))[0]

    return ServedRouter(Registered(router, 0.5, "best_route-1", name="best"), "best", call)


def pools(**more: LocalPool) -> dict[str, LocalPool]:
    found = {"small": pool("", "small", 1.0), "large": pool("large", "large", 100.0)} | more
    if "small" not in more:
        engine_of(found["small"]).script = lambda asked, i: list(["one", "two", "two"][i])
    return found


def strategy(over: dict[str, LocalPool], threshold: float, **options: Any) -> BestRouteStrategy:
    return BestRouteStrategy("route", served(options.pop("router", Fitted())), threshold, over, BestOf(**options))


@BOTH
@pytest.mark.parametrize(
    ("threshold", "pool_name", "samples", "text"),
    [(0.0, "large", 1, "large"), (0.2, "small", 3, "two"), (0.4, "small", 2, "one"), (0.5, "small", 1, "one")],
)
async def test_the_cheapest_that_is_good_enough_is_called(
    threshold: float, pool_name: str, samples: int, text: str, stream: bool
) -> None:
    over = pools()
    decision, said, spent = told(await run(strategy(over, threshold), stream=stream))
    assert (decision.pool, said) == (pool_name, text)
    (sent,) = engine_of(over[pool_name]).queries
    assert sent.sampling.n == samples and len(spent.steps) == 1
    assert decision.score == 0.5 and decision.threshold == threshold and decision.router == "best"
    assert decision.policy_version == f"best_route-1@{threshold:g}"
    assert decision.expected["smallx3"] == {"quality": 0.8, "cost_usd": pytest.approx((10 + 3 * 5 * 10) / 1e6)}
    assert decision.expected["largex1"] == {"quality": 1.0, "cost_usd": pytest.approx((1000 + 5 * 1000) / 1e6)}
    assert_nothing_is_open(over)


async def test_the_answer_is_picked_by_a_ranker() -> None:
    async def rank(source: str, texts: list[str], models: list[str]) -> list[float]:
        return [float(text == "one") for text in texts]

    decision, said, _ = told(await run(strategy(pools(), 0.2, select="ranker", rank=rank)))
    assert said == "one" and "smallx3 is good enough with 0.800 >= 0.800" in decision.reason
    assert "ranked first of 2" in decision.reason


@BOTH
async def test_a_pool_that_fails_is_replaced_by_the_reference(stream: bool) -> None:
    over = pools(small=pool("x", "small", fail_after=0, error=UpstreamError("died")))
    for threshold in (0.2, 0.5):
        decision, said, spent = told(await run(strategy(over, threshold), stream=stream))
        assert (decision.pool, said) == ("large", "large") and "small failed: upstream_error" in decision.reason
        assert decision.cause == "fallback"
        assert [(s.pool, s.failed) for s in spent.steps] == [("small", True), ("large", False)]


@BOTH
async def test_a_reference_that_fails_is_replaced_too(stream: bool) -> None:
    over = pools(large=pool("x", "large", fail_after=0, error=UpstreamError("died")), small=pool("little", "small"))
    decision, said, _ = told(await run(strategy(over, 0.0), stream=stream))
    assert (decision.pool, said) == ("small", "little")


async def test_a_router_that_fails_leaves_the_reference() -> None:
    decision, said, _ = told(await run(strategy(pools(), 0.5, router=Fitted(fails=True))))
    assert said == "large" and "gave no estimate (ZeroDivisionError): large to be safe" in decision.reason
    assert decision.score is None and decision.expected == {}


async def test_what_a_pool_cannot_do_is_no_candidate() -> None:
    over = pools()
    decision, said, _ = told(await run(strategy(over, 1.0), query(max_tokens=4000)))
    assert said == "one"
    over = pools(
        small=pool("x", "small", capabilities=engine_of(over["small"]).capabilities.__class__(max_context_tokens=9))
    )
    decision, said, _ = told(await run(strategy(over, 1.0), query(max_tokens=10)))
    assert said == "large" and "m-small does not support max_tokens" in decision.reason


async def test_route_shows_the_choice_and_calls_no_pool() -> None:
    over = pools()
    decision = await strategy(over, 0.2).decide(query(), "d9")
    assert decision.id == "d9" and "smallx3 is good enough" in decision.reason and "calls small x3" in decision.reason
    assert not any(engine_of(p).queries for p in over.values())


def catalogue(router: ServedRouter, prices: bool = True, **best_of: Any) -> Catalogue:
    engine = {"kind": "openai", "urls": ["http://localhost/v1"]}
    tree = {name: {"model": f"m-{name}", "engine": engine} for name in ("small", "large")}
    config = Config.model_validate({"pools": tree, "routing": {"best_of": best_of}})
    over = {"small": pool("x", "small", 1.0 if prices else 0.0), "large": pool("y", "large", 2.0 if prices else 0.0)}
    return Catalogue(config, over, RouterSet({router.name: router}, router.name, 0.3))


def test_every_name_of_such_a_router_serves_its_candidates() -> None:
    names = catalogue(served(Fitted()))
    assert isinstance(names.resolve("jethro"), BestRouteStrategy)
    assert isinstance(names.resolve("router-best-0.7"), BestRouteStrategy)


def test_mistakes_name_key_and_fix() -> None:
    with pytest.raises(ConfigError, match=r"routing.best_of: no best_route router .*jethro router train best_route"):
        catalogue(ServedRouter(load_router("complexity"), "complexity"))
    with pytest.raises(ConfigError, match=r"pools.\*.price: .*set pools.NAME.price"):
        catalogue(served(Fitted()), prices=False)
    with pytest.raises(ConfigError, match=r"routing.best_of.select: .*set routing.best_of.ranker"):
        catalogue(served(Fitted()), select="ranker")
    with pytest.raises(ConfigError, match=r"routing.best_of.ranker: .*gone"):
        catalogue(served(Fitted()), ranker="gone")
    with pytest.raises(ConfigError, match=r"routing.best_of.normalizer: 'magic'"):
        catalogue(served(Fitted()), normalizer="magic")
