"""The price keeps the share of calls, whatever scores come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.streams.online.budget import LlmBudget


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.05, 0.9), power=st.floats(0.3, 3), seed=st.integers(0, 1000))
def test_the_share_is_kept_over_the_horizon(share, power, seed):
    rng = np.random.default_rng(seed)
    budget = LlmBudget(share, 2000, 0.02)
    for urge in rng.random(2000) ** power:
        budget.observe(bool(urge > budget.price))
    assert budget.calls / 2000 == pytest.approx(share, abs=0.02)


def test_borrowed_calls_are_paid_back():
    rng = np.random.default_rng(0)
    budget = LlmBudget(0.2, 2000, 0.02)
    for _ in range(200):
        budget.observe(True, steer=False)
    for urge in rng.random(1800):
        budget.observe(bool(urge > budget.price))
    assert budget.calls == pytest.approx(400, abs=10)


def test_the_share_goes_on_after_the_horizon():
    rng = np.random.default_rng(0)
    budget = LlmBudget(0.3, 500, 0.02)
    for urge in rng.random(5000):
        budget.observe(bool(urge > budget.price))
    assert budget.calls / 5000 == pytest.approx(0.3, abs=0.01)


def test_a_spent_budget_wants_no_more():
    budget = LlmBudget(0.1, 100, 0.02)
    for _ in range(10):
        budget.observe(True, steer=False)
    assert budget.spent
    assert budget.rate == 0.0
