"""Tiers by dynamic programme against trying all groupings."""

from itertools import combinations

import numpy as np
import pytest

from serve_app.routing.kinds.similarity_weighted.battles import tiers_of


def spread(ratings: np.ndarray, tier: np.ndarray) -> float:
    return float(sum(ratings[tier == t].var() for t in np.unique(tier)))


def least(ratings: np.ndarray, count: int) -> float:
    """Of all ways to cut the ranking into `count` runs, the least sum of variances."""
    ranked, n = np.sort(ratings), len(ratings)
    cuts = combinations(range(1, n), count - 1)
    return min(sum(run.var() for run in np.split(ranked, cut)) for cut in cuts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_grouping_is_tighter(seed: int, count: int) -> None:
    ratings = np.random.default_rng(seed).normal(1000, 100, 9)
    tier = tiers_of(ratings, count)
    assert sorted(set(tier.tolist())) == list(range(count))
    assert (np.diff(tier[np.argsort(ratings)]) >= 0).all()
    assert spread(ratings, tier) == pytest.approx(least(ratings, count))


def test_few_models_have_a_tier_each() -> None:
    assert tiers_of(np.array([1200.0, 900.0, 1000.0]), 10).tolist() == [2, 0, 1]
    assert tiers_of(np.array([5.0]), 10).tolist() == [0]
    assert tiers_of(np.zeros(0), 3).tolist() == []


def test_obvious_groups_are_found() -> None:
    ratings = np.array([1000, 1500, 1010, 1490, 990, 1200])
    assert tiers_of(ratings.astype(float), 3).tolist() == [0, 2, 0, 2, 0, 1]
    with pytest.raises(ValueError, match="0 tiers"):
        tiers_of(ratings.astype(float), 0)


def test_sixty_four_models_take_no_time_worth_mentioning() -> None:
    tier = tiers_of(np.random.default_rng(0).normal(1000, 100, 64), 10)
    assert len(set(tier.tolist())) == 10
