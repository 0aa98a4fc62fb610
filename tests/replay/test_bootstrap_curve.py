"""Figures of all thresholds in one pass, against the curve of `learning.metrics` and a plain bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.decision.threshold import Calibration
from serve_app.learning.metrics import bootstrap
from serve_app.replay.bootstrap_curve import FIGURES, spread_thresholds, threshold_figures
from serve_app.types import Price

PRICES = (Price(0.1, 0.2), Price(1.0, 3.0))


def sample(n: int, seed: int = 0, levels: int | None = None) -> Calibration:
    rng = np.random.default_rng(seed)
    scores = rng.random(n) if levels is None else rng.integers(0, levels, n) / max(levels - 1, 1)
    weak, strong = rng.random(n).round(1), rng.random(n).round(1)
    tokens = rng.integers(1, 50, (2, n, 2)).astype(np.float64)
    return Calibration(scores, weak, strong, tokens[0], tokens[1])


@given(st.integers(1, 60), st.integers(0, 5), st.integers(1, 8), st.floats(0, 1))
def test_every_figure_is_that_of_the_queries_one_by_one(n, seed, levels, threshold):
    data = sample(n, seed, levels)
    strong = data.scores >= threshold
    weak_usd, strong_usd = data.weak_tokens @ [1e-7, 2e-7], data.strong_tokens @ [1e-6, 3e-6]
    quality = np.where(strong, data.strong_quality, data.weak_quality).mean()
    cost = np.where(strong, strong_usd, weak_usd).mean()
    best = data.strong_quality.mean()
    found = threshold_figures(data, [0.5, threshold], PRICES, rounds=2)
    wanted = {
        "share": strong.mean(),
        "quality": quality,
        "drop": (best - quality) / best if best else 0.0,
        "cost_usd": cost,
        "cost_share": cost / strong_usd.mean(),
    }
    for name in FIGURES:
        assert found.values[name][1] == pytest.approx(wanted[name], abs=1e-12), name


def test_the_intervals_are_those_of_a_bootstrap_of_the_queries():
    data = sample(400)
    strong = data.scores >= 0.6
    quality = np.where(strong, data.strong_quality, data.weak_quality)
    plain = bootstrap(lambda rows: float(quality[rows].mean()), 400, rounds=4000)
    found = threshold_figures(data, [0.6], rounds=4000).at(0)["quality"]
    width = plain.high - plain.low
    assert found.value == pytest.approx(plain.value)
    assert found.low == pytest.approx(plain.low, abs=0.06 * width)
    assert found.high == pytest.approx(plain.high, abs=0.06 * width)


def test_a_threshold_compared_with_itself_changes_nothing():
    found = threshold_figures(sample(100), [0.3, 0.3, 0.7], PRICES, rounds=50)
    assert all((v.value, v.low, v.high) == (0, 0, 0) for v in found.change(0, 1).values())
    assert found.change(0, 2)["share"].high < 0


@given(st.integers(1, 300), st.integers(1, 12) | st.none(), st.integers(2, 40))
def test_spread_thresholds_reach_every_part_of_the_curve(n, levels, most):
    data = sample(n, 1, levels)
    found = spread_thresholds(data.scores, most)
    assert len(found) <= most + 1 and (np.diff(found) > 0).all() and found[0] == 0 and found[-1] <= 1
    shares = threshold_figures(data, found, rounds=1).values["share"]
    assert shares[0] == 1 and (np.diff(shares) <= 0).all()
    largest = np.unique(data.scores, return_counts=True)[1].max() / n
    assert (np.abs(np.diff(shares)) <= largest + 2 / most + 1e-9).all()


def test_without_prices_and_costs_nothing_is_said_of_cost():
    found = threshold_figures(sample(50), [0.5], rounds=20).at(0)
    assert found["cost_usd"].value == 0 and np.isnan(found["cost_share"].value)
