"""Promises about the quality drop: they hold as often as they say, and say so when the data can promise nothing."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from serve_app.decision.risk import (
    SEQUENCE,
    Sample,
    betting_p_values,
    binomial_p_values,
    confident_threshold,
    conformal_threshold,
    p_values,
)
from serve_app.errors import ConfigError, DataError, InsufficientData

N = 20_000


def population(seed: int = 0, gains: float = 0.0, graded: bool = False) -> Sample:
    """Queries whose weak answer fails the more often the higher the score; `gains` of them it wins."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.5, 0.8, N)
    strong = (rng.random(N) < 0.95).astype(float)
    weak = np.where(rng.random(N) < scores, 0.0, strong)
    weak = np.where(rng.random(N) < gains, 1.0, weak)
    if graded:
        weak, strong = weak * rng.random(N), strong * (0.5 + rng.random(N) / 2)
    return Sample(scores, weak, strong)


def drop(of: Sample, threshold: float) -> float:
    routed = np.where(of.scores >= threshold, of.strong_quality, of.weak_quality).mean()
    return float((of.strong_quality.mean() - routed) / abs(of.strong_quality.mean()))


def drawn(of: Sample, n: int, rng: np.random.Generator) -> Sample:
    rows = rng.integers(0, len(of), n)
    return Sample(of.scores[rows], of.weak_quality[rows], of.strong_quality[rows], of.quality_range)


@pytest.mark.slow
@pytest.mark.parametrize(("gains", "graded"), [(0.0, False), (0.1, False), (0.05, True)])
def test_a_promise_with_confidence_is_broken_no_more_often_than_it_says(gains: float, graded: bool) -> None:
    everything = population(1, gains, graded)
    rng = np.random.default_rng(2)
    found = [confident_threshold(drawn(everything, 800, rng), 0.05, 0.1) for _ in range(200)]
    broken = sum(drop(everything, t) > 0.05 for t in found)
    assert broken <= 20
    answered = [(everything.scores < t).mean() for t in found]
    best = max((everything.scores < t).mean() for t in SEQUENCE[::10] if drop(everything, t) <= 0.05)
    assert np.mean(answered) > best / 2  # and the weak model answers a good part of what it could


def test_a_promise_in_expectation_holds_on_average() -> None:
    everything = population(3, gains=0.02)
    rng = np.random.default_rng(4)
    found = [conformal_threshold(drawn(everything, 300, rng), 0.05) for _ in range(200)]
    drops = [drop(everything, t) for t in found]
    assert np.mean(drops) <= 0.05
    assert np.mean(drops) > 0.03  # and is not bought with strong calls alone


@pytest.mark.slow
@pytest.mark.parametrize("p_values_of", [betting_p_values, binomial_p_values, p_values])
def test_p_values_at_the_border_are_small_no_more_often_than_they_should(p_values_of) -> None:  # type: ignore[no-untyped-def]
    everything = population(5)
    at = np.array([0.4])
    border = drop(everything, 0.4)
    rng = np.random.default_rng(6)
    found = np.array([p_values_of(drawn(everything, 400, rng), border, at)[0] for _ in range(400)])
    for level in (0.05, 0.1, 0.3):
        assert (found <= level).mean() <= level + 2 * np.sqrt(level * (1 - level) / 400)


def test_the_binomial_p_value_by_hand() -> None:
    sample = Sample(np.array([0.1, 0.2, 0.3, 0.9]), np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 0, 1]))
    found = binomial_p_values(sample, 0.5, np.array([0.0, 0.25, 1.0]))
    # three right answers of the strong model; below the thresholds 0, 1 and 2 of them are lost
    assert found.tolist() == pytest.approx([binom.cdf(k, 3, 0.5) for k in (0, 1, 2)])


def test_the_betting_p_value_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.decision.risk._BETS", np.array([0.5]))
    sample = Sample(np.array([0.1, 0.9]), np.array([0.0, 0.0]), np.array([1.0, 1.0]))
    found = betting_p_values(sample, 0.2, np.array([0.0, 0.5]))
    stake = 0.5 / 0.8
    safe, lost = 1 + stake * 0.2, 1 - stake * 0.8
    assert found.tolist() == pytest.approx([1 / safe**2, 1.0])
    assert safe * lost < 1


def test_what_the_weak_model_wins_counts() -> None:
    """As many queries won as lost: no drop at all, which clipped losses cannot see."""
    rng = np.random.default_rng(0)
    n = 4000
    kind = rng.integers(0, 5, n)
    strong, weak = (kind != 0).astype(float), (kind != 1).astype(float)
    sample = Sample(rng.random(n), weak, strong)
    assert confident_threshold(sample, 0.1, 0.1) == 1.0
    assert conformal_threshold(sample, 0.1) < 0.6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.05, 0.1, 0.2]))
def test_a_stricter_promise_sends_more_to_the_strong_model(seed: int, max_drop: float) -> None:
    sample = drawn(population(7), 600, np.random.default_rng(seed))
    sure, likely = (confident_threshold(sample, max_drop, delta) for delta in (0.01, 0.2))
    assert sure <= likely <= confident_threshold(sample, max_drop * 2, 0.2)
    assert conformal_threshold(sample, max_drop) <= conformal_threshold(sample, max_drop * 2)


@pytest.mark.parametrize(
    "promise", [lambda s: confident_threshold(s, 0.01, 0.1), lambda s: conformal_threshold(s, 0.01)]
)
def test_too_little_data_promise_nothing_and_say_how_much_would_do(promise) -> None:  # type: ignore[no-untyped-def]
    everything = population(8)
    rng = np.random.default_rng(9)
    with pytest.raises(InsufficientData, match="always-strong") as caught:
        promise(drawn(everything, 40, rng))
    needed = re.search(r"about ([\d,]+) like these", str(caught.value))
    assert needed is not None
    enough = int(needed[1].replace(",", ""))
    assert 40 < enough < 4000
    assert promise(drawn(everything, 2 * enough, rng)) > 0


def test_a_router_that_knows_nothing_of_hopeless_queries_is_told_so() -> None:
    n = 100
    hopeless = Sample(np.full(n, 0.5), np.zeros(n), np.ones(n))
    with pytest.raises(InsufficientData, match="better router"):
        confident_threshold(hopeless, 0.01, 0.1)


def test_a_drop_is_relative_also_for_other_ranges() -> None:
    """The same answers on a scale of ten, and as log-likelihoods below zero, where always-strong is at -1."""
    plain = drawn(population(10, graded=True), 2000, np.random.default_rng(0))
    ten = Sample(plain.scores, plain.weak_quality * 10, plain.strong_quality * 10, (0.0, 10.0))
    assert confident_threshold(ten, 0.05, 0.1) == confident_threshold(plain, 0.05, 0.1)
    rng = np.random.default_rng(1)
    scores = rng.random(4000)
    strong = np.full(4000, -1.0)
    weak = np.where(rng.random(4000) < scores**2, -3.0, -1.0)
    below = Sample(scores, weak, strong, (-4.0, 0.0))
    for found in (confident_threshold(below, 0.1, 0.1), conformal_threshold(below, 0.1)):
        assert 0.0 < drop(below, found) <= 0.1


@pytest.mark.parametrize(
    ("quality_range", "message"),
    [
        ((-np.inf, 0.0), "two bounds"),
        ((-1.0, 1.0), "sign"),
        ((0.0, 0.5), "query 1: strong_quality 1 .*0 to 0.5"),
    ],
)
def test_ranges_that_allow_no_promise_are_refused(quality_range: tuple[float, float], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        Sample(np.array([0.1, 0.9]), np.array([0.0, 0.0]), np.array([0.5, 1.0]), quality_range)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1])
def test_a_risk_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        confident_threshold(population(), 0.05, delta)


@pytest.mark.parametrize("max_drop", [-0.1, 1.0])
def test_a_drop_that_is_no_share_is_refused(max_drop: float) -> None:
    with pytest.raises(ConfigError, match="quality drop"):
        conformal_threshold(population(), max_drop)


def test_the_sequence_starts_at_always_strong_and_does_not_depend_on_data() -> None:
    assert SEQUENCE[0] == 0.0 and SEQUENCE[-1] == 1.0
    assert (np.diff(SEQUENCE) > 0).all() and np.diff(SEQUENCE).max() <= 0.001 + 1e-12
