import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.learning.metrics import (
    area,
    auc,
    average_pgr,
    bootstrap,
    calibration_error,
    call_performance_threshold,
    cost_quality_curve,
    decile_curve,
    oracle_curve,
    performance_gap_recovered,
    quality_drop,
)

SCORES = np.array([0.9, 0.1, 0.6, 0.3])
WEAK = np.array([0.0, 1.0, 0.0, 1.0])
STRONG = np.array([1.0, 1.0, 1.0, 0.0])


def test_curve_by_hand() -> None:
    curve = cost_quality_curve(SCORES, WEAK, STRONG, np.full(4, 1.0), np.full(4, 11.0))
    assert curve.share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.quality.tolist() == [0.5, 0.75, 1.0, 0.75, 0.75]
    assert curve.cost_usd.tolist() == [1, 3.5, 6, 8.5, 11]
    assert curve.pgr.tolist() == [0, 1, 2, 1, 1]
    assert (curve.weak, curve.strong) == (0.5, 0.75)
    assert curve.drop.tolist() == pytest.approx([1 / 3, 0, -1 / 3, 0, 0])
    assert area(curve) == pytest.approx(0.25 * (0.625 + 0.875 + 0.875 + 0.75))
    assert average_pgr(curve) == pytest.approx(0.25 * (0.5 + 1.5 + 1.5 + 1))
    assert call_performance_threshold(curve, 0.5) == pytest.approx(0.125)
    assert call_performance_threshold(curve, 0.0) == 0.0
    assert np.isnan(call_performance_threshold(curve, 2.5))
    assert curve.quality_at(0.125) == pytest.approx(0.625)


def test_thresholds_reach_their_points() -> None:
    curve = cost_quality_curve(SCORES, WEAK, STRONG)
    assert [float(np.mean(t <= SCORES)) for t in curve.thresholds] == curve.share.tolist()


def test_equal_scores_are_one_point() -> None:
    curve = cost_quality_curve(np.array([0.5, 0.5, 0.2, 0.5]), WEAK, STRONG)
    assert curve.share.tolist() == [0, 0.75, 1]
    assert curve.quality.tolist() == [0.5, 0.5, 0.75]


@given(st.lists(st.sampled_from([0.0, 5e-324, 0.1, 0.1 + 1e-17, 0.5, np.nextafter(0.5, 1), 0.999, 1.0]), min_size=1))
def test_every_threshold_reaches_its_share_even_between_neighbouring_floats(values: list[float]) -> None:
    scores = np.array(values)
    curve = cost_quality_curve(scores, np.zeros(len(scores)), np.ones(len(scores)))
    assert [float(np.mean(scores >= t)) for t in curve.thresholds] == curve.share.tolist()
    assert curve.quality == pytest.approx(curve.share)


def test_pgr_needs_a_gap() -> None:
    assert performance_gap_recovered(np.array([0.75]), 0.5, 1.0).tolist() == [0.5]
    with pytest.raises(ValueError, match="no gap"):
        performance_gap_recovered(np.array([0.5]), 0.5, 0.5)


def test_drop_is_relative_to_strong() -> None:
    assert quality_drop(np.array([0.9, 1.0]), 1.0).tolist() == pytest.approx([0.1, 0.0])
    assert quality_drop(np.array([0.72]), 0.9).tolist() == pytest.approx([0.2])
    assert quality_drop(np.array([0.0]), 0.0).tolist() == [0.0]


def population(seed: int, n: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return (rng.random(n) < 0.55).astype(float), (rng.random(n) < 0.94).astype(float), rng


def test_random_routing_recovers_half_the_gap_on_average() -> None:
    weak, strong, rng = population(0)
    scores = rng.random(len(weak))
    for curve in (cost_quality_curve(scores, weak, strong), decile_curve(scores, weak, strong)):
        assert average_pgr(curve) == pytest.approx(0.5, abs=0.02)
        assert call_performance_threshold(curve, 0.5) == pytest.approx(0.5, abs=0.03)
        assert call_performance_threshold(curve, 0.8) == pytest.approx(0.8, abs=0.03)


def test_decile_points_are_routellms() -> None:
    weak, strong, rng = population(1, 1000)
    scores = rng.permutation(np.linspace(0.1, 0.9, 1000))
    curve = decile_curve(scores, weak, strong)
    assert len(curve.share) == 11
    assert curve.share == pytest.approx(np.linspace(0, 1, 11), abs=1e-12)
    for threshold, share, quality in zip(curve.thresholds, curve.share, curve.quality, strict=True):
        routed = np.where(scores >= threshold, strong, weak)
        assert share == pytest.approx(np.mean(scores >= threshold)) and quality == pytest.approx(routed.mean())


def test_decile_points_of_a_constant_router() -> None:
    weak, strong, _ = population(2, 100)
    curve = decile_curve(np.full(100, 0.5), weak, strong)
    assert curve.share.tolist() == [0.0, 1.0]
    assert average_pgr(curve) == pytest.approx(0.5)


@given(st.integers(0, 1000), st.integers(1, 40))
def test_no_router_beats_the_oracle(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    weak, strong, scores = rng.random(n), rng.random(n), np.round(rng.random(n), 1)
    oracle = oracle_curve(weak, strong)
    curve = cost_quality_curve(scores, weak, strong)
    for share, quality in zip(curve.share, curve.quality, strict=True):
        assert quality <= oracle.quality_at(float(share)) + 1e-12


def test_auc_counts_pairs() -> None:
    positive = np.array([True, False, True, False])
    assert auc(np.array([0.9, 0.1, 0.5, 0.5]), positive) == pytest.approx((2 + 1.5) / 4)
    assert auc(np.array([0.1, 0.9, 0.2, 0.8]), positive) == 0.0
    assert np.isnan(auc(np.array([0.5]), np.array([True])))


def test_calibration_error() -> None:
    scores = np.array([0.1] * 10 + [0.9] * 10)
    honest = np.array([1.0] + [0.0] * 9 + [1.0] * 9 + [0.0])
    assert calibration_error(scores, honest, bins=2) == pytest.approx(0.0)
    assert calibration_error(scores, 1 - honest, bins=2) == pytest.approx(0.8)


def test_bootstrap_interval_covers_the_mean_and_narrows() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    found = bootstrap(lambda rows: float(values[rows].mean()), len(values), rounds=400)
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    again = bootstrap(lambda rows: float(values[rows].mean()), len(values), rounds=400)
    assert again == found


def test_arrays_must_match() -> None:
    with pytest.raises(ValueError, match="one score"):
        cost_quality_curve(SCORES, WEAK[:3], STRONG)
    with pytest.raises(ValueError, match="one score"):
        cost_quality_curve(SCORES[:0], WEAK[:0], STRONG[:0])
