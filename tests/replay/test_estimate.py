"""The figures and their intervals: against the truth of both pools, over many logs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.replay.estimate import estimate, ratings, share_interval
from serve_app.replay.policy import RouterPolicy, move
from serve_app.types import Price
from tests.replay.logs import PRICES, VERSION, log, serve, traffic

FREE = (Price(), Price())


def replayed(n: int, before: float, after: float, *, seed: int = 0, calibration: int = 2000, **options):
    decisions = log(traffic(n, seed), before)
    held = traffic(calibration, seed + 1000) if calibration else None
    return estimate(move(decisions, RouterPolicy("fake", VERSION, after)), PRICES, held, **options)


def inside(value: float, interval) -> bool:
    return bool(interval.low <= value <= interval.high)


@given(st.floats(0, 1), st.integers(1, 60))
def test_the_same_threshold_changes_nothing(threshold, n):
    found = replayed(n, threshold, threshold, calibration=60, rounds=20)
    assert found.figures.keys() == {"share", "cost_usd", "quality"}
    for value in found.figures.values():
        assert value.served == value.predicted
        assert (value.change.value, value.change.low, value.change.high) == (0, 0, 0)
    served = serve(traffic(n), threshold)
    assert found.figures["share"].served.value == served.strong.mean()
    assert found.figures["cost_usd"].served.value == pytest.approx(served.cost_usd.mean())


@pytest.mark.parametrize("after", [0.2, 0.7])
def test_the_intervals_hold_what_a_live_run_brings_as_often_as_they_say(after):
    hits = {name: {"mean": 0, "live": 0} for name in ("share", "cost_usd", "quality")}
    rounds, ahead = 120, 300
    truth = serve(traffic(200_000, 999), after)
    means = {"share": truth.strong.mean(), "cost_usd": truth.cost_usd.mean(), "quality": truth.quality.mean()}
    for seed in range(rounds):
        found = replayed(500, 0.45, after, seed=seed, upcoming=ahead, rounds=200)
        fresh = serve(traffic(ahead, seed + 5000), after)
        live = {"share": fresh.strong.mean(), "cost_usd": fresh.cost_usd.mean(), "quality": fresh.quality.mean()}
        for name, value in found.figures.items():
            hits[name]["mean"] += inside(means[name], value.predicted)
            hits[name]["live"] += inside(live[name], value.upcoming)
    for name, counts in hits.items():
        for kind, count in counts.items():
            assert count / rounds >= 0.87, (name, kind, counts)  # 95 % less three standard errors and a little


def test_the_split_at_the_threshold_keeps_the_bins_apart():
    """Of few bins, one would mix queries on both sides of the threshold, whose pools differ most there."""
    found = replayed(20_000, 0.5, 0.52, calibration=20_000, rounds=50)
    truth = serve(traffic(20_000), 0.52).quality.mean()
    assert found.figures["quality"].predicted.value == pytest.approx(truth, abs=0.01)


def test_without_calibration_or_prices_that_is_said_and_the_share_is_there():
    decisions = log(traffic(100), 0.5)
    found = estimate(move(decisions, RouterPolicy("fake", VERSION, 0.3)), FREE, None)
    assert found.figures.keys() == {"share"}
    assert "pools.NAME.price" in found.unknown["cost_usd"] and "calibration data" in found.unknown["quality"]
    cost = estimate(move(decisions, RouterPolicy("fake", VERSION, 0.3)), PRICES, None)
    assert "the logged tokens at its price" in cost.notes[0]


def test_nothing_to_replay_is_said():
    decisions = log(traffic(5), 0.5, status="failed")
    found = estimate(move(decisions, RouterPolicy("fake", VERSION, 0.3)), PRICES, None)
    assert found.figures == {} and "no decision" in found.unknown["share"]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_decisions_have_wide_intervals_and_no_errors(n):
    found = replayed(n, 0.5, 0.1, calibration=1, rounds=50)
    share = found.figures["share"]
    assert share.predicted.high - share.predicted.low > 0.3
    assert 0 <= share.upcoming.low <= share.upcoming.high <= 1
    quality = found.figures["quality"]  # of answers that are right or wrong
    assert 0 <= quality.upcoming.low <= quality.upcoming.high <= 1


def test_ratings_are_those_of_what_was_served():
    queries = traffic(40)
    feedback = [
        [{"score": 1.0, "preferred": None, "against": None}] if s >= 0.5 else [{"score": 0.0, "preferred": None}]
        for s in queries.scores
    ]
    found = estimate(move(log(queries, 0.5, feedback=feedback), RouterPolicy("fake", VERSION, 0.0)), PRICES, None)
    assert (found.kept.mean.value, found.moved.mean.value) == (1.0, 0.0)
    assert found.kept.count + found.moved.count == 40 and found.kept.mean.low < 1


def test_comparisons_of_both_pools_speak_for_the_move_or_against_it():
    queries = traffic(40)
    said = {"score": None, "against": "large"}
    feedback = [[{**said, "preferred": "large"}], [{**said, "preferred": "small"}], [{**said, "preferred": "tie"}]]
    given_ = [feedback[i % 3] if i < 6 else [] for i in range(40)]
    found = estimate(move(log(queries, 1.0, feedback=given_), RouterPolicy("fake", VERSION, 0.0)), PRICES, None)
    assert (found.better, found.worse, found.equal) == (2, 2, 2)
    stays = estimate(move(log(queries, 1.0, feedback=given_), RouterPolicy("fake", VERSION, 1.0)), PRICES, None)
    assert (stays.better, stays.worse, stays.equal) == (0, 0, 0)


@pytest.mark.parametrize(
    ("count", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634)]
)
def test_wilsons_interval(count, n, low, high):
    found = share_interval(count, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_ratings_between_0_and_1_are_resampled():
    found = ratings(np.array([0.2, 0.8, np.nan, 0.5]))
    assert found.count == 3 and found.mean.value == pytest.approx(0.5) and found.mean.low < 0.5 < found.mean.high
    assert ratings(np.array([np.nan])) is None
