""""""

from dataclasses import replace

import numpy as np
import pytest

from serve_app.cascade.fitting.fit import best_of, first_unless_sure, surely_above
from serve_app.cascade.fitting.held_out import HeldOut
from serve_app.decision.target import Target
from tests.cascade.recordings import made_up

COST, DROP = Target.parse("cost=0.001"), Target.parse("quality-drop=0.1")


def held_out(right: int, cost: float = 1.0, n: int = 100, without: int = 0) -> HeldOut:
    """The first `right` of n queries are right, but for the first `without`."""
    quality = ((np.arange(n) < right) & (np.arange(n) >= without)).astype(float)
    return HeldOut(("small", "large"), np.zeros(n, dtype=np.int64), quality, np.full(n, cost))


@pytest.fixture(scope="module")
def recorded():
    """100 queries; the best model is right on 90 of them."""
    made = made_up(100)
    return replace(made, ok=np.column_stack([np.arange(100) < 50, np.arange(100) < 90]).astype(float))


def test_one_more_of_three_that_differ_is_luck_and_ten_of_ten_are_not():
    assert not surely_above(np.array([1.0, 1.0, -1.0, *[0.0] * 97]))
    assert surely_above((np.arange(100) < 10).astype(float))
    assert not surely_above(np.zeros(100))
    assert not surely_above(-(np.arange(100) < 10).astype(float))


@pytest.mark.parametrize(
    ("right", "wrong", "chosen"),
    [(80, 0, "first"), (85, 4, "first"), (75, 0, "first"), (90, 0, "other"), (95, 5, "other")],
)
def test_the_first_judge_stays_unless_another_is_surely_better(recorded, right, wrong, chosen):
    other = held_out(right, without=wrong)
    found = first_unless_sure([(held_out(80), "first"), (other, "other")], COST, recorded)
    assert found[1] == chosen


def test_for_a_quality_drop_what_is_surely_cheaper_within_it_is_taken(recorded):
    good, dear, bad = held_out(85, 2.0), held_out(90, 3.0), held_out(60, 1.0)
    pairs = [(dear, "dear"), (good, "good"), (bad, "bad")]
    assert first_unless_sure(pairs, DROP, recorded)[1] == "good"
    luck = replace(good, cost_usd=3.0 + np.array([1.0, -1.0, -1.0, *[0.0] * 97]))
    assert first_unless_sure([(dear, "dear"), (luck, "luck")], DROP, recorded)[1] == "dear"
    assert first_unless_sure([(bad, "bad"), (held_out(70), "better")], DROP, recorded)[1] == "better"


def test_of_chains_the_best_is_taken_and_of_equals_the_cheaper(recorded):
    chains = [(held_out(80, 2.0), "a"), (held_out(80, 1.0), "b"), (held_out(79, 0.1), "c")]
    assert best_of(chains, COST, recorded)[1] == "b"
    assert (
        best_of(
            [(held_out(85, 2.0), "dear"), (held_out(82, 1.0), "cheap"), (held_out(50, 0.1), "bad")], DROP, recorded
        )[1]
        == "cheap"
    )
