"""Models of like strength in tiers, as RouteLLM groups them (Ong et al. 2024, section 4.2 and its released code)."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def tiers_of(ratings: Floats, count: int) -> NDArray[np.int64]:
    """The tier of each rating, shape [n], 0 the lowest: at most `count` runs of neighbours in rating.

    Of all such groupings the one with the least sum of variances within the tiers, found by dynamic programming; with
    no more ratings than tiers everyone has its own. Raises ValueError for a count below one.
    """
    if count < 1:
        raise ValueError(f"{count} tiers: give at least one")
    n = len(ratings)
    order = np.argsort(ratings, kind="stable")
    ends = _ends(_variances(ratings[order]), min(count, n))
    tier = np.empty(n, dtype=np.int64)
    tier[order] = np.searchsorted(ends, np.arange(n), "right")
    return tier


def _variances(ranked: Floats) -> Floats:
    """Variance of ranked[i:j], shape [n, n + 1]; infinite where there is nothing between."""
    n = len(ranked)
    found = np.full((n, n + 1), np.inf)
    for i in range(n):
        for j in range(i + 1, n + 1):
            found[i, j] = ranked[i:j].var()
    return found


def _ends(cost: Floats, count: int) -> NDArray[np.int64]:
    """Where each tier ends, exclusive, shape [count]; `cost[i, j]` is that of a tier of items i to j - 1."""
    n = len(cost)
    best = cost[0].copy() if n else np.zeros(1)  # best[j]: items 0 to j - 1 in the tiers so far
    cut = np.zeros((count, n + 1), dtype=np.int64)
    for tier in range(1, count):
        totals = best[:n, None] + cost
        cut[tier] = totals.argmin(0)
        best = totals.min(0)
    ends = [n]
    for tier in range(count - 1, 0, -1):
        ends.append(int(cut[tier, ends[-1]]))
    return np.array(ends[::-1], dtype=np.int64)
