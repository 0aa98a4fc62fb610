"""Share, quality and cost of a router at any threshold, with intervals, from the data that it was calibrated on.

The queries are resampled with replacement (Efron & Tibshirani 1993, chapter 13); a resample is a weight for each query,
how often it was drawn. Every figure is a mean over the queries on either side of a threshold, so that one pass of
running sums over the sorted scores gives it at all thresholds. All thresholds see the same resamples: differences
between two of them are paired.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.decision.threshold import Calibration, token_cost_usd
from serve_app.learning.metrics import Interval, percentile_interval
from serve_app.training.evaluation import interval_json
from serve_app.types import Price

ROUNDS: Final = 1000
LEVEL: Final = 0.95
FIGURES: Final = ("share", "quality", "drop", "cost_usd", "cost_share")
"""Share of strong calls; mean quality; relative drop against always-strong; USD a query; cost by always-strong's."""
_CELLS: Final = 1_000_000
"""Weights held at once: 8 MB."""

Prices = tuple[Price, Price]
"""Of the weak and the strong pool."""


@dataclass(frozen=True, slots=True)
class ThresholdFigures:
    """Values of each figure, shape [thresholds], and on resamples, shape [rounds, thresholds]."""

    thresholds: Floats
    values: Mapping[str, Floats]
    drawn: Mapping[str, Floats]
    queries: int

    def at(self, i: int) -> dict[str, Interval]:
        """Each figure at a threshold with its interval."""
        return {
            name: percentile_interval(float(self.values[name][i]), self.drawn[name][:, i], LEVEL) for name in FIGURES
        }

    def change(self, i: int, j: int) -> dict[str, Interval]:
        """By how much each figure changes from threshold `i` to `j`, paired."""
        return {
            name: percentile_interval(
                float(self.values[name][j] - self.values[name][i]),
                self.drawn[name][:, j] - self.drawn[name][:, i],
                LEVEL,
            )
            for name in FIGURES
        }


def threshold_figures(
    calibration: Calibration,
    thresholds: Sequence[float] | Floats,
    prices: Prices | None = None,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> ThresholdFigures:
    """The figures at some thresholds; costs at these prices of the recorded tokens, else the recorded costs."""
    at = np.asarray(thresholds, dtype=np.float64)
    sums = _Sums(calibration, at, prices)
    values = sums.figures(np.ones((1, len(calibration))))
    parts = [sums.figures(weights) for weights in resample_weights(len(calibration), rounds, seed)]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in FIGURES}
    return ThresholdFigures(at, {name: value[0] for name, value in values.items()}, drawn, len(calibration))


def spread_thresholds(scores: Floats, most: int) -> Floats:
    """Up to `most` thresholds, ascending, that split the queries into parts of about equal size; 0 is among them.

    They lie between two scores, or on 0; a last one above all scores calls the strong model for none.
    """
    distinct = np.unique(scores)
    between = (distinct[:-1] + distinct[1:]) / 2
    above = min(1.0, float(np.nextafter(distinct[-1], 2.0)))
    candidates = np.concatenate([[0.0], between, [above]])
    if len(candidates) <= most:
        return np.unique(candidates)
    ranked = np.sort(scores)
    share = np.searchsorted(ranked, candidates) / len(scores)
    desired = np.searchsorted(share, np.linspace(0.0, 1.0, most))
    found: Floats = candidates[np.unique(np.minimum(desired, len(candidates) - 1))]
    return found


class _Sums:
    """Weighted sums on either side of each threshold; the queries are sorted by score, the highest first."""

    def __init__(self, calibration: Calibration, thresholds: Floats, prices: Prices | None) -> None:
        order = np.argsort(-calibration.scores, kind="stable")
        ascending = calibration.scores[order][::-1]
        strong = len(order) - np.searchsorted(ascending, thresholds, side="left")
        self._ends, self._at = np.unique(strong, return_inverse=True)
        weak_cost, strong_cost = costs(calibration, prices)
        columns = (calibration.weak_quality, calibration.strong_quality, weak_cost, strong_cost)
        self._all = np.stack([np.ones(len(order)), *(column[order] for column in columns)], axis=1)
        self._gains = (self._all[:, 2] - self._all[:, 1], self._all[:, 4] - self._all[:, 3])

    def figures(self, weights: Floats) -> dict[str, Floats]:
        """Each figure, shape [rounds, thresholds], for weights of shape [rounds, queries] in the sorted order."""
        total, weak, strong, cheapest, dearest = (column[:, None] for column in (weights @ self._all).T)
        better, dearer = (self._above(weights * gain) for gain in self._gains)
        quality, cost = (weak + better) / total, (cheapest + dearer) / total
        best, whole = np.abs(strong / total) + np.zeros_like(quality), dearest / total + np.zeros_like(cost)
        return {
            "share": self._above(weights) / total,
            "quality": quality,
            "drop": np.divide(strong / total - quality, best, out=np.zeros_like(quality), where=best > 0),
            "cost_usd": cost,
            "cost_share": np.divide(cost, whole, out=np.full_like(cost, np.nan), where=whole > 0),
        }

    def _above(self, weighted: Floats) -> Floats:
        """Sums over the queries whose score reaches each threshold."""
        ends = self._ends[self._ends > 0]
        parts = (
            np.add.reduceat(weighted[:, : ends[-1]], np.concatenate([[0], ends[:-1]]), axis=1) if len(ends) else None
        )
        running = np.zeros((len(weighted), len(self._ends)))
        if parts is not None:
            running[:, len(self._ends) - len(ends) :] = np.cumsum(parts, axis=1)
        found: Floats = running[:, self._at]
        return found


def costs(calibration: Calibration, prices: Prices | None) -> tuple[Floats, Floats]:
    """USD of the weak and of the strong answer to each query; zeros where neither prices nor costs are known."""
    if prices is not None:
        return token_cost_usd(calibration.weak_tokens, prices[0]), token_cost_usd(calibration.strong_tokens, prices[1])
    zero = np.zeros(len(calibration))
    recorded = (calibration.weak_cost_usd, calibration.strong_cost_usd)
    weak, strong = (zero if cost is None else cost for cost in recorded)
    return weak, strong


def resample_weights(n: int, rounds: int, seed: int) -> Iterator[Floats]:
    """How often each query is drawn, a few resamples at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // n)
    for start in range(0, rounds, at_once):
        some = min(at_once, rounds - start)
        places = rng.integers(0, n, (some, n)) + np.arange(some)[:, None] * n
        yield np.bincount(places.ravel(), minlength=some * n).reshape(some, n).astype(np.float64)


def point_json(figures: ThresholdFigures, i: int) -> dict[str, Any]:
    """A threshold with its figures."""
    return {"threshold": float(figures.thresholds[i]), **{n: interval_json(v) for n, v in figures.at(i).items()}}
