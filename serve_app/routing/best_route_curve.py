"""Cost and quality of BEST-Route's choices at each threshold, measured on recorded answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from serve_app.arrays import Floats
from serve_app.routing.frontier import upper_hull
from serve_app.routing.kinds.best_route import REFERENCE, BestRouteRouter, Candidate, best_of, cheapest

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset
    from serve_app.types import Price

_POINTS = 101


@dataclass(frozen=True, slots=True)
class BestRouteCurve:
    """Mean quality and cost at each threshold, [m]; `share` [m, candidates], the reference last.

    `single` has what each candidate gives alone: quality and cost.
    """

    candidates: tuple[Candidate, ...]
    thresholds: Floats
    quality: Floats
    cost_usd: Floats
    share: Floats
    single: Mapping[Candidate, tuple[float, float]]

    def quality_at(self, cost_usd: float) -> float:
        """The best mean quality for at most this mean cost, also by mixing two thresholds; nan below the cheapest."""
        if cost_usd < self.cost_usd.min():
            return float("nan")
        return float(np.interp(cost_usd, *upper_hull(self.cost_usd, self.quality)))


def best_route_curve(router: BestRouteRouter, dataset: "Dataset", prices: "Mapping[str, Price]") -> BestRouteCurve:
    """The curve on a dataset with at least as many samples as the router's candidates.

    Quality is that of the true best of n (a ranker that always finds it), cost that of the recorded tokens: the
    prompt once, the answer n times. Raises ValueError for too few samples, KeyError for a pool without a price.
    """
    every = (*router.candidates_, Candidate(REFERENCE))
    quality = np.stack([best_of(dataset.pools[c.pool].quality, c.samples) for c in every], axis=1)
    cost = np.stack([_cost_usd(dataset, c, prices[c.pool]) for c in every], axis=1)
    good, expected = router.good_enough(dataset.queries), router.cost_usd(dataset.queries, prices)
    thresholds = np.linspace(0.0, 1.0, _POINTS)
    rows = np.arange(len(dataset))
    chosen = [cheapest(good, expected, threshold) for threshold in thresholds]
    return BestRouteCurve(
        every,
        thresholds,
        np.array([quality[rows, c].mean() for c in chosen]),
        np.array([cost[rows, c].mean() for c in chosen]),
        np.array([np.bincount(c, minlength=len(every)) / len(rows) for c in chosen]),
        {c: (float(quality[:, j].mean()), float(cost[:, j].mean())) for j, c in enumerate(every)},
    )


def _cost_usd(dataset: "Dataset", candidate: Candidate, price: "Price") -> Floats:
    tokens = dataset.pools[candidate.pool].mean_tokens()
    read, written = price.input_usd_per_million / 1e6, price.output_usd_per_million / 1e6
    cost: Floats = tokens[:, 0] * read + candidate.samples * tokens[:, 1] * written
    return cost
