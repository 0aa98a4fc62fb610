"""The price keeps the share of calls, whatever scores come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.cascade.online.budget import Budget
from serve_app.cascade.online.drift import PageHinkley, surprise


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.05, 0.9), power=st.floats(0.3, 3), seed=st.integers(0, 1000))
def test_the_share_is_kept_over_the_horizon(share, power, seed):
    rng = np.random.default_rng(seed)
    budget = Budget(share, 2000, 0.02)
    for urge in rng.random(2000) ** power:
        budget.saw(bool(urge > budget.price))
    assert budget.calls / 2000 == pytest.approx(share, abs=0.02)


def test_borrowed_calls_are_paid_back():
    rng = np.random.default_rng(0)
    budget = Budget(0.2, 2000, 0.02)
    for _ in range(200):
        budget.saw(True, steer=False)
    for urge in rng.random(1800):
        budget.saw(bool(urge > budget.price))
    assert budget.calls == pytest.approx(400, abs=10)


def test_the_share_goes_on_after_the_horizon():
    rng = np.random.default_rng(0)
    budget = Budget(0.3, 500, 0.02)
    for urge in rng.random(5000):
        budget.saw(bool(urge > budget.price))
    assert budget.calls / 5000 == pytest.approx(0.3, abs=0.01)


def test_a_spent_budget_wants_no_more():
    budget = Budget(0.1, 100, 0.02)
    for _ in range(10):
        budget.saw(True, steer=False)
    assert budget.spent
    assert budget.rate == 0.0


def test_labels_that_are_as_likely_as_was_said_raise_no_alarm():
    rng = np.random.default_rng(0)
    test = PageHinkley(0.3, 15.0)
    surprises = [surprise(p, int(rng.choice(5, p=p))) for p in rng.dirichlet(np.ones(5), size=20_000)]
    assert abs(np.mean(surprises)) < 0.05
    assert not any(test.add(s, i) for i, s in enumerate(surprises))


def test_a_label_of_less_probability_surprises_more():
    p = np.array([0.5, 0.3, 0.2])
    assert surprise(p, 0) < 0 < surprise(p, 1) < surprise(p, 2)
    assert surprise(np.array([1.0, 0.0]), 1) == 3.0


def test_a_rise_is_noticed_and_dated():
    rng = np.random.default_rng(0)
    test = PageHinkley(0.3, 15.0)
    values = np.concatenate([rng.normal(0, 1, 500), rng.normal(1, 1, 200)])
    alarmed = next(i for i, value in enumerate(values) if test.add(float(value), i))
    assert 500 < alarmed < 570
    assert 400 < test.since <= 520
    assert test.level == 0.0
