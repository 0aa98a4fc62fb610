"""Traces have the rates and shares that their names promise."""

import numpy as np
import pytest

from serve_app.autoscaling.traces import STANDARD, Trace, Traffic, bursts, constant, standard_traces, step, waves

TRACES = {t.name: t for t in standard_traces(3600.0, 20.0, 5)}


def rate(trace: Trace, start_s: float, end_s: float) -> float:
    return float(((trace.at_s >= start_s) & (trace.at_s < end_s)).sum() / (end_s - start_s))


def share(trace: Trace, start_s: float, end_s: float) -> float:
    return float(trace.strong[(trace.at_s >= start_s) & (trace.at_s < end_s)].mean())


def test_all_names_are_drawn_in_order_and_ascend() -> None:
    assert tuple(TRACES) == STANDARD
    assert all((np.diff(t.at_s) >= 0).all() and t.at_s[-1] < t.duration_s for t in TRACES.values())


def test_rates() -> None:
    assert rate(TRACES["poisson"], 0, 3600) == pytest.approx(20, rel=0.02)
    assert rate(TRACES["diurnal"], 0, 300) < 5 and rate(TRACES["diurnal"], 1650, 1950) == pytest.approx(40, rel=0.05)
    crowd = TRACES["flash crowd"]
    assert [rate(crowd, *span) for span in ((0, 1800), (1800, 2700), (2700, 3600))] == pytest.approx(
        [10, 60, 10], rel=0.05
    )
    assert rate(TRACES["night"], 0, 1200) == pytest.approx(20, rel=0.05) and rate(TRACES["night"], 1201, 3600) == 0


def test_shares() -> None:
    assert share(TRACES["poisson"], 0, 3600) == pytest.approx(0.3, abs=0.01)
    harder = TRACES["harder queries"]
    assert (share(harder, 0, 1800), share(harder, 1800, 3600)) == pytest.approx((0.05, 0.6), abs=0.02)
    difficulty = TRACES["waves of difficulty"]
    assert share(difficulty, 280, 320) > 0.5 and share(difficulty, 580, 620) < 0.12


def test_the_same_seed_gives_the_same_trace_and_another_another() -> None:
    one, two, three = (standard_traces(60.0, 10.0, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.at_s, two.at_s)
    np.testing.assert_array_equal(one.tokens, two.tokens)
    assert len(one) != len(three) or (one.at_s != three.at_s).any()


def test_arrivals_are_poisson_and_lengths_geometric() -> None:
    trace = Traffic(constant(50.0), constant(0.5), 80.0, mean_tokens=30.0).draw("p", 2000.0, 1)  # thinned
    gaps = np.diff(trace.at_s)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.02) and gaps.std() == pytest.approx(gaps.mean(), rel=0.02)
    assert trace.tokens.min() >= 1 and trace.tokens.mean() == pytest.approx(30, rel=0.02)


def test_steps_waves_and_bursts() -> None:
    t = np.array([0.0, 9.9, 10.0, 20.0])
    assert step(1.0, 2.0, 10.0)(t).tolist() == [1.0, 1.0, 2.0, 2.0]
    assert waves(1.0, 3.0, 20.0)(t)[[0, 2, 3]] == pytest.approx([1.0, 3.0, 1.0])
    values = bursts(1.0, 5.0, 10_000.0, 3, calm_s=90.0, burst_s=10.0)(np.arange(10_000.0))
    assert set(values) == {1.0, 5.0} and values[0] == 1.0
    assert (values == 5.0).mean() == pytest.approx(0.1, abs=0.04)


def test_what_is_no_trace_is_refused() -> None:
    with pytest.raises(ValueError, match="ascend"):
        Trace("x", np.array([2.0, 1.0]), np.zeros(2, dtype=bool), np.ones(2), 3.0)
    with pytest.raises(ValueError, match="each query"):
        Trace("x", np.array([1.0]), np.zeros(2, dtype=bool), np.ones(2), 3.0)
