from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serve_app.errors import UnsupportedParameter, UpstreamError
from serve_app.images import Image, Session
from serve_app.routing.estimate import Estimate
from serve_app.routing.multi_pool import MultiPoolStrategy, Utility
from serve_app.routing.serving.served import ScoringFailed
from serve_app.strategy import Context, Event, Spent
from serve_app.types import Capabilities, Decision, Message, Price, Query
from tests.routing.fakes import CALL, FakePool, query

PRICES = {"tiny": Price(0.1, 1.0), "small": Price(1.0, 10.0), "large": Price(20.0, 200.0)}


class FakeEstimates:
    """The same estimate for every query: 100 tokens in, 10 out."""

    name, version = "fake", "fake-1"

    def __init__(self, quality: dict[str, float], std: float = 0.0, failure: ScoringFailed | None = None) -> None:
        self._quality, self._std, self._failure = quality, std, failure

    async def estimate(self, query: Query) -> Estimate:
        if self._failure is not None:
            raise self._failure
        row = np.array([list(self._quality.values())])
        return Estimate(tuple(self._quality), row, np.full_like(row, self._std), row * 0 + 100, row * 0 + 10)


QUALITY = {"tiny": 0.4, "small": 0.7, "large": 0.95}


def strategy(
    quality_usd: float, estimates: FakeEstimates | None = None, pools: dict[str, FakePool] | None = None
) -> MultiPoolStrategy:
    made = pools or {name: FakePool(name) for name in PRICES}
    for name, pool in made.items():
        pool.price = PRICES[name]
    return MultiPoolStrategy("route-all", estimates or FakeEstimates(QUALITY), Utility(quality_usd), made)  # type: ignore[arg-type]


async def events(made: MultiPoolStrategy, asked: Query | None = None, stream: bool = True) -> list[Event]:
    return [e async for e in made.run(asked or query(), Context(CALL, stream))]


@pytest.mark.parametrize(("quality_usd", "pool"), [(1e-5, "tiny"), (2e-3, "small"), (1.0, "large")])
async def test_the_worth_of_quality_picks_the_pool(quality_usd: float, pool: str) -> None:
    decision = (await events(strategy(quality_usd)))[0]
    assert isinstance(decision, Decision)
    assert decision.pool == pool and decision.strategy == "route-all" and decision.router == "fake"
    assert decision.score is None and decision.policy_version == f"fake-1@{quality_usd:g}usd"


async def test_a_decision_says_what_is_expected_of_every_pool() -> None:
    decision = await strategy(2e-3).decide(query(), "d1")
    assert list(decision.expected) == ["tiny", "small", "large"]
    small = decision.expected["small"]
    assert small["cost_usd"] == pytest.approx((100 * 1 + 10 * 10) / 1e6)
    assert small["utility"] == pytest.approx(0.7 - 2e-4 / 2e-3)
    assert "quality 0.700" in decision.reason and "$0.002" in decision.reason


async def test_uncertain_quality_is_marked_down() -> None:
    utility = Utility(1.0, caution=2.0)
    np.testing.assert_allclose(utility.of(np.array([0.9]), np.array([0.1]), np.array([0.05])), [0.65])


async def test_pools_that_fail_are_followed_by_the_next_best() -> None:
    pools = {name: FakePool(name) for name in PRICES}
    pools["small"].error = pools["tiny"].error = UpstreamError("died")
    told = await events(strategy(2e-3, pools=pools))
    assert isinstance(told[0], Decision) and isinstance(told[-1], Spent)
    order = [step.pool for step in told[-1].steps]
    utility = {name: told[0].expected[name]["utility"] for name in order}
    assert order == sorted(order, key=lambda name: -utility[name])
    assert told[0].pool == "large" and "fallback to m-large" in told[0].reason and told[0].cause == "fallback"


async def test_a_pool_that_cannot_honour_the_query_is_passed_over() -> None:
    pools = {name: FakePool(name, can=Capabilities(tools=name == "large")) for name in PRICES}
    asked = query(tools=({"type": "function"},))
    told = await events(strategy(1e-5, pools=pools), asked)
    assert isinstance(told[0], Decision) and told[0].pool == "large"
    assert "support tools" in told[0].reason and told[0].cause == "unable"
    for pool in pools.values():
        pool.capabilities = Capabilities()
    with pytest.raises(UnsupportedParameter, match=r"m-tiny .*m-small .*m-large"):
        await events(strategy(1e-5, pools=pools), asked)


async def test_pools_without_an_estimate_take_no_part() -> None:
    made = strategy(1e-5, FakeEstimates({"small": 0.7, "large": 0.9, "gone": 1.0}))
    decision = await made.decide(query(), "d1")
    assert decision.pool == "small" and set(decision.expected) == {"small", "large"}
    assert decision.cause == "utility"


@pytest.mark.parametrize("stream", [True, False])
async def test_without_an_estimate_large_answers(stream: bool) -> None:
    told = await events(
        strategy(1e-5, FakeEstimates(QUALITY, failure=ScoringFailed("no score in time"))), stream=stream
    )
    assert isinstance(told[0], Decision) and told[0].pool == "large"
    assert told[0].expected == {} and "in time" in told[0].reason and told[0].cause == "no_score"


def test_quality_must_be_worth_something() -> None:
    with pytest.raises(ValueError, match="quality_usd"):
        Utility(0.0)


async def test_images_are_part_of_the_cost() -> None:
    asked = Query((Message.of("user", ["what?", Image("https://x.example/a.png")]),))
    pools = {name: FakePool(name, can=Capabilities(vision=True, image_urls=True)) for name in PRICES}
    decision = await strategy(2e-3, pools=pools).decide(asked, "d1")
    assert decision.expected["small"]["cost_usd"] == pytest.approx(((100 + 765) * 1 + 10 * 10) / 1e6)


def continued(**session: Any) -> Query:
    return replace(query(), session=Session(**session))


async def test_what_a_pool_has_read_is_cheaper_there_than_to_read_it_anew() -> None:
    made = strategy(2e-3)
    made._discount = 0.5
    plain, again = await made.decide(query(), "d1"), await made.decide(continued(pool="large", shared=0.8), "d2")
    saved = 0.5 * 0.8 * 100 * 20 / 1e6
    for name in PRICES:
        less = plain.expected[name]["cost_usd"] - again.expected[name]["cost_usd"]
        assert less == pytest.approx(saved if name == "large" else 0.0)
    assert again.cause == "utility"


async def test_the_switching_cost_may_keep_a_conversation_where_it_is() -> None:
    """Between two pools of nearly equal utility, the one that has read the conversation wins."""
    quality = {"tiny": 0.0, "small": 0.7, "large": 0.7 + 2.99}
    assert (await strategy(1.25e-3, FakeEstimates(quality)).decide(query(), "d")).pool == "small"
    made = strategy(1.25e-3, FakeEstimates(quality))
    made._discount = 0.9
    assert (await made.decide(continued(pool="large", shared=0.9), "d")).pool == "large"


async def test_a_tool_loop_stays_whatever_the_utility() -> None:
    pools = {name: FakePool(name) for name in PRICES}
    made = strategy(1e-5, pools=pools)
    told = await events(made, continued(pool="large", stays=True))
    assert isinstance(told[0], Decision) and (told[0].pool, told[0].cause) == ("large", "session")
    assert told[0].reason.startswith("the conversation stays with m-large (")
    pools["large"].error = UpstreamError("died")
    told = await events(made, continued(pool="large", stays=True))
    assert isinstance(told[0], Decision) and (told[0].pool, told[0].cause) == ("tiny", "fallback")
    told = await events(made, replace(continued(pool="large", stays=True), reach=frozenset({"small"})))
    assert isinstance(told[0], Decision) and (told[0].pool, told[0].cause) == ("small", "unable")
