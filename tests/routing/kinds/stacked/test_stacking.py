"""Stacking: the data move the weights as far as they can tell, and calibration keeps the order."""

import numpy as np
import pytest

from serve_app.routing.kinds.stacked.stacking import Stack

PRIOR = {"good": 0.5, "poor": 0.5}


def world(n: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A probability that one expert knows, another does not, and outcomes drawn from it."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.95, n)
    return {"good": p, "poor": rng.uniform(0.05, 0.95, n)}, (rng.random(n) < p).astype(float)


def test_many_outcomes_leave_the_poor_expert_out() -> None:
    estimates, wins = world(20_000)
    stack = Stack.fit(estimates, PRIOR, wins, wins)
    assert stack.weights["good"] == pytest.approx(1.0, abs=0.1)
    assert stack.weights["poor"] < 0.05


def test_few_outcomes_leave_the_prior() -> None:
    estimates, wins = world(4)
    stack = Stack.fit(estimates, PRIOR, wins, wins)
    assert all(abs(w - 0.5) < 0.25 for w in stack.weights.values())


def test_no_weight_is_negative() -> None:
    estimates, wins = world(5_000)
    stack = Stack.fit({"good": estimates["good"], "poor": 1 - estimates["good"]}, PRIOR, wins, wins)
    assert min(stack.weights.values()) >= 0.0


def test_scores_are_calibrated_and_keep_the_order() -> None:
    estimates, wins = world(20_000)
    stack = Stack.fit(estimates, PRIOR, wins, wins)
    p = np.array([0.2, 0.5, 0.8])
    odds = [stack.log_odds({"good": x, "poor": 0.5}) for x in p]
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(odds))), p, atol=0.05)
    assert odds == sorted(odds)


def test_an_estimate_that_misleads_tells_nothing_apart() -> None:
    estimates, wins = world(5_000)
    stack = Stack.fit({"good": 1 - estimates["good"]}, {"good": 1.0}, wins, wins)
    assert stack.slope == 0.0
    assert stack.log_odds({"good": 0.9}) == pytest.approx(np.log(wins.mean() / (1 - wins.mean())), abs=0.01)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_one_class_alone_gives_a_smoothed_prior(outcome: float) -> None:
    estimates, _ = world(99)
    stack = Stack.fit(estimates, PRIOR, np.full(99, outcome), np.full(99, outcome))
    assert stack.slope == 0.0
    assert stack.bias == pytest.approx(np.log(199.0) if outcome else -np.log(199.0))
