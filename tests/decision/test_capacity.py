"""Capacity in the decision: a full strong pool moves borderline queries, within the floors that are stated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.autoscaling.signals import Demand
from serve_app.config import Config, load
from serve_app.config.strategies import CapacityConfig
from serve_app.decision.capacity import FLOOR, OverloadPolicy, utilisation
from serve_app.errors import Overloaded, RequestError
from serve_app.pools.base import PoolLoad
from serve_app.routing.strategy import RouteStrategy
from serve_app.strategy import Context
from serve_app.types import Capabilities, Decision, Sampling
from tests.routing.fakes import CALL, FakePool, FakeRouter, query, served

RULE = CapacityConfig(enabled=True, from_utilisation=0.8, to_utilisation=1.8, max_threshold_shift=0.4)
IDLE = PoolLoad(2, 0, 0, 20)

unit = st.floats(0, 1)
loads = st.builds(PoolLoad, st.integers(0, 4), st.integers(0, 100), st.integers(0, 100), st.integers(0, 64))


def full(part: float) -> PoolLoad:
    return PoolLoad(2, int(100 * part), 0, 100)


@pytest.mark.parametrize(("part", "threshold"), [(0, 0.5), (0.8, 0.5), (1.3, 0.7), (1.8, 0.9), (5, 0.9)])
def test_the_threshold_rises_in_a_straight_line(part: float, threshold: float) -> None:
    assert OverloadPolicy(RULE).threshold(0.5, IDLE, full(part)) == pytest.approx(threshold)


@given(unit, loads, loads, st.integers(0, 100))
def test_it_is_monotone_in_the_load_and_within_bounds(t: float, weak: PoolLoad, strong: PoolLoad, more: int) -> None:
    overload = OverloadPolicy(RULE)
    fuller = PoolLoad(strong.replicas, strong.in_flight + more, strong.waiting, strong.places)
    now, later = overload.threshold(t, weak, strong), overload.threshold(t, weak, fuller)
    assert t <= now <= later <= max(t, min(1.0, t + RULE.max_threshold_shift))


@given(unit, loads, loads)
def test_it_does_nothing_while_there_is_room_or_the_weak_pool_is_as_full(
    t: float, weak: PoolLoad, strong: PoolLoad
) -> None:
    if utilisation(strong) <= RULE.from_utilisation or utilisation(weak) >= utilisation(strong):
        assert OverloadPolicy(RULE).threshold(t, weak, strong) == t


def test_of_unknown_places_nothing_is_concluded() -> None:
    assert OverloadPolicy(RULE).threshold(0.5, IDLE, PoolLoad(0, 50)) == 0.5


@pytest.mark.parametrize(
    ("config", "tenant", "asked", "floor"),
    [
        (None, None, None, None),
        (0.3, None, None, 0.3),
        (0.3, 0.6, None, 0.6),
        (0.3, 0.6, "0.9", 0.9),
        (0.7, 0.1, "0", 0.7),
    ],
)
def test_the_highest_floor_counts(
    config: float | None, tenant: float | None, asked: str | None, floor: float | None
) -> None:
    overload = OverloadPolicy(
        RULE.model_copy(update={"quality_floor": config}), {} if tenant is None else {"team": tenant}
    )
    made = query(tenant="team", metadata={} if asked is None else {FLOOR: asked})
    assert overload.floor(made) == floor
    assert overload.allows(made, None) is (floor is None)
    assert overload.allows(made, 0.65) is (floor is None or floor <= 0.65)


@pytest.mark.parametrize("text", ["high", "1.5", "-0.1", "nan", ""])
def test_a_floor_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="from 0 to 1"):
        OverloadPolicy(RULE).floor(query(metadata={FLOOR: text}))


class Loaded(FakePool):
    """A pool under a load of its own."""

    def __init__(self, name: str, now: PoolLoad, can: Capabilities | None = None) -> None:
        super().__init__(name, can=can)
        self.now = now

    def load(self) -> PoolLoad:
        return self.now


class Known:
    """What is expected of both pools, whatever the score."""

    def at(self, score: float) -> dict[str, dict[str, float]]:
        return {"small": {"quality": 0.6}, "large": {"quality": 0.9}}


def route(score: float, strong: PoolLoad, can: Capabilities | None = None) -> RouteStrategy:
    both = (Loaded("small", IDLE, can), Loaded("large", strong))
    return RouteStrategy("route", served(FakeRouter(score)), 0.5, both, expected=Known(), overload=OverloadPolicy(RULE))  # type: ignore[arg-type]


async def test_a_borderline_query_goes_weak_counts_as_wanted_and_says_why() -> None:
    demand = Demand()
    decision = await anext(route(0.6, full(1.3)).run(query(), Context(CALL, True, demand)))
    assert isinstance(decision, Decision)
    assert (decision.pool, decision.preferred_pool, decision.threshold) == ("small", "large", pytest.approx(0.7))
    assert all(part in decision.reason for part in ("0.600 >= threshold 0.500", "m-large is full", "0.700"))
    told = demand.rates(("small", "large"))
    assert told["requested_per_s:large"] > 0 and told["requested_per_s:small"] == 0


@pytest.mark.parametrize(
    ("score", "strong", "metadata", "can"),
    [
        (0.6, full(0.5), {}, None),  # room
        (0.8, full(1.3), {}, None),  # not borderline
        (0.6, full(1.3), {FLOOR: "0.7"}, None),  # the caller wants more than the weak pool is expected to give
        (0.6, full(1.3), {}, Capabilities(logprobs=False)),  # the weak pool cannot honour the query
    ],
)
async def test_others_stay_strong(
    score: float, strong: PoolLoad, metadata: dict[str, str], can: Capabilities | None
) -> None:
    asked = query(metadata=metadata, sampling=Sampling(logprobs=can is not None))
    decision = await route(score, strong, can).decide(asked, "d")
    assert (decision.pool, decision.preferred_pool, decision.threshold) == ("large", None, 0.5)


@pytest.mark.parametrize(("floor", "answered"), [("0.5", True), ("0.7", False)])
async def test_a_full_strong_pool_is_replaced_only_within_the_floor(floor: str, answered: bool) -> None:
    asked = route(0.9, full(9))
    asked.strong.error = Overloaded("full", retry_after_s=1)  # type: ignore[attr-defined]
    run = asked.run(query(metadata={FLOOR: floor}), Context(CALL, True))
    if answered:
        decision = await anext(run)
        assert isinstance(decision, Decision) and decision.pool == "small" and "fallback" in decision.reason
    else:
        with pytest.raises(Overloaded):
            await anext(run)


async def test_weak_queries_are_as_ever() -> None:
    decision = await route(0.3, full(3)).decide(query(), "d")
    assert (decision.pool, decision.preferred_pool, decision.threshold) == ("small", None, 0.5)


def test_the_config_turns_it_on_with_tenants_floors() -> None:
    assert OverloadPolicy.from_config(load("lab")) is None
    tree = load("lab").model_dump()
    tree["server"]["keys"] = [{"name": "team", "env": "K", "min_quality": 0.8}, {"name": "other", "env": "L"}]
    tree["routing"]["capacity"] = {"enabled": True}
    overload = OverloadPolicy.from_config(Config.model_validate(tree))
    assert overload is not None and overload.tenants == {"team": 0.8}


def test_a_rule_that_falls_is_refused() -> None:
    with pytest.raises(ValueError, match=r"to_utilisation 0.5"):
        CapacityConfig(from_utilisation=0.8, to_utilisation=0.5)
