"""Figures under weights: the same as the plain metrics on data that hold each query as often as its weight says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.learning.metrics import (
    Interval,
    auc,
    average_pgr,
    calibration_error,
    call_performance_threshold,
    cost_quality_curve,
    quality_drop,
)
from serve_app.training.evaluation import ScoredQueries, WeightedFigures, intervals, resampled


def made(n: int, seed: int, ties: bool = False) -> ScoredQueries:
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    if ties:
        scores = np.round(scores * 4) / 4
    weak, strong = (rng.random(n) < 0.5).astype(float), (rng.random(n) < 0.8).astype(float)
    return ScoredQueries(
        scores, (strong > weak).astype(float), weak, strong, rng.random(n) * 1e-6, rng.random(n) * 1e-5
    )


def copied(scored: ScoredQueries, times: np.ndarray) -> ScoredQueries:
    return ScoredQueries(*(np.repeat(getattr(scored, name), times) for name in ScoredQueries.__slots__))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.booleans())
def test_figures_are_those_of_the_plain_metrics(n: int, seed: int, ties: bool) -> None:
    scored = made(n, seed, ties)
    found = WeightedFigures(scored, [0.5]).of_data()
    curve = cost_quality_curve(scored.scores, scored.weak_quality, scored.strong_quality)
    chosen = scored.scores >= 0.5
    routed = np.where(chosen, scored.strong_quality, scored.weak_quality)
    assert found["share@0.5"] == pytest.approx(chosen.mean())
    assert found["quality@0.5"] == pytest.approx(routed.mean())
    assert found["drop@0.5"] == pytest.approx(float(quality_drop(routed.mean(), curve.strong)))
    assert found["cost_usd@0.5"] == pytest.approx(np.where(chosen, scored.strong_cost_usd, scored.weak_cost_usd).mean())
    assert found["drop_at_40%"] == pytest.approx(float(quality_drop(np.array(curve.quality_at(0.6)), curve.strong)))
    assert found["auc"] == pytest.approx(auc(scored.scores, scored.win_rate > 0), nan_ok=True)
    if curve.weak != curve.strong:
        assert found["apgr"] == pytest.approx(average_pgr(curve))
        assert found["cpt50"] == pytest.approx(call_performance_threshold(curve, 0.5), nan_ok=True)
        assert found["cpt80"] == pytest.approx(call_performance_threshold(curve, 0.8), nan_ok=True)
        assert found["pgr@0.5"] == pytest.approx((routed.mean() - curve.weak) / (curve.strong - curve.weak))
    else:
        assert np.isnan(found["apgr"]) and np.isnan(found["pgr@0.5"])


def test_calibration_error_is_that_of_the_plain_metric() -> None:
    scored = made(500, 3)
    assert WeightedFigures(scored).of_data()["calibration_error"] == pytest.approx(
        calibration_error(scored.scores, scored.win_rate)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10_000), st.booleans())
def test_a_weight_stands_for_copies(n: int, seed: int, ties: bool) -> None:
    scored = made(n, seed, ties)
    times = np.random.default_rng(seed + 1).integers(0, 4, n)
    times[0] += 1
    weighted = WeightedFigures(scored, [0.3]).under(times[None].astype(float))
    plain = WeightedFigures(copied(scored, times), [0.3]).of_data()
    for name in set(plain) - {"calibration_error"}:  # its bins are those of the data, not of the resample
        assert weighted[name][0] == pytest.approx(plain[name], nan_ok=True), name


def test_soft_outcomes_count_in_part() -> None:
    """Two queries, each won half of the time: every pair of draws is a tie or as likely one way as the other."""
    half = np.array([0.5, 0.5])
    one = np.ones(2)
    assert WeightedFigures(ScoredQueries(np.array([0.9, 0.1]), half, one * 0, one, one, one)).of_data()[
        "auc"
    ] == pytest.approx(0.5)
    sure = ScoredQueries(np.array([0.9, 0.1]), np.array([0.9, 0.1]), one * 0, one, one, one)
    # wins (0.9, 0.1), others (0.1, 0.9): 0.9 * 0.9 above, 0.9 * 0.1 + 0.1 * 0.9 tied
    assert WeightedFigures(sure).of_data()["auc"] == pytest.approx(0.81 + 0.09)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(100):
        scored = made(300, seed)
        figures = WeightedFigures(scored, [0.5])
        found = intervals(figures.of_data(), resampled(figures, 300, rounds=200, seed=seed))["quality@0.5"]
        inside += found.low <= 0.65 <= found.high  # half of the queries go either way: (0.5 + 0.8) / 2
    assert 88 <= inside <= 100


def test_the_same_seed_draws_the_same_resamples_for_every_router() -> None:
    first, second = made(50, 1), made(50, 1)
    flipped = ScoredQueries(1 - second.scores, *(getattr(second, name) for name in ScoredQueries.__slots__[1:]))
    one, other = (resampled(WeightedFigures(s), 50, 20, seed=7) for s in (first, flipped))
    assert one["strong_quality"].tolist() == other["strong_quality"].tolist()
    assert one["auc"].tolist() == pytest.approx((1 - other["auc"]).tolist())


def test_many_rounds_in_pieces_are_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = WeightedFigures(made(20, 2))
    whole = resampled(figures, 20, 30)["strong_quality"]
    monkeypatch.setattr("serve_app.training.evaluation._CELLS", 60)
    assert resampled(figures, 20, 30)["strong_quality"].tolist() == whole.tolist()


def test_a_figure_that_does_not_exist_has_no_interval() -> None:
    none = intervals({"auc": float("nan")}, {"auc": np.full(3, np.nan)})["auc"]
    assert np.isnan([none.value, none.low, none.high]).all()
    some = intervals({"x": 2.0}, {"x": np.array([1.0, np.nan, 3.0])})["x"]
    assert some == Interval(2.0, pytest.approx(1.05), pytest.approx(2.95))
