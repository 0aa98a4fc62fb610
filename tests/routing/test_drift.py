"""No alarm on more of the same, an alarm on what moved; both over many seeds, as an operator would live with them."""

from collections.abc import Callable

import numpy as np
import pytest

from serve_app.routing.drift import (
    MIN_QUERIES,
    WINDOW,
    Alarm,
    DriftReading,
    OutcomeDrift,
    ScoreDrift,
    ShareDrift,
    bonferroni_z,
    chi_squared_limit,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]
SEEDS = range(40)


def smooth(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.beta(2, 5, n)


def lumpy(rng: np.random.Generator, n: int) -> np.ndarray:
    """Few distinct scores, one of them half of all."""
    return rng.choice([0.1, 0.2, 0.3, 0.9], n, p=[0.5, 0.2, 0.2, 0.1])


def ever_raised(signal: ScoreDrift | ShareDrift, live: np.ndarray) -> bool:
    """Whether an alarm rises at any look, every 50 queries from the least number on."""
    alarm = Alarm("x")
    for at, score in enumerate(live, 1):
        signal.add(float(score))
        if at >= MIN_QUERIES and at % 50 == 0:
            alarm.look(signal.reading())
            if alarm.raised:
                return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("draw", [smooth, lumpy])
@pytest.mark.parametrize("calibrated", [200, 4000])
def test_more_of_the_same_raises_no_alarm(draw: Draw, calibrated: int) -> None:
    raised = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        scores, live = draw(rng, calibrated), draw(rng, 3000)
        raised += ever_raised(ScoreDrift(scores), live)
        raised += ever_raised(ShareDrift(scores, 0.3), live)
    assert raised / (2 * len(SEEDS)) <= 0.03


@pytest.mark.parametrize("draw", [smooth, lumpy])
def test_a_shift_raises_both(draw: Draw) -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        scores = draw(rng, 1000)
        moved = np.clip(draw(rng, 1000) + 0.15, 0, 1)
        assert ever_raised(ScoreDrift(scores), moved) and ever_raised(ShareDrift(scores, 0.3), moved)


def test_an_alarm_ends_when_traffic_comes_back() -> None:
    rng = np.random.default_rng(0)
    signal, alarm = ScoreDrift(smooth(rng, 2000)), Alarm("scores")
    turns = []
    for phase in (smooth(rng, 1500), np.full(1500, 0.99), smooth(rng, 3000)):
        for at, score in enumerate(phase, 1):
            signal.add(float(score))
            if at % 50 == 0 and alarm.look(signal.reading()):
                turns.append(alarm.raised)
    assert turns == [True, False]


def test_hysteresis_needs_three_looks_in_a_row_and_a_margin_to_end() -> None:
    alarm = Alarm("x")

    def looks(*statistics: float) -> list[bool]:
        return [alarm.look(DriftReading(s, 1.0, 500)) for s in statistics]

    assert looks(1.1, 1.1, 0.9, 1.1, 1.1) == [False] * 5 and not alarm.raised
    assert looks(1.1) == [True] and alarm.raised
    assert looks(0.8, 0.8, 0.8, 0.6, 0.6, 0.9) == [False] * 6 and alarm.raised
    assert looks(0.6, 0.6, 0.6) == [False, False, True] and not alarm.raised


def test_memory_is_bounded_by_the_window() -> None:
    scores = np.linspace(0, 1, 500)
    psi, share = ScoreDrift(scores, 100), ShareDrift(scores, 0.5, 100)
    for _ in range(1000):
        psi.add(1.0)
        share.add(1.0)
    assert psi.reading().n == share.reading().n == 100 and psi._counts.sum() == 100
    for score in scores[::5]:
        psi.add(float(score))
        share.add(float(score))
    assert psi.reading().statistic < 0.01 and share.reading().statistic < 0.02
    assert share.live == pytest.approx(share.expected, abs=0.02) and ShareDrift(scores, 0.5).live is None


def test_the_index_agrees_with_its_definition() -> None:
    scores = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5], 100)
    signal = ScoreDrift(scores)
    for score in np.repeat([0.1, 0.2, 0.3, 0.4, 0.5], [200, 100, 100, 50, 50]):
        signal.add(float(score))
    p, q = np.full(5, 0.2), np.array([0.4, 0.2, 0.2, 0.1, 0.1])
    assert signal.reading().statistic == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=0.02)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_one_score_for_all_is_no_drift_of_itself(value: float) -> None:
    signal = ScoreDrift(np.full(300, value))
    for _ in range(300):
        signal.add(value)
    assert signal.reading().statistic < 0.05
    assert ScoreDrift(np.full(300, value)).reading().n == ShareDrift(np.full(3, value), 0.5).reading().n == 0


def test_outcomes_as_promised_raise_nothing_and_worse_ones_do() -> None:
    raised = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        good, bad, looked = OutcomeDrift(), OutcomeDrift(), Alarm("x")
        for at in range(1, WINDOW + 1):
            expected = float(rng.uniform(0.4, 0.95))
            good.add(expected, float(rng.random() < expected))
            bad.add(expected, float(rng.random() < expected - 0.2))
            if at >= 100 and at % 10 == 0:
                looked.look(good.reading())
                raised += looked.raised
        assert bad.reading().statistic > bad.reading().limit
    assert raised == 0
    assert OutcomeDrift().reading().n == 0


@pytest.mark.parametrize("degrees", [1.0, 3.0, 9.0, 40.5])
def test_the_limit_is_exceeded_once_in_ten_thousand(degrees: float) -> None:
    from scipy.stats import chi2, norm

    exact = chi2.isf(1e-4, degrees)
    assert 0.99 * exact <= chi_squared_limit(degrees) <= 1.08 * exact
    assert norm.sf(bonferroni_z(22)) * 22 < 1.2e-4
