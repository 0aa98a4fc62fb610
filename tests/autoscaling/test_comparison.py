"""What is saved at equal goodput and at equal hours, on points where it can be worked out by hand."""

import math
from dataclasses import replace

import pytest

from serve_app.autoscaling.comparison import (
    DEFAULT,
    OURS,
    RULES,
    RuleFigures,
    Scenario,
    compare,
    reference,
    runs_of,
    saving,
    warm_start,
)
from serve_app.autoscaling.simulator import PoolModel
from serve_app.autoscaling.traces import Traffic, constant, standard_traces

SMALL = Scenario(**{n: getattr(reference(), n) for n in ("models", "limits")}, shares=(0.25, 1.0), holds_s=(300.0,))


def point(hours: float, goodput: float, p95_s: float) -> RuleFigures:
    return RuleFigures(1.0, hours, 0.1, p95_s, 1.0, 0.1, 0.1, 0.1, goodput, 0.0, 0.0)


THEIRS = [point(4.0, 0.90, 2.0), point(8.0, 0.98, 0.4), point(12.0, 0.97, 0.6)]


def test_equal_goodput_and_equal_hours_lie_between_their_points() -> None:
    found = saving(point(5.0, 0.94, 0.8), THEIRS)
    assert found.hours == pytest.approx(1 - 5 / 6)  # 0.94 is halfway between 4 and 8 hours
    assert found.ttft == pytest.approx(1 - 0.8 / 1.6)  # a quarter of the way from 2.0 to 0.4
    assert not found.goodput_out_of_reach and not found.hours_out_of_reach
    assert found.reached


def test_hours_that_buy_nothing_are_not_counted_against_them() -> None:
    assert saving(point(6.0, 0.98, 0.4), THEIRS).hours == pytest.approx(1 - 6 / 8)


def test_beyond_their_best_it_is_their_best() -> None:
    found = saving(point(6.0, 0.99, 0.4), THEIRS)
    assert found.goodput_out_of_reach and found.hours == pytest.approx(1 - 6 / 8)


def test_cheaper_than_their_cheapest_is_compared_at_its_hours() -> None:
    ours, held = point(2.0, 0.9, 3.0), point(6.0, 0.95, 1.0)
    found = saving(ours, THEIRS, [held])
    assert found.hours_out_of_reach
    assert found.ttft == pytest.approx(1 - 2.0 / 2.0)  # at 4 hours: ours halfway from 3 to 1
    assert saving(ours, THEIRS).ttft == pytest.approx(1 - 3.0 / 2.0)


@pytest.mark.parametrize(
    ("ours", "reached"),
    [(point(5.0, 0.98, 0.4), True), (point(7.8, 0.98, 0.4), False), (point(3.0, 0.90, 2.2), False)],
)
def test_the_line_wants_a_quarter_and_no_loss(ours: RuleFigures, reached: bool) -> None:
    assert saving(ours, THEIRS).reached is reached


def test_means_are_taken_figure_by_figure() -> None:
    mean = RuleFigures.mean([point(2.0, 0.9, 1.0), point(4.0, 0.7, 3.0)])
    assert (mean.large_hours, mean.goodput, mean.strong_p95_s) == pytest.approx((3.0, 0.8, 2.0))


def test_every_rule_is_run_on_every_seed_and_told() -> None:
    told: list[str] = []
    traces = [Traffic(constant(4.0), constant(0.3), 4.0).draw("steady", 60.0, seed) for seed in (1, 2)]
    found = compare(traces, SMALL, told.append)
    assert len(told) == 2 * runs_of(SMALL) and len(set(told)) == runs_of(SMALL)
    assert tuple(found.rules) == RULES and tuple(found.frontier) == (2.0, 8.0) and tuple(found.holds) == (300.0,)
    assert found.runs[OURS].trace is traces[0]
    assert all(0.9 <= f.goodput <= 1.0 for f in found.rules.values())


def test_hours_are_compared_as_they_are_only_where_ours_is_as_good() -> None:
    found = compare([Traffic(constant(4.0), constant(0.3), 4.0).draw("steady", 60.0, 1)], SMALL)
    worse = replace(found, rules={**found.rules, OURS: point(1.0, 0.5, 1.0), DEFAULT: point(2.0, 0.9, 1.0)})
    assert math.isnan(worse.saved_as_it_comes)
    equal = replace(found, rules={**found.rules, OURS: point(1.0, 0.8995, 1.0), DEFAULT: point(2.0, 0.9, 1.0)})
    assert equal.saved_as_it_comes == pytest.approx(0.5)


def test_traces_begin_warm() -> None:
    trace = standard_traces(120.0, 20.0, 1)[0]
    initial = warm_start(trace, SMALL)
    assert initial["large"] >= 2 and initial["small"] >= 1
    slow = replace(SMALL, models={**SMALL.models, "large": PoolModel(8, 0.15, 0.06, warm_up_s=45.0)})
    assert warm_start(trace, slow)["large"] > initial["large"]
