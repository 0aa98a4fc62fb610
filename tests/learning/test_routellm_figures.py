"""PGR, APGR and CPT are RouteLLM's (arXiv 2406.18665, section 2.3, and its evaluation), on cases computed by hand.

Ten distinct scores have their deciles between two of them, so that the thresholds reach the shares 0, 0.1, ..., 1. In
every case the rows stand by falling score, and quality at share i/10 is the mean of strong on the first i, weak on the
others.
"""

import gzip
import json
import os
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.learning.metrics import (
    average_pgr,
    call_performance_threshold,
    cost_quality_curve,
    decile_curve,
    oracle_curve,
    performance_gap_recovered,
)

TEN = [0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15, 0.05]
CASES = {
    # PGR .0 .2 .4 .6 .8 1 1 1 1 1 1; area .1 (.1 + .3 + .5 + .7 + .9 + 5 * 1) = .75; 0.5 is half-way from .2 to .3
    "gains first": (TEN, [0] * 5 + [1] * 5, [1] * 10, 0.75, 0.25, 0.4),
    # the mirror image: PGR 0 0 0 0 0 0 .2 .4 .6 .8 1; area .25; 0.5 is half-way from .7 to .8
    "gains last": (TEN, [1] * 5 + [0] * 5, [1] * 10, 0.25, 0.75, 0.9),
    # PGR is the share itself
    "equal gains": (TEN, [0] * 10, [1] * 10, 0.5, 0.5, 0.8),
    # weak .6, strong .7; quality .6 .7 .8 .9 .9 .9 .9 .9 .8 .7 .7, so PGR 0 1 2 3 3 3 3 3 2 1 1;
    # area .1 (.5 + 1.5 + 2.5 + 4 * 3 + 2.5 + 1.5 + 1) = 2.15; the first step rises 1 in .1
    "better than strong": (TEN, [0, 0, 0, 1, 1, 1, 1, 1, 1, 0], [1] * 7 + [0] * 3, 2.15, 0.05, 0.08),
    # weak .8, strong .9; quality .8 .7 .8 .9 .9 ..., so PGR 0 -1 0 1 1 ...; area .1 (-.5 - .5 + .5 + 7) = .65;
    # 0.5 and 0.8 are reached between .2 (0) and .3 (1)
    "worse than weak at first": (TEN, [1, 0, 0] + [1] * 7, [0] + [1] * 9, 0.65, 0.25, 0.28),
    # four scores of .9 and six of .1: thresholds reach 0, .4 and 1. Weak 0, strong .4, and .3 at share .4: PGR 0 .75 1;
    # area .4 * .375 + .6 * .875 = .675; 0.5 at .4 * .5 / .75; 0.8 at .4 + .6 * .05 / .25
    "tied scores": ([0.9] * 4 + [0.1] * 6, [0] * 10, [1, 1, 1, 0, 1, 0, 0, 0, 0, 0], 0.675, 4 / 15, 0.52),
    # twenty scores, so that a decile holds two: gains of 1 at ranks 1, 3, 6 and 8. Weak 0, strong .2, PGR by tenths
    # 0 .25 .5 .75 1 1 ...; area .1 (.125 + .375 + .625 + .875 + 6) = .8; 0.8 at .3 + .1 * .05 / .25.
    # (With a point at every score PGR would be .5 at share .15 already.)
    "points at deciles only": (
        [score / 2 + 0.5 for score in TEN] + [score / 2 for score in TEN],
        [0] * 20,
        [1, 0, 1, 0, 0, 1, 0, 1] + [0] * 12,
        0.8,
        0.2,
        0.32,
    ),
    # a judge's marks: weak 8, strong 8.4; quality 8 8.2 8.4 8.5 8.6 8.6 8.6 8.6 8.6 8.5 8.4,
    # PGR 0 .5 1 1.25 1.5 1.5 1.5 1.5 1.5 1.25 1; area .1 (.25 + .75 + 1.125 + 1.375 + 6 + 1.375 + 1.125) = 1.2;
    # 0.8 at .1 + .1 * .3 / .5
    "marks": (TEN, [8] * 10, [10, 10, 9, 9, 8, 8, 8, 8, 7, 7], 1.2, 0.1, 0.16),
    # seven scores: deciles lie 0, .6, 1.2, 1.8, 2.4, 3, 3.6, 4.2, 4.8 and 5.4 steps above the lowest, and reach 7, 6,
    # 5, 5, 4, 4, 3, 2, 2 and 1 of them. Weak 0, strong 2/7: PGR 0 .5 1 1 ... by sevenths;
    # area (.25 + .75 + 5) / 7; 0.8 at (1 + .3 / .5) / 7
    "deciles of seven": (TEN[:7], [0] * 7, [1, 1, 0, 0, 0, 0, 0], 6 / 7, 1 / 7, 1.6 / 7),
}


@pytest.mark.parametrize("case", CASES)
def test_by_hand(case: str) -> None:
    scores, weak, strong, apgr, cpt50, cpt80 = CASES[case]
    order = np.random.default_rng(0).permutation(len(scores))
    curve = decile_curve(*(np.array(column, dtype=float)[order] for column in (scores, weak, strong)))
    assert average_pgr(curve) == pytest.approx(apgr)
    assert call_performance_threshold(curve, 0.5) == pytest.approx(cpt50)
    assert call_performance_threshold(curve, 0.8) == pytest.approx(cpt80)
    assert (curve.pgr[0], curve.pgr[-1], curve.share[0], curve.share[-1]) == (0.0, pytest.approx(1.0), 0.0, 1.0)


def test_pgr_by_hand() -> None:
    # MT-Bench's kind of marks: of the gap from 8 to 9, 8.25 recovers a quarter; 7.5 loses half of it; 9.5 is beyond it
    assert performance_gap_recovered(np.array([8.0, 8.25, 9.0, 7.5, 9.5]), 8.0, 9.0).tolist() == [0, 0.25, 1, -0.5, 1.5]


def by_definition(scores: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> tuple[float, float, float]:
    """APGR, CPT(50) and CPT(80) as RouteLLM tells them, threshold by threshold and row by row."""
    deciles = [float(np.quantile(scores, step / 10)) for step in range(11)]
    shares, qualities = [], []
    for step, threshold in reversed(list(enumerate(deciles))):
        routed = [s > threshold if step == 10 else s >= threshold for s in scores]
        shares.append(sum(routed) / len(scores))
        qualities.append(sum(b if r else a for r, a, b in zip(routed, weak, strong, strict=True)) / len(scores))
    low, high = sum(weak) / len(weak), sum(strong) / len(strong)
    area = sum((shares[i + 1] - shares[i]) * (qualities[i] + qualities[i + 1]) / 2 for i in range(10))
    width = shares[-1] - shares[0]
    apgr = (area - low * width) / (high * width - low * width)
    wanted = [low + part * (high - low) for part in (0.5, 0.8)]
    return apgr, *(float(np.interp(quality, qualities, shares)) for quality in wanted)


@given(st.integers(0, 10_000), st.integers(10, 80))
def test_by_the_definition(seed: int, n: int) -> None:
    """Strong is better everywhere, so that quality rises with the share: elsewhere RouteLLM's CPT is undefined."""
    rng = np.random.default_rng(seed)
    scores, weak = rng.random(n), rng.random(n)
    strong = weak + rng.random(n) + 1e-3
    curve = decile_curve(scores, weak, strong)
    found = average_pgr(curve), call_performance_threshold(curve, 0.5), call_performance_threshold(curve, 0.8)
    assert found == pytest.approx(by_definition(scores, weak, strong), abs=1e-9)


def test_random_is_one_half_in_expectation_exactly() -> None:
    """Over every order of six rows, with gains and losses."""
    weak, strong = np.array([0, 0, 1, 1, 0, 0.0]), np.array([1, 1, 0, 1, 0, 1.0])
    orders = np.array(list(permutations(TEN[:6])))
    for curve in (decile_curve, cost_quality_curve):
        assert np.mean([average_pgr(curve(scores, weak, strong)) for scores in orders]) == pytest.approx(0.5, abs=1e-9)


def test_random_is_one_half_on_the_mean_of_many_permutations() -> None:
    rng = np.random.default_rng(0)
    weak, strong = (rng.random(1000) < 0.64).astype(float), (rng.random(1000) < 0.86).astype(float)
    curves = [decile_curve(rng.random(1000), weak, strong) for _ in range(400)]
    for figure, expected in (
        (average_pgr, 0.5),
        (lambda curve: call_performance_threshold(curve, 0.5), 0.5),
        (lambda curve: call_performance_threshold(curve, 0.8), 0.8),
    ):
        values = [figure(curve) for curve in curves]
        assert np.mean(values) == pytest.approx(expected, abs=0.01)


def test_oracle_by_hand() -> None:
    # two gains, seven equal, one loss: weak .4, strong .5; quality .4 .5 .6 ... .6 .5, PGR 0 1 2 ... 2 1;
    # area .1 (.5 + 1.5 + 7 * 2 + 1.5)
    weak, strong = np.array([0, 0, 1, 1, 1, 0, 0, 0, 0, 1.0]), np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0.0])
    curve = oracle_curve(weak, strong)
    assert curve.quality.max() == pytest.approx(0.6) and average_pgr(curve) == pytest.approx(1.75)
    assert curve.share[int(np.argmax(curve.quality))] == pytest.approx(0.2)


@pytest.mark.skipif("JETHRO_TEST_DATA" not in os.environ, reason="JETHRO_TEST_DATA names no folder of recorded answers")
def test_oracle_on_recorded_answers_is_the_computed_bound() -> None:
    path = Path(os.environ["JETHRO_TEST_DATA"]) / "routing" / "routellm" / "gsm8k.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if not row["contaminated"]]
    weak, strong = (np.array([row[name] for row in rows], dtype=float) for name in ("small_correct", "large_correct"))
    n, gains, losses = len(rows), int(np.sum(strong > weak)), int(np.sum(strong < weak))
    curve = oracle_curve(weak, strong)
    best = int(np.argmax(curve.quality))
    assert n == 1307
    assert [round(100 * float(q), 2) for q in (curve.weak, curve.strong, curve.quality[best])] == [63.73, 85.77, 92.96]
    assert round(100 * float(curve.share[best]), 1) == 29.2
    assert curve.quality[best] == pytest.approx(np.maximum(weak, strong).mean())
    # PGR climbs to gains / (gains - losses) over the gains, stays, and falls to 1 over the losses
    top, flat = gains / (gains - losses), n - gains - losses
    assert average_pgr(curve) == pytest.approx((gains * top / 2 + flat * top + losses * (top + 1) / 2) / n)
