"""The cascade at another threshold: escalations by the logged confidence, costs by the tokens of both calls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import ConfigError
from serve_app.replay.cascade import CascadePlan, cascade_costs, move_cascade
from serve_app.replay.log import DecisionColumns
from serve_app.replay.policy import RouterPolicy
from serve_app.types import Price
from tests.api.fakes import config
from tests.replay.logs import PRICES

VERSION = "chain-1a2b3c4d"


def decisions(n: int, threshold: float, *, seed: int = 0, **changes) -> tuple[DecisionColumns, np.ndarray, np.ndarray]:
    """A log, and the true costs of stopping after small and of escalating."""
    rng = np.random.default_rng(seed)
    confidence, read, small = rng.random(n), rng.integers(5, 50, n), rng.integers(1, 20, n)
    large = 2 * small
    only = (read * PRICES[0].input_usd_per_million + small * PRICES[0].output_usd_per_million) / 1e6
    both = only + (read * PRICES[1].input_usd_per_million + large * PRICES[1].output_usd_per_million) / 1e6
    records = []
    for i in range(n):
        up = bool(confidence[i] < threshold)
        record = {
            "decision_id": f"c{i}",
            "created_s": float(i),
            "strategy": "cascade",
            "pool": "large" if up else "small",
            "status": "completed",
            "endpoint": "chat",
            "router": None,
            "policy_version": VERSION,
            "privacy": "any",
            "score": float(confidence[i]),
            "threshold": threshold,
            "cost_usd": float(both[i] if up else only[i]),
            "prompt_tokens": int(read[i] * (2 if up else 1)),
            "completion_tokens": int(small[i] + large[i] if up else small[i]),
        }
        records.append(record | changes)
    return DecisionColumns.of_records(records), only, both


@given(st.floats(0, 1), st.floats(0, 1))
def test_shares_and_costs_are_those_of_a_cascade_at_that_threshold(before, after):
    log, only, both = decisions(80, before)
    moves = move_cascade(log, RouterPolicy("cascade", VERSION, after))
    escalated = log.score < after
    assert (moves.predicted == escalated).all()
    cost, _ = cascade_costs(moves, PRICES)
    if moves.served.any() or not (moves.moved & ~moves.served).any():  # else nothing says how long large writes
        assert cost == pytest.approx(np.where(escalated, both, only), rel=1e-9)


@given(st.floats(0, 1))
def test_the_threshold_in_force_is_what_was_served(threshold):
    log, *_ = decisions(40, threshold)
    moves = move_cascade(log, RouterPolicy("cascade", VERSION, threshold))
    assert not moves.moved.any() and (cascade_costs(moves, PRICES)[0] == log.cost_usd).all()


def test_what_was_forced_stays_and_what_was_not_checked_is_left_out():
    log, *_ = decisions(30, 0.5, pool="large")
    moves = move_cascade(log, RouterPolicy("cascade", VERSION, 0.0))
    assert moves.forced.sum() == (log.score >= 0.5).sum() and moves.predicted[moves.forced].all()
    unchecked, *_ = decisions(5, 0.5, score=None)
    (reason,) = move_cascade(unchecked, RouterPolicy("cascade", VERSION, 0.1)).left_out
    assert "was not checked" in reason


def test_equal_prices_do_not_divide_by_zero():
    log, *_ = decisions(30, 0.5)
    moves = move_cascade(log, RouterPolicy("cascade", VERSION, 0.9))
    assert np.isfinite(cascade_costs(moves, (Price(1, 1), Price(1, 1)))[0]).all()


def test_a_plan_is_of_the_latest_version_and_makes_no_promise_of_quality():
    log, *_ = decisions(60, 0.5)
    plan = CascadePlan.of(config(), log, 0.9)
    assert (plan.policy.version, plan.in_force) == (VERSION, 0.5)
    found = plan.replay(log, upcoming=10)
    assert found.figures.keys() == {"share", "cost_usd"} and "how sure" in found.unknown["quality"]
    assert found.figures["share"].predicted.value == pytest.approx(np.mean(log.score < 0.9))


@pytest.mark.parametrize("threshold", [None, 1.5, float("nan")])
def test_a_plan_needs_a_threshold(threshold):
    with pytest.raises(ConfigError, match="--threshold"):
        CascadePlan.of(config(), decisions(3, 0.5)[0], threshold)


def test_without_a_decision_of_the_cascade_that_is_said():
    log, *_ = decisions(3, 0.5, strategy="route")
    with pytest.raises(ConfigError, match="jethro-cascade"):
        CascadePlan.of(config(), log, 0.5)
