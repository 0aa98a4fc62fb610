""""""

from itertools import pairwise
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cascade.signals.calibration import (
    BinnedAcceptance,
    IsotonicCalibrator,
    LogisticCalibrator,
    fit_blended,
    fit_calibrator,
)
from serve_app.cascade.signals.specs import calibrator_of, spec_of
from serve_app.errors import ConfigError, InsufficientData
from serve_app.learning.metrics import calibration_error

floats = st.floats(-1e6, 1e6)
samples = st.integers(0, 10_000).flatmap(
    lambda seed: st.tuples(st.just(seed), st.sampled_from(["logistic", "isotonic", "blended"]))
)


def drawn(seed: int, n: int = 120):
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=n) * rng.uniform(0.1, 50), rng.integers(0, 3))
    return x, (rng.random(n) < 1 / (1 + np.exp(-rng.normal() * x))).astype(float)


@given(samples, st.lists(st.one_of(floats, st.just(inf), st.just(-inf)), min_size=2, max_size=20))
def test_calibrators_are_monotone_and_probabilities(drawn_by, values):
    seed, kind = drawn_by
    calibrator = fit_calibrator(kind, *drawn(seed))
    found = [calibrator.probability(v) for v in sorted(values)]
    assert all(0.0 <= p <= 1.0 for p in found)
    assert all(a <= b for a, b in pairwise(found))
    assert calibrator.probability(nan) == 0.0


@given(samples)
def test_they_come_back_from_their_specs(drawn_by):
    seed, kind = drawn_by
    calibrator = fit_calibrator(kind, *drawn(seed))
    assert calibrator_of(spec_of(calibrator), "x") == calibrator


@pytest.mark.parametrize("kind", ["logistic", "isotonic", "blended"])
def test_probabilities_are_right_on_average(kind):
    rng = np.random.default_rng(1)
    x = rng.normal(size=4_000)
    ok = (rng.random(4_000) < 1 / (1 + np.exp(-(2 * x - 1)))).astype(float)
    calibrator = fit_calibrator(kind, x[:2_000], ok[:2_000])
    p = np.array([calibrator.probability(v) for v in x[2_000:]])
    assert calibration_error(p, ok[2_000:]) < 0.04


def test_isotonic_follows_what_logistic_cannot():
    x = np.repeat(np.arange(4.0), 100)
    ok = np.concatenate([np.repeat([0.0, 1.0], [100 - k, k]) for k in (10, 15, 90, 92)])
    calibrator = fit_calibrator("isotonic", x, ok)
    assert [calibrator.probability(v) for v in range(4)] == pytest.approx([0.10, 0.15, 0.90, 0.92], abs=0.002)


def test_isotonic_steps_can_still_be_told_apart():
    x, ok = np.arange(40.0), np.array([0.0, 1.0] * 20)
    calibrator = fit_calibrator("isotonic", x, ok)
    found = [calibrator.probability(v) for v in x]
    assert len(set(found)) == len(found)


def test_platts_targets_keep_from_certainty():
    calibrator = fit_calibrator("logistic", np.repeat([0.0, 1.0], 20), np.repeat([0.0, 1.0], 20))
    assert 0.9 < calibrator.probability(1.0) < 0.99


def test_a_signal_that_points_the_wrong_way_says_nothing():
    x = np.linspace(0, 1, 100)
    calibrator = fit_calibrator("logistic", x, (x < 0.5).astype(float))
    assert calibrator.slope == 0 and calibrator.probability(0.0) == pytest.approx(0.5, abs=0.02)


def test_infinite_and_unknown_values_are_no_trouble():
    x, ok = drawn(3)
    x[:3] = [inf, -inf, nan]
    for kind in ("logistic", "isotonic"):
        assert 0 <= fit_calibrator(kind, x, ok).probability(-inf) <= 1


def test_too_few_and_unknown_kinds():
    with pytest.raises(InsufficientData, match=r"20 answers .*3"):
        fit_calibrator("logistic", np.array([1.0, 2.0, 3.0, nan]), np.ones(4))
    with pytest.raises(ConfigError, match="'magic'"):
        fit_calibrator("magic", np.ones(30), np.ones(30))
    with pytest.raises(ValueError, match="quality"):
        fit_calibrator("logistic", np.ones(30), np.full(30, 2.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogisticCalibrator(-1.0, 0.0),
        lambda: LogisticCalibrator(1.0, nan),
        lambda: IsotonicCalibrator((), ()),
        lambda: IsotonicCalibrator((0.0, 1.0), (0.5, 0.4)),
        lambda: IsotonicCalibrator((1.0, 1.0), (0.4, 0.5)),
        lambda: IsotonicCalibrator((0.0,), (1.5,)),
        lambda: BinnedAcceptance((0.5, 0.5), (True, False, True)),
        lambda: BinnedAcceptance((0.5,), (True,)),
    ],
)
def test_impossible_calibrators_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_specs_of_nothing_we_know():
    with pytest.raises(ConfigError, match=r"at: .*'x'.* logistic"):
        calibrator_of({"kind": "x"}, "at")
    with pytest.raises(ConfigError, match=r"at: logistic has bias, slope"):
        calibrator_of({"kind": "logistic", "slope": 1}, "at")


def test_decided():
    band = BinnedAcceptance((0.2, 0.6), (True, False, True))
    assert [band.probability(p) for p in (0.1, 0.2, 0.59, 0.6, nan)] == [1, 0, 0, 1, 0]


def test_a_blended_curve_bears_ties_at_the_top_and_does_better_than_steps_on_few_answers():
    """Confidences as models give them: half of the answers at probability 1, the rest far from certain."""

    def answers(n, rng):
        p = np.where(rng.random(n) < 0.5, 1.0, rng.uniform(0.05, 0.99, n))
        return np.log(p), (rng.random(n) < 0.15 + 0.75 * p).astype(float)

    gained = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, ok = answers(150, rng)
        other, truth = answers(1_000, rng)
        loss = {}
        for kind in ("isotonic", "blended"):
            calibrator = fit_calibrator(kind, x, ok)
            p = np.clip([calibrator.probability(v) for v in other], 1e-3, 1 - 1e-3)
            loss[kind] = -np.mean(truth * np.log(p) + (1 - truth) * np.log(1 - p))
        gained.append(loss["isotonic"] - loss["blended"])
    assert np.mean(gained) > 0.01


def test_a_blended_curve_of_a_signal_that_points_the_wrong_way_is_flat():
    x = np.arange(100.0)
    calibrator = fit_calibrator("blended", x, (x < 30).astype(float))
    assert [calibrator.probability(v) for v in (0.0, 50.0, 99.0)] == pytest.approx([0.3] * 3)


def test_a_blended_curve_of_many_answers_is_kept_small():
    x = np.random.default_rng(0).normal(size=5_000)
    assert len(fit_blended(x, (x > 0).astype(float)).values) <= 200
