from collections import Counter

import pytest

from serve_app.observability.live import (
    STEP_S,
    STEPS,
    LiveFigures,
    LiveStep,
    latency_bin,
    merged,
    merged_calibration,
    percentile,
)
from serve_app.store.base import RequestRecord
from serve_app.types import Decision, Price, Step, Usage

STRONG = Price(10.0, 20.0)


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def record(pool="small", strategy="route", steps=None, **fields):
    decision = Decision("d", strategy, pool, "m", "why")
    steps = steps if steps is not None else (Step(pool, "", Usage(100, 10), 0.0001),)
    return RequestRecord("r", "chat", 0.0, decision=decision, steps=tuple(steps), **{"latency_ms": 100.0, **fields})


def total(*records, clock=None):
    figures = LiveFigures(STRONG, clock or Clock())
    for one in records:
        figures.ended(one)
    return merged([figures.steps()], (clock or Clock()).now, 60)["totals"]


def test_an_empty_endpoint_has_no_shares_and_no_latencies():
    totals = total()
    assert totals["requests"] == 0
    assert [totals[n] for n in ("strong_share", "escalated_share", "latency_p50_ms", "ttft_p99_ms")] == [None] * 4


def test_shares_are_of_routed_requests_and_savings_of_completed_ones():
    totals = total(record(), record("large"), record("small", "direct"), record(status="cancelled"))
    assert (totals["requests"], totals["routed"], totals["strong"]) == (4, 3, 1)
    large = 100 * 10e-6 + 10 * 20e-6
    assert totals["saved_usd"] == pytest.approx(2 * (large - 0.0001))
    assert totals["cost_usd"] == pytest.approx(4 * 0.0001)


def test_what_was_rejected_is_no_part_of_the_answer_but_of_its_cost():
    steps = [Step("small", "", Usage(100, 50), 0.001, wasted=True), Step("large", "", Usage(100, 10), 0.0012)]
    totals = total(record("large", "cascade", steps))
    assert (totals["escalated"], totals["escalated_share"]) == (1, 1.0)
    assert totals["wasted_usd"] == pytest.approx(0.001)
    assert totals["saved_usd"] == pytest.approx(100 * 10e-6 + 10 * 20e-6 - 0.0022)


def test_an_ensemble_rejects_nobody():
    steps = [Step("small", "", Usage(1, 1), wasted=True), Step("large", "", Usage(1, 1))]
    assert total(record("large", "ensemble", steps))["escalated"] == 0


@pytest.mark.parametrize(
    ("status", "http_status", "outcome"),
    [("completed", 200, "completed"), ("cancelled", 499, "cancelled"), ("failed", 429, "refused"),
     ("failed", 503, "failed"), ("failed", 200, "failed")],
)  # fmt: skip
def test_outcomes(status, http_status, outcome):
    assert total(record(status=status, http_status=http_status))[outcome] == 1


def test_a_request_without_a_decision_counts_as_one():
    totals = total(RequestRecord("r", "chat", 0.0, status="failed", http_status=400))
    assert (totals["requests"], totals["refused"], totals["routed"]) == (1, 1, 0)


def test_a_question_about_a_decision_is_no_traffic():
    assert total(record(status="route_only"))["requests"] == 0


@pytest.mark.parametrize("ms", [0.01, 0.5, 1.0, 7.3, 41.0, 999.0, 60_000.0])
def test_a_latency_is_known_to_half_a_bin(ms):
    assert percentile(Counter({latency_bin(ms): 1}), 50) == pytest.approx(ms, rel=0.045)


def test_percentiles_of_known_latencies():
    bins = Counter(latency_bin(ms) for ms in range(1, 1001))
    for percent, ms in ((50, 500), (95, 950), (99, 990)):
        assert percentile(bins, percent) == pytest.approx(ms, rel=0.05)
    assert percentile({}, 50) is None
    assert percentile({latency_bin(0.0): 3}, 99) == pytest.approx(0.01, rel=0.05)


def test_a_window_ends_now_and_the_history_before_the_present_step():
    clock = Clock(10_000 * STEP_S + 2.0)
    figures = LiveFigures(STRONG, clock)
    for back, n in ((STEP_S * 20, 1), (STEP_S * 5, 2), (0, 4)):
        clock.now = 10_000 * STEP_S + 2.0 - back
        for _ in range(n):
            figures.ended(record())
    seen = {w: merged([figures.steps()], clock.now, w)["totals"]["requests"] for w in (30, 60, 300, 600)}
    assert seen == {30: 6, 60: 6, 300: 7, 600: 7}
    history = merged([figures.steps()], clock.now, 60)["history"]
    assert sum(history["requests"]) == 3
    assert history["at_s"][-1] == 9_999 * STEP_S
    assert history["requests"][-5] == 2
    assert history["requests_per_s"][-5] == 2 / STEP_S


def test_rates_are_per_second_of_the_window():
    clock = Clock(10_000 * STEP_S + 4.0)
    figures = LiveFigures(STRONG, clock)
    for _ in range(59):
        figures.ended(record())
    assert merged([figures.steps()], clock.now, 60)["totals"]["requests_per_s"] == pytest.approx(59 / 59.0)


def test_memory_is_bounded_and_old_steps_are_forgotten():
    clock = Clock()
    figures = LiveFigures(STRONG, clock)
    for _ in range(STEPS * 3):
        clock.now += STEP_S
        figures.ended(record())
    assert len(figures.steps()) == STEPS + 1
    clock.now += STEP_S * STEPS * 2
    assert figures.steps() == []


def test_a_clock_that_is_set_back_loses_nothing():
    clock = Clock(5000.0)
    figures = LiveFigures(STRONG, clock)
    figures.ended(record())
    clock.now -= 3 * STEP_S
    figures.ended(record())
    assert sum(step["requests"] for step in figures.steps()) == 2


def test_gateways_add_up_exactly():
    clock = Clock()
    one, two, both = (LiveFigures(STRONG, clock) for _ in range(3))
    for i in range(200):
        this = record("large" if i % 3 else "small", latency_ms=1.0 + i, ttft_ms=0.5 + i)
        (one if i % 2 else two).ended(this)
        both.ended(this)
    apart = merged([one.steps(), two.steps()], clock.now, 60)["totals"]
    together = merged([both.steps()], clock.now, 60)["totals"]
    for name in set(apart) - {"pools", "strategies"}:
        assert apart[name] == pytest.approx(together[name]), name
    assert (apart["pools"], apart["strategies"]) == (together["pools"], together["strategies"])


def test_merging_changes_no_gateway():
    clock = Clock()
    figures = LiveFigures(STRONG, clock)
    figures.ended(record())
    before = [dict(step) for step in figures.steps()]
    for _ in range(3):
        merged([figures.steps(), figures.steps()], clock.now, 60)
    assert figures.steps() == before


def test_without_a_large_pool_nothing_is_saved():
    figures = LiveFigures(None, Clock())
    figures.ended(record())
    assert figures.steps()[0]["saved_usd"] == 0.0


def test_calibration_is_weighted_by_ratings():
    one = {"strategy": "route", "router": "r", "pool": "small", "error": 0.1, "ratings": 1}
    found = merged_calibration([[one], [{**one, "error": 0.5, "ratings": 3}], [{**one, "pool": "large", "ratings": 0}]])
    assert found == [{**one, "error": pytest.approx(0.4), "ratings": 4}]


def test_steps_are_plain_values():
    step = LiveStep(3)
    step.add(record(), STRONG)
    assert LiveStep(**step.to_json()) == step
