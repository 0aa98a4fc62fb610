"""Strengths against a logistic regression, the closed form against Newton, and what has no maximum."""

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression

from serve_app.routing.kinds.similarity_weighted.battles import ELO, _newton, curvature, has_maximum, linked, strengths


def by_regression(a: np.ndarray, b: np.ndarray, won: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """RouteLLM's fit: a row for each battle, a tie standing once as a win for either; no penalty, no intercept."""
    rows = np.zeros((len(a), count))
    rows[np.arange(len(a)), a] = 1.0
    rows[np.arange(len(a)), b] = -1.0
    both, labels = np.vstack([rows, rows]), np.concatenate([np.ones(len(a)), np.zeros(len(a))])
    weights = np.concatenate([weight * won, weight * (1 - won)])
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=10_000)
    theta = model.fit(both, labels, sample_weight=weights).coef_[0]
    return np.asarray(theta - theta.mean())


def table(a: np.ndarray, b: np.ndarray, won: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    wins = np.zeros((count, count))
    np.add.at(wins, (a, b), weight * won)
    np.add.at(wins, (b, a), weight * (1 - won))
    return wins


@pytest.mark.parametrize("count", [2, 3, 10])
def test_strengths_are_those_of_the_regression(count: int) -> None:
    rng = np.random.default_rng(count)
    n = 800
    a = rng.integers(0, count, n)
    b = (a + rng.integers(1, count, n)) % count
    won = rng.choice([0.0, 0.5, 1.0], n, p=[0.3, 0.2, 0.5])
    weight = rng.uniform(1, 100, n)
    expected = by_regression(a, b, won, weight, count)
    assert_allclose(strengths(table(a, b, won, weight, count)), expected, atol=2e-5)


@settings(deadline=None)
@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6))
def test_two_have_a_closed_form(one: float, other: float) -> None:
    wins = np.array([[0.0, one], [other, 0.0]])
    theta = strengths(wins)
    assert_allclose(theta[0] - theta[1], log(one / other), atol=1e-9)
    assert_allclose(_newton(wins, np.zeros(2)), theta, atol=1e-4)
    # a gap in Elo points gives RouteLLM's win rate, which is the share of the weight won
    elo = ELO * theta
    assert_allclose(1 / (1 + 10 ** ((elo[1] - elo[0]) / 400)), one / (one + other), rtol=1e-9)


def test_newton_finds_it_from_far_off_and_for_lopsided_wins() -> None:
    wins = np.array([[0, 1e6, 1], [1, 0, 1e6], [1e-3, 1, 0]])
    far = _newton(wins, np.array([-30.0, 0.0, 30.0]))
    assert_allclose(far, _newton(wins, np.zeros(3)), atol=1e-4)
    chance = 1 / (1 + np.exp(far[None, :] - far[:, None]))
    assert_allclose(((wins + wins.T) * chance).sum(1), wins.sum(1), rtol=1e-4)


def test_no_maximum_is_told_and_refused() -> None:
    never_lost = np.array([[0.0, 3.0, 2.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    apart = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], dtype=float)
    circle = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=float)
    assert [has_maximum(w) for w in (never_lost, apart, circle)] == [False, False, True]
    with pytest.raises(ValueError, match="maximum-likelihood"):
        strengths(never_lost)
    assert linked(apart, 2).tolist() == [False, False, True, True]
    assert linked(never_lost, 2).all()


def test_curvature_is_the_second_derivative() -> None:
    rng = np.random.default_rng(0)
    wins = rng.uniform(1, 5, (4, 4)) * (1 - np.eye(4))
    theta = rng.normal(size=4)

    def gradient(at: np.ndarray) -> np.ndarray:
        chance = 1 / (1 + np.exp(at[None, :] - at[:, None]))
        return np.asarray(wins.sum(1) - ((wins + wins.T) * chance).sum(1))

    found = [(gradient(theta + 1e-6 * e) - gradient(theta - 1e-6 * e)) / 2e-6 for e in np.eye(4)]
    assert_allclose(-np.array(found), curvature(wins, theta), atol=1e-6)
