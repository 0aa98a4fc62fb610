import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.autoscaling.policy import Forecast, PoolLimits, PoolSignals, ScalingSettings, places, plan

LIMITS = PoolLimits(min_replicas=1, max_replicas=20, concurrency=4, warm_up_s=10, hold_s=30, idle_s=60)
FROM_ZERO = replace(LIMITS, min_replicas=0)


def seen(rate: float, at_s: float, *, service_s: float | None = 1.0, queued: float = 0.0) -> PoolSignals:
    return PoolSignals(rate, service_s, queued, 1, at_s)


def follow(rates: list[float], limits: PoolLimits = LIMITS, start: int = 1, **options: float) -> list[int]:
    """Targets over one report a second."""
    memory, held, targets = {}, start, []
    for second, rate in enumerate(rates):
        made = plan({"p": seen(rate, second, **options)}, {"p": limits}, {"p": held}, memory, second)
        memory, held = dict(made.memory), made.targets["p"].replicas
        targets.append(held)
    return targets


def test_littles_law_with_square_root_staffing() -> None:
    # 9 calls/s of 1 s are 9 concurrent calls; with headroom 1 they get 9 + 3 places: 3 replicas of 4
    assert places(9.0, 1.0) == 12.0
    assert follow([9.0] * 5)[-1] == 3


def test_a_step_is_followed_at_once_and_a_fall_after_its_hold() -> None:
    targets = follow([2.0] * 30 + [30.0] * 30 + [2.0] * 90)
    assert targets[29] == 1
    assert targets[40] >= math.ceil(places(30.0, 1.0) / 4)  # within ten seconds of the step
    assert targets[60 + LIMITS.hold_s - 2 :][0] > 1  # type: ignore[misc]
    assert targets[-1] == 1


def test_a_rise_is_seen_ahead_of_itself() -> None:
    rising = [float(r) for r in range(40)]
    slow = replace(LIMITS, warm_up_s=0.0)
    assert follow(rising)[-1] > follow(rising, slow)[-1]


def test_what_waits_is_worked_off() -> None:
    assert follow([4.0] * 5, queued=40.0)[-1] > follow([4.0] * 5)[-1]


def test_to_zero_when_idle_and_back_with_the_first_call() -> None:
    targets = follow([4.0] * 10 + [0.0] * 200, FROM_ZERO, start=2)
    assert targets[10 + int(FROM_ZERO.idle_s) - 5] >= 1
    assert targets[-1] == 0
    back = plan({"p": seen(0.2, 500.0)}, {"p": FROM_ZERO}, {"p": 0}, {}, 500.0)
    assert back.targets["p"].replicas == 1


def test_the_first_call_ever_gets_a_replica_before_any_has_finished() -> None:
    made = plan({"p": seen(0.2, 1.0, service_s=None)}, {"p": FROM_ZERO}, {"p": 0}, {}, 1.0)
    assert made.targets["p"].replicas == 1 and "no call" in made.targets["p"].reason


def test_a_pool_that_was_never_asked_sleeps_after_its_idle_time() -> None:
    targets = follow([0.0] * 200, FROM_ZERO, service_s=None)
    assert targets[int(FROM_ZERO.idle_s) - 1] == 1
    assert targets[-1] == 0
    assert follow([0.0] * 200, LIMITS, start=3, service_s=None)[-1] == LIMITS.min_replicas


@pytest.mark.parametrize("service_s", [None, 1.0])
def test_a_first_replica_on_its_way_is_waited_for_however_long_it_takes(service_s: float | None) -> None:
    memory, held = {}, 0
    for second in range(300):
        starting = PoolSignals(0.2 if second < 5 else 0.0, service_s, 0.0, 0, second)
        made = plan({"p": starting}, {"p": FROM_ZERO}, {"p": held}, memory, second)
        memory, held = dict(made.memory), made.targets["p"].replicas
    assert held == 1


@pytest.mark.parametrize(
    ("signal", "word"),
    [
        (None, "no report"),
        (seen(50.0, 0.0), "100 s ago"),
        (seen(math.nan, 100.0), "no report"),
        (seen(math.inf, 100.0), "no report"),
        (seen(1.0, 100.0, service_s=-1.0), "no report"),
    ],
)
def test_missing_or_stale_signals_hold(signal: PoolSignals | None, word: str) -> None:
    made = plan({"p": signal}, {"p": LIMITS}, {"p": 7}, {}, 100.0)
    assert made.targets["p"].replicas == 7 and word in made.targets["p"].reason


def test_a_gap_in_the_reports_forgets_nothing() -> None:
    one = plan({"p": seen(9.0, 0.0)}, {"p": LIMITS}, {"p": 1}, {}, 0.0)
    gap = plan({"p": None}, {"p": LIMITS}, {"p": 3}, one.memory, 1.0)
    assert gap.memory == one.memory


def test_contradicting_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="contradict"):
        PoolLimits(min_replicas=3, max_replicas=2)
    with pytest.raises(ValueError, match="above 0"):
        PoolLimits(concurrency=0)


RATES = st.floats(0, 500)
BOUNDS = st.tuples(st.integers(0, 5), st.integers(0, 30)).map(
    lambda b: replace(LIMITS, min_replicas=min(b), max_replicas=max(b))
)


@given(st.lists(RATES, min_size=1, max_size=60), BOUNDS, st.integers(0, 40))
def test_targets_lie_within_the_bounds(rates: list[float], limits: PoolLimits, start: int) -> None:
    assert all(limits.min_replicas <= n <= limits.max_replicas for n in follow(rates, limits, start))


@given(st.lists(RATES, min_size=0, max_size=20), RATES, RATES, st.floats(0, 100), st.floats(0, 100))
def test_more_load_never_means_fewer_replicas(
    past: list[float], rate: float, more: float, queued: float, further: float
) -> None:
    memory, held = {}, 1
    for second, r in enumerate(past):
        made = plan({"p": seen(r, second)}, {"p": LIMITS}, {"p": held}, memory, second)
        memory, held = dict(made.memory), made.targets["p"].replicas
    now = float(len(past))

    def target(rate: float, queued: float) -> int:
        made = plan({"p": seen(rate, now, queued=queued)}, {"p": LIMITS}, {"p": held}, memory, now)
        return made.targets["p"].replicas

    assert target(rate, queued) <= target(rate + more, queued) and target(rate, queued) <= target(
        rate, queued + further
    )


@pytest.mark.slow
@given(RATES, st.floats(0.01, 20), st.integers(1, 20))
def test_constant_load_comes_to_rest_and_stays(rate: float, service_s: float, start: int) -> None:
    targets = follow([rate] * 150, start=start, service_s=service_s)
    assert len(set(targets[60:])) == 1


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
def test_poisson_arrivals_do_not_make_it_flap(seed: int) -> None:
    counts = np.random.default_rng(seed).poisson(10.0, 300).astype(float)
    smooth = np.convolve(counts, np.ones(5) / 5, "valid").tolist()  # as Gateways report: over five seconds
    targets = follow(smooth)[60:]
    assert sum(a != b for a, b in pairwise(targets)) <= 8


def test_two_pools_do_not_touch_each_other() -> None:
    both = plan({"a": seen(9.0, 0.0), "b": None}, {"a": LIMITS, "b": LIMITS}, {"a": 1, "b": 5}, {}, 0.0)
    assert (both.targets["a"].replicas, both.targets["b"].replicas) == (3, 5)


def test_an_old_report_changes_nothing() -> None:
    forecast = Forecast(4.0, 0.1, 10.0)
    assert forecast.updated(100.0, 10.0, 5.0, 20.0) is forecast
    assert ScalingSettings().stale_s > 0
