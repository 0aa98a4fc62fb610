"""A method's curve: what it does to each test query at each budget, and the figures read from that."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.mixing import mean_quality

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """For p points (budgets) and n test queries: quality and cost [p, n], in expectation over a mixture's coin.

    `guarded`: points at which the fit fell back to single models. `note`: the shape that was chosen.
    """

    quality: Floats
    cost_usd: Floats
    guarded: tuple[bool, ...] = ()
    note: str = ""

    def points(self, weights: Floats | None = None) -> Floats:
        """(mean cost, mean quality) [p, 2]; `weights` [n] count the queries of a bootstrap resample."""
        if weights is None:
            return np.column_stack([self.cost_usd.mean(1), self.quality.mean(1)])
        means: Floats = np.column_stack([self.cost_usd @ weights, self.quality @ weights]) / weights.sum()
        return means


def area(points: Floats, low: float, high: float) -> float:
    """Mean quality over mean costs from `low` to `high`: the area under the curve over its width."""
    return mean_quality(points, low, high)


def quality_at(points: Floats, cost: float) -> float:
    """Quality at a mean cost, linear between points."""
    return mean_quality(points, cost, cost)


def resamples(n: int, rounds: int, seed: int) -> list[Floats]:
    """Bootstrap counts of n queries: the same for every method, so that differences are paired."""
    rng = np.random.default_rng(seed)
    return [np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(rounds)]


def interval(values: Floats) -> list[float]:
    """95 %, by percentiles."""
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]
