"""Cost and quality of choosing among many pools, measured on recorded answers, against single pools and the oracle."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.routing.multi_pool import Utility

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serve_app.data.dataset import Dataset
    from serve_app.routing.estimate import Estimate
    from serve_app.types import Price

_POINTS = 60


@dataclass(frozen=True, slots=True)
class Frontier:
    """Mean quality and cost of the choices at each worth of a unit of quality, shape [m], worth ascending.

    `share` [m, p]: part of the queries that each pool answers. `single` has each pool's own (quality, cost) alone.
    """

    pools: tuple[str, ...]
    quality_usd: Floats
    quality: Floats
    cost_usd: Floats
    share: Floats
    single: "Mapping[str, tuple[float, float]]"

    def quality_at(self, cost_usd: float) -> float:
        """The best mean quality for at most this mean cost, also by mixing two points at random (their upper hull).

        nan where even the cheapest point costs more.
        """
        if cost_usd < self.cost_usd.min():
            return float("nan")
        x, y = upper_hull(self.cost_usd, self.quality)
        return float(np.interp(cost_usd, x, y))


def multi_pool_curve(
    dataset: "Dataset", estimate: "Estimate", prices: "Mapping[str, Price]", caution: float = 0.0
) -> Frontier:
    """The frontier of choosing by an estimate of the dataset's queries, with the cost that was recorded.

    Raises ValueError where the estimate is of other queries, KeyError of pools that were not recorded.
    """
    if len(estimate) != len(dataset):
        raise ValueError(f"{len(dataset)} queries, but {len(estimate)} estimates")
    expected_cost = estimate.cost_usd(prices)
    chosen_by = [Utility(worth, caution) for worth in worths(expected_cost)]
    choices = [u.of(estimate.quality, estimate.std, expected_cost).argmax(1) for u in chosen_by]
    return _frontier(dataset, estimate.pools, chosen_by, choices)


def oracle_frontier(dataset: "Dataset") -> Frontier:
    """The frontier of one who knows every answer's quality and cost beforehand: no choice lies above it."""
    quality, cost = recorded(dataset, tuple(dataset.pools))
    chosen_by = [Utility(worth) for worth in worths(cost)]
    choices = [u.of(quality, np.zeros_like(quality), cost).argmax(1) for u in chosen_by]
    return _frontier(dataset, tuple(dataset.pools), chosen_by, choices)


def recorded(dataset: "Dataset", pools: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Mean quality and cost (USD) of each pool's answers to each query, both [n, p]."""
    answers = [dataset.pools[pool] for pool in pools]
    quality = np.stack([a.quality.mean(1) for a in answers], axis=1)
    return quality, np.stack([a.cost_usd.mean(1) for a in answers], axis=1)


def worths(cost_usd: Floats) -> Floats:
    """Worths of a unit of quality, [m], from one at which only cost counts to one at which only quality does."""
    highest = float(cost_usd.max())
    if highest <= 0:
        return np.ones(1)
    return highest * np.logspace(-4, 6, _POINTS)


def upper_hull(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The points of the upper convex hull up to the highest, x ascending: what mixing points can reach."""
    hull: list[tuple[float, float]] = []
    for point in sorted(set(zip(x.tolist(), y.tolist(), strict=True)), key=lambda p: (p[0], -p[1])):
        if hull and (point[0] == hull[-1][0] or point[1] <= hull[-1][1]):
            continue
        while len(hull) > 1 and _below(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    found = np.array(hull)
    return found[:, 0], found[:, 1]


def _below(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def _frontier(
    dataset: "Dataset", pools: tuple[str, ...], chosen_by: list[Utility], choices: list[NDArray[np.int64]]
) -> Frontier:
    quality, cost = recorded(dataset, pools)
    rows = np.arange(len(dataset))
    return Frontier(
        pools,
        np.array([u.quality_usd for u in chosen_by]),
        np.array([quality[rows, c].mean() for c in choices]),
        np.array([cost[rows, c].mean() for c in choices]),
        np.array([np.bincount(c, minlength=len(pools)) / len(rows) for c in choices]),
        {pool: (float(quality[:, j].mean()), float(cost[:, j].mean())) for j, pool in enumerate(pools)},
    )
