""""""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.cascade.fitting import thresholds as module
from serve_app.cascade.fitting.confidence import NOT_TAKEN
from serve_app.cascade.fitting.thresholds import NEVER, ChainReplay, fit_thresholds, smoothed
from serve_app.decision.target import Target


def walk(n: int, m: int, seed: int, levels: int = 6) -> ChainReplay:
    """Few distinct probabilities, some unknown."""
    rng = np.random.default_rng(seed)
    p = rng.integers(0, levels, (n, m - 1)) / levels
    p[rng.random(p.shape) < 0.1] = NOT_TAKEN
    ok = (rng.random((n, m)) < np.linspace(0.5, 0.9, m)).astype(float)
    ok[:, :-1] = np.where(rng.random((n, m - 1)) < np.maximum(p, 0), 1.0, ok[:, :-1])
    return ChainReplay(p, ok, rng.uniform(0.5, 1.5, (n, m)) * 10.0 ** np.arange(m))


def naive(w: ChainReplay, thresholds) -> tuple[float, float, float]:
    """One query after the other."""
    quality = cost = strong = 0.0
    n, m = w.ok.shape
    for i in range(n):
        for level in range(m):
            cost += w.cost_usd[i, level]
            if level == m - 1 or w.probability[i, level] >= thresholds[level]:
                quality += w.ok[i, level]
                strong += level == m - 1
                break
    return quality / n, cost / n, strong / n


def oracle(w: ChainReplay, target: Target) -> tuple[float, float] | None:
    """Best (quality, cost) over all combinations of thresholds that differ in what they do."""
    cuts = [[NEVER, *np.unique(c[c >= 0]).tolist()] for c in w.probability.T]
    found = []
    for combination in product(*cuts):
        quality, cost, share = naive(w, combination)
        within = {
            "strong-share": share <= target.value + 1e-12,
            "cost": cost <= target.value * (1 + 1e-12),
            "quality-drop": quality >= w.ok[:, -1].mean() * (1 - target.value) - 1e-12,
        }[target.name]
        if within:
            found.append((round(quality, 9), round(cost, 9)))
    if not found:
        return None
    key = (lambda f: (f[1], -f[0])) if target.name == "quality-drop" else (lambda f: (-f[0], f[1]))
    return min(found, key=key)


targets = st.one_of(
    st.floats(0, 1).map(lambda v: Target("strong-share", v)),
    st.floats(0, 30).map(lambda v: Target("cost", v)),
    st.floats(0, 0.3).map(lambda v: Target("quality-drop", v)),
)


@settings(max_examples=60)
@given(st.integers(2, 25), st.integers(1, 3), st.integers(0, 10_000), targets)
def test_the_fit_is_the_brute_force(n, m, seed, target):
    w = walk(n, m, seed)
    found, best = fit_thresholds(w, target), oracle(w, target)
    assert (found is None) == (best is None)
    if found is not None and best is not None:
        quality, cost, share = naive(w, found)
        assert (quality, cost) == pytest.approx(best, abs=1e-8)
        outcome = w.outcome(found)
        assert (outcome.quality, outcome.cost_usd, outcome.strong_share) == pytest.approx((quality, cost, share))


@pytest.mark.slow
@settings(max_examples=25)
@given(st.integers(0, 1_000), st.sampled_from(["strong-share", "cost"]))
def test_more_budget_never_gives_less_quality_and_lowers_no_single_threshold(seed, name):
    w = walk(60, 2, seed, levels=30)
    scale = 1.0 if name == "strong-share" else 12.0
    quality, asked = [], []
    for value in np.linspace(0.1, 1.0, 7):
        t = fit_thresholds(smoothed(w), Target(name, value * scale))
        if t is not None:
            quality.append(smoothed(w).outcome(t).quality)
            asked.append(w.outcome(t).strong_share)
            assert w.outcome(t).strong_share <= value + 1e-9 or name == "cost"
    assert all(a <= b + 1e-9 for a, b in pairwise(quality))
    assert all(a <= b + 1e-9 for a, b in pairwise(asked))


def test_long_chains_keep_their_budget_and_come_close_to_the_best(monkeypatch):
    w = walk(200, 4, 3)
    target = Target("cost", 150.0)
    best = fit_thresholds(w, target)
    monkeypatch.setattr(module, "_EXACT", 0)
    searched = fit_thresholds(w, target)
    assert w.outcome(searched).cost_usd <= 150.0
    assert w.outcome(searched).quality >= w.outcome(best).quality - 0.01


def test_five_levels_are_fitted_and_deterministic():
    w = walk(300, 5, 1, levels=40)
    target = Target("quality-drop", 0.02)
    first, again = fit_thresholds(w, target), fit_thresholds(w, target)
    assert first.tolist() == again.tolist()
    assert w.outcome(first).quality >= 0.98 * w.ok[:, -1].mean() - 1e-9


def test_an_unknown_signal_is_never_taken():
    w = ChainReplay(np.full((30, 1), NOT_TAKEN), np.ones((30, 2)), np.ones((30, 2)))
    found = fit_thresholds(w, Target("quality-drop", 1.0))
    assert w.outcome(found).strong_share == 1.0


def test_a_target_out_of_reach():
    assert fit_thresholds(walk(20, 2, 0), Target("cost", 1e-9)) is None


def test_a_threshold_lies_between_the_probabilities_it_parts():
    w = ChainReplay(
        np.array([[0.2], [0.8]] * 20), np.array([[0.0, 1.0], [1.0, 1.0]] * 20), np.array([[1.0, 10.0]] * 40)
    )
    assert fit_thresholds(w, Target("quality-drop", 0.0)).tolist() == [0.5]


def test_smoothing_keeps_the_means():
    w = walk(400, 3, 5)
    found = smoothed(w)
    assert found.ok[:, -1].mean() == pytest.approx(w.ok[:, -1].mean(), abs=0.02)
    assert ((found.ok >= 0) & (found.ok <= 1)).all()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="levels"):
        ChainReplay(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2)))
