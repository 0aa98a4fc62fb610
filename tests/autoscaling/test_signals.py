"""What Gateways count, and the signals made of what everybody reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.autoscaling.signals import ARRIVALS, FINISHED, QUEUED, SERVICE, Demand, pool_signals

POOLS = ("small", "large")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def steady(demand: Demand, clock: Clock, seconds: float, **per_s: int) -> None:
    for _ in range(int(seconds * 10)):
        clock.now += 0.1
        for pool, rate in per_s.items():
            for _ in range(rate // 10):
                demand.arrived()
                demand.requested(pool)


def test_rates_are_those_of_the_last_seconds() -> None:
    clock = Clock()
    demand = Demand(clock=clock)
    steady(demand, clock, 20, small=30, large=10)
    told = demand.rates(POOLS)
    assert told["requested_per_s:small"] == pytest.approx(30, rel=0.05)
    assert told["requested_per_s:large"] == pytest.approx(10, rel=0.05)
    assert told[ARRIVALS] == pytest.approx(40, rel=0.05)
    steady(demand, clock, 6, small=10)
    told = demand.rates(POOLS)
    assert told["requested_per_s:small"] == pytest.approx(10, rel=0.05)
    assert told["requested_per_s:large"] == 0
    clock.now += 6
    assert set(demand.rates(POOLS).values()) == {0.0}


def test_the_first_call_is_no_storm() -> None:
    clock = Clock()
    demand = Demand(clock=clock)
    clock.now += 0.01
    demand.requested("large")
    assert demand.rates(POOLS)["requested_per_s:large"] == 1.0


def test_who_is_refused_undecided_counts_by_the_shares_of_the_others() -> None:
    clock = Clock()
    demand = Demand(clock=clock)
    for _ in range(30):
        demand.requested("small")
    for _ in range(10):
        demand.requested("large")
    for _ in range(40):
        demand.refused()
    clock.now += 4
    told = demand.rates(POOLS)
    assert told["requested_per_s:small"] == pytest.approx(15, rel=0.05)
    assert told["requested_per_s:large"] == pytest.approx(5, rel=0.05)


def test_tokens_are_told_by_pool() -> None:
    clock = Clock()
    demand = Demand(clock=clock)
    demand.spent("large", 100, 20)
    clock.now += 4
    told = demand.rates(POOLS)
    assert told["tokens_in_per_s:large"] == pytest.approx(25, rel=0.05)
    assert told["tokens_out_per_s:large"] == pytest.approx(5, rel=0.05)
    assert told["tokens_out_per_s:small"] == 0


def test_memory_is_bounded_if_nobody_reads() -> None:
    clock = Clock()
    demand = Demand(clock=clock)
    for _ in range(1000):
        clock.now += 1
        demand.requested("small")
    assert len(demand._counts) <= 21


def test_signals_add_up_gateways_and_replicas() -> None:
    gateways = {"g1": {"requested_per_s:large": (50.0, 3.0)}, "g2": {"requested_per_s:large": (49.0, 2.0)}}
    replicas = {
        "r1": {QUEUED: (50.0, 4.0), SERVICE: (50.0, 1.0), FINISHED: (50.0, 100.0)},
        "r2": {QUEUED: (50.0, 1.0), SERVICE: (50.0, 7.0), FINISHED: (50.0, 4.0)},
        "starting": {},
    }
    seen = pool_signals("large", gateways, replicas, 3)
    assert seen is not None
    assert (seen.requested_per_s, seen.queued, seen.replicas, seen.at_s) == (5.0, 5.0, 3, 49.0)
    assert seen.service_s == pytest.approx((20 * 1.0 + 4 * 7.0) / 24)


def test_no_replica_and_no_finished_call_are_no_reason_to_be_silent() -> None:
    gateways = {"g": {"requested_per_s:large": (1.0, 0.2)}}
    seen = pool_signals("large", gateways, {}, 0)
    assert seen is not None and seen.service_s is None and seen.queued == 0


@pytest.mark.parametrize("gateways", [{}, {"g1": {"requested_per_s:large": (1.0, 1.0)}, "g2": {}}])
def test_a_gateway_that_has_not_told_makes_no_signals(gateways: dict[str, dict[str, tuple[float, float]]]) -> None:
    assert pool_signals("large", gateways, {}, 1) is None


@given(st.lists(st.tuples(st.floats(0, 1e3), st.floats(0.01, 100)), min_size=1, max_size=6))
def test_mean_service_lies_among_the_replicas(told: list[tuple[float, float]]) -> None:
    replicas = {i: {SERVICE: (0.0, s), FINISHED: (0.0, n)} for i, (n, s) in enumerate(told)}
    seen = pool_signals("p", {"g": {"requested_per_s:p": (0.0, 1.0)}}, replicas, len(told))
    assert seen is not None
    counted = [s for n, s in told if n > 0]
    if not counted:
        assert seen.service_s is None
    else:
        assert seen.service_s is not None
        assert min(counted) * (1 - 1e-9) <= seen.service_s <= max(counted) * (1 + 1e-9)
