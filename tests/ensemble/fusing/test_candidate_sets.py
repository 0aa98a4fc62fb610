"""Sets of candidates: figures against enumeration of all draws, and when a mix pays."""

from itertools import combinations, product

import numpy as np
import pytest

from serve_app.ensemble.fusing.candidate_sets import (
    Counts,
    alone_or_mixed,
    best_quality,
    compare_sets,
    mean_quality,
    selection_skill,
    sets_of,
)

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 4, size=(6, 3, 4)).astype(float)


def drawn(row: np.ndarray, counts: Counts) -> list[list[float]]:
    """Every set of answers that can be drawn for one query."""
    per_member = [list(combinations(row[member], count)) for member, count in counts.items()]
    return [[value for own in draw for value in own] for draw in product(*per_member)]


@pytest.mark.parametrize("counts", [{0: 1}, {1: 3}, {0: 4}, {0: 1, 1: 1}, {0: 2, 2: 1}, {0: 2, 1: 1, 2: 3}])
def test_figures_are_those_of_all_draws(counts: Counts) -> None:
    best = [np.mean([max(answers) for answers in drawn(row, counts)]) for row in SMALL]
    mean = [np.mean([np.mean(answers) for answers in drawn(row, counts)]) for row in SMALL]
    assert best_quality(SMALL, counts) == pytest.approx(np.array(best))
    assert mean_quality(SMALL, counts) == pytest.approx(np.array(mean))


def world(strong: float, weak: float, shared: bool, n: int = 400) -> np.ndarray:
    """Two members, four samples each; right answers of the weak one are where the strong one errs, or at random."""
    rng = np.random.default_rng(1)
    known = rng.random(n) < strong
    a = np.repeat(known[:, None], 4, axis=1) & (rng.random((n, 4)) < 0.95)
    other = rng.random(n) < weak if shared else ~known & (rng.random(n) < weak)
    b = np.repeat(other[:, None], 4, axis=1)
    return np.stack([a, b], axis=1).astype(float)


def test_a_weak_member_hurts_unless_the_ranker_is_good() -> None:
    quality = world(0.8, 0.2, shared=True)
    alone, mix = {0: 2}, {0: 1, 1: 1}
    low = compare_sets(quality, alone, mix, skill=0.1)
    assert low.better == 0
    assert low.mean[0] > low.mean[1]
    complementary = world(0.5, 0.9, shared=False)
    high = compare_sets(complementary, alone, mix, skill=0.95)
    assert high.better == 1 and high.best[1] > high.best[0]


def test_the_break_even_skill_is_where_both_are_worth_the_same() -> None:
    quality = world(0.7, 0.5, shared=False)
    alone, mix = {0: 2}, {0: 1, 1: 1}
    found = compare_sets(quality, alone, mix, skill=0.0)
    assert found.break_even is not None and 0 < found.break_even < 1
    at = compare_sets(quality, alone, mix, skill=found.break_even)
    assert at.difference.value == pytest.approx(0.0, abs=1e-12) and at.better is None
    same = compare_sets(quality, alone, alone, skill=0.5)
    assert same.break_even is None and same.better is None and same.difference.value == 0


def test_the_difference_is_paired_and_signed() -> None:
    quality = np.random.default_rng(2).random((300, 1, 1)) + np.array([0.0, 0.05]).reshape(1, 2, 1)
    found = compare_sets(quality, {0: 1}, {1: 1}, skill=0.5)
    assert found.better == 1
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.05, -0.05)), "queries vary, not the gap"


def test_skill_is_what_was_made_of_the_gap() -> None:
    counts = {0: 1, 1: 1}
    mean, best = mean_quality(SMALL[:, :, :1], counts), best_quality(SMALL[:, :, :1], counts)
    assert selection_skill(best, SMALL[:, :, :1], counts) == pytest.approx(1.0)
    assert selection_skill(mean, SMALL[:, :, :1], counts) == pytest.approx(0.0)
    assert selection_skill((mean + best) / 2, SMALL[:, :, :1], counts) == pytest.approx(0.5)
    assert np.isnan(selection_skill(np.ones(2), np.ones((2, 2, 1)), counts))


def test_all_sets_are_found_once() -> None:
    found = [tuple(sorted(own.items())) for own in sets_of([2, 1, 3], 3)]
    assert len(found) == len(set(found)) == 6
    assert all(sum(count for _, count in own) == 3 for own in found)
    assert ((2, 3),) in found and ((0, 2), (1, 1)) in found and ((0, 3),) not in found


def test_the_best_of_each_kind_is_compared() -> None:
    strong_twice = world(0.8, 0.2, shared=True)
    alone, mix, found = alone_or_mixed(strong_twice, 2, skill=0.2)
    assert alone == {0: 2} and mix == {0: 1, 1: 1} and found.better == 0
    with pytest.raises(ValueError, match="no member has samples for a set of 5"):
        alone_or_mixed(strong_twice, 5, skill=0.2)
    with pytest.raises(ValueError, match="no two members"):
        alone_or_mixed(strong_twice[:, :1], 2, skill=0.2)


def test_samples_that_a_member_does_not_have() -> None:
    quality = SMALL.copy()
    quality[:, 0, 2:] = np.nan
    assert best_quality(quality, {0: 2}) == pytest.approx(SMALL[:, 0, :2].max(axis=1))
    with pytest.raises(ValueError, match="member 0 has 2 samples, the set takes 3"):
        mean_quality(quality, {0: 3})
    quality[1, 1, 0] = np.nan
    with pytest.raises(ValueError, match="not scored in some rows"):
        best_quality(quality, {1: 1})
    for wrong in ({}, {0: 0}, {0: -1}):
        with pytest.raises(ValueError, match="at least one answer"):
            mean_quality(SMALL, wrong)
