""""""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import ConfigError
from serve_app.types import Price


def calibration(scores: list[float] | np.ndarray, seed: int = 0) -> Calibration:
    scores = np.asarray(scores, dtype=float)
    rng = np.random.default_rng(seed)
    n = len(scores)
    weak = (rng.random(n) < 0.5).astype(float)
    strong = (rng.random(n) < 0.9).astype(float)
    return Calibration(scores, weak, strong, np.full((n, 2), 10.0), np.full((n, 2), 10.0))


SCORES = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60)


@given(SCORES, st.floats(0, 1))
def test_share_is_never_above_the_target_and_as_near_as_ties_allow(scores: list[float], share: float) -> None:
    data = calibration(scores)
    found = Threshold.for_share(data, share)
    obtained = float(np.mean(data.scores >= found.value))
    assert obtained == pytest.approx(found.share) and obtained <= share + 1e-9
    lower = np.unique(data.scores[data.scores < found.value])
    if len(lower):
        assert float(np.mean(data.scores >= lower[-1])) > share - 1e-9


def test_share_without_ties_is_met() -> None:
    data = calibration(np.random.default_rng(0).random(1000))
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert Threshold.for_share(data, share).share == pytest.approx(share, abs=1e-9)


def test_one_score_for_all_stays_below_any_share_under_one() -> None:
    data = calibration([0.7] * 10)
    assert Threshold.for_share(data, 0.99).share == 0.0
    assert Threshold.for_share(data, 1.0).share == 1.0
    assert not (data.scores >= Threshold.for_share(data, 0.5).value).any()


@given(SCORES, st.floats(0, 0.5), st.integers(0, 50))
def test_drop_is_kept_at_the_smallest_share(scores: list[float], target: float, seed: int) -> None:
    data = calibration(scores, seed)
    found = Threshold.for_drop(data, target)
    routed = np.where(data.scores >= found.value, data.strong_quality, data.weak_quality).mean()
    strong = data.strong_quality.mean()
    assert (strong - routed) / strong <= target + 1e-9 if strong else found.share == 0.0
    cheaper = found.curve.share < found.share
    assert (found.curve.drop[cheaper] > target).all()


def test_zero_drop_may_cost_every_call() -> None:
    n = 10
    data = Calibration(np.linspace(0, 1, n), np.zeros(n), np.ones(n), np.ones((n, 2)), np.ones((n, 2)))
    assert Threshold.for_drop(data, 0.0).share == 1.0
    assert Threshold.for_drop(data, 0.2).share == pytest.approx(0.8)
    assert Threshold.for_drop(data, 1.0).share == 0.0


@given(SCORES, st.floats(0, 1))
def test_cost_is_kept_at_the_largest_share(scores: list[float], part: float) -> None:
    data = calibration(scores)
    weak, strong = Price(1.0, 1.0), Price(10.0, 10.0)
    low, high = 20e-6, 200e-6
    target = low + part * (high - low)
    found = Threshold.for_cost(data, target, weak, strong)
    assert found.cost_usd <= target * (1 + 1e-9)
    assert found.cost_usd == pytest.approx(low + found.share * (high - low))
    dearer = found.curve.share > found.share
    assert (found.curve.cost_usd[dearer] > target).all()


def test_a_cost_below_the_cheapest_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be met"):
        Threshold.for_cost(calibration([0.1, 0.9]), 1e-9, Price(1, 1), Price(10, 10))


def test_save_and_load(tmp_path: Path) -> None:
    data = calibration(np.random.default_rng(0).random(50))
    data.save(tmp_path / "c.npz")
    again = Calibration.load(tmp_path / "c.npz")
    assert (again.scores == data.scores).all()
    assert Threshold.for_share(again, 0.3).value == Threshold.for_share(data, 0.3).value


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"c\.npz: no such file"):
        Calibration.load(tmp_path / "c.npz")
    (tmp_path / "c.npz").write_bytes(b"not a zip")
    with pytest.raises(ConfigError, match=r"c\.npz: cannot be read"):
        Calibration.load(tmp_path / "c.npz")
    np.savez(tmp_path / "c.npz", format=np.array(99))
    with pytest.raises(ConfigError, match="format is 99"):
        Calibration.load(tmp_path / "c.npz")


def test_shapes_and_values_are_checked() -> None:
    one = np.ones(3)
    with pytest.raises(ValueError, match="weak_quality"):
        Calibration(one, one[:2], one, np.ones((3, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="finite"):
        Calibration(np.array([1.0, np.nan, 0.0]), one, one, np.ones((3, 2)), np.ones((3, 2)))


def test_recorded_costs_are_kept_and_used_where_no_prices_are_given(tmp_path: Path) -> None:
    plain = calibration([0.1, 0.4, 0.6, 0.9])
    with pytest.raises(ConfigError, match="costs or prices"):
        Threshold.for_cost(plain, 1.0)
    free = replace(plain, weak_cost_usd=np.zeros(4), strong_cost_usd=np.zeros(4))
    with pytest.raises(ConfigError, match="no costs"):
        Threshold.for_cost(free, 1.0)
    data = replace(plain, weak_cost_usd=np.full(4, 1e-6), strong_cost_usd=np.full(4, 5e-6))
    data.save(tmp_path / "c.npz")
    found = Threshold.for_cost(Calibration.load(tmp_path / "c.npz"), 3e-6)
    assert (found.share, found.cost_usd) == (0.5, pytest.approx(3e-6))


def test_some_of_the_queries() -> None:
    data = calibration([0.1, 0.4, 0.6, 0.9])
    some = data.take(np.array([3, 0]))
    assert len(some) == 2 and some.scores.tolist() == [0.9, 0.1]
    assert some.weak_quality.tolist() == data.weak_quality[[3, 0]].tolist()


def test_a_drop_of_negative_qualities_is_positive() -> None:
    tokens = np.ones((4, 2))
    data = Calibration(np.linspace(0.2, 0.8, 4), np.full(4, -3.0), np.full(4, -2.0), tokens, tokens)
    assert Threshold.for_drop(data, 0.25).share == 0.5
    assert Threshold.for_share(data, 0.5).drop == pytest.approx(0.25)
