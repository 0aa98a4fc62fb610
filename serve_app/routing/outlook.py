"""What to expect of each pool at a score, read from the calibration data: the Decision's `expected`."""

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np

from serve_app.pools.base import Pool
from serve_app.routing.threshold import Calibration, token_cost_usd

_BINS = 20
"""Bins of equal mass; 4,000 calibration queries leave 200 for each, a standard error of 0.035 at worst."""


class CalibratedOutlook:
    """Mean quality and cost of both pools' answers among calibration queries of a similar score."""

    def __init__(self, calibration: Calibration, weak: Pool, strong: Pool) -> None:
        order = np.argsort(calibration.scores, kind="stable")
        costs = (
            token_cost_usd(calibration.weak_tokens, weak.price),
            token_cost_usd(calibration.strong_tokens, strong.price),
        )
        qualities = (calibration.weak_quality, calibration.strong_quality)
        self._starts: list[float] = []
        self._table: list[dict[str, dict[str, float]]] = []
        for part in np.array_split(order, min(_BINS, len(order))):
            start = float(calibration.scores[part[0]])
            if self._starts and start == self._starts[-1]:
                continue
            self._starts.append(start)
            self._table.append(
                {
                    pool.name: {
                        "quality": round(float(quality[part].mean()), 4),
                        "cost_usd": float(cost[part].mean()),
                    }
                    for pool, quality, cost in zip((weak, strong), qualities, costs, strict=True)
                }
            )

    def at(self, score: float) -> Mapping[str, Mapping[str, float]]:
        """By pool name: `quality` in [0, 1] and `cost_usd`."""
        return self._table[max(0, bisect_right(self._starts, score) - 1)]
