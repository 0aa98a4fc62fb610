""""""

from dataclasses import replace

from serve_app.cascade.serving.skipping import RESERVE_S, LatencyEstimate
from tests.cascade.fakes import CALL


def at(now: float, least_s: float = 0.0) -> LatencyEstimate:
    return LatencyEstimate(least_s, clock=lambda: now)


def test_without_a_deadline_everything_is_allowed() -> None:
    latency = at(0.0, 5.0)
    assert latency.left_s(CALL) is None and latency.allows("large", CALL)


def test_a_call_needs_what_calls_usually_take() -> None:
    latency = at(100.0)
    for _ in range(100):
        latency.add("large", 2.0)
    assert 2.0 <= latency.usual_s("large") < 2.01
    soon, later = replace(CALL, deadline_s=101.9), replace(CALL, deadline_s=102.5)
    assert not latency.allows("large", soon) and latency.allows("large", later)
    assert latency.allows("never-asked", soon)


def test_unsteady_calls_need_more_than_their_mean() -> None:
    latency = at(0.0)
    for i in range(200):
        latency.add("large", 1.0 + i % 2)
    assert latency.usual_s("large") > 2.5


def test_the_least_is_wanted_of_all() -> None:
    latency = at(0.0, 1.0)
    assert not latency.allows("large", replace(CALL, deadline_s=1.0 + RESERVE_S / 2))
    assert latency.allows("large", replace(CALL, deadline_s=1.0 + 2 * RESERVE_S))


def test_time_that_is_over_is_negative() -> None:
    left = at(10.0).left_s(replace(CALL, deadline_s=9.0))
    assert left is not None and left < 0
