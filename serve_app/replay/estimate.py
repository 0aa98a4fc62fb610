"""Share, cost and quality of replayed decisions, as served and under another policy, each with its interval.

What the pool that did not answer would have written is not in the log. Its cost is expected from the tokens that were
logged, times the ratio of both pools' tokens on calibration queries of a similar score, at the pools' prices. Its
quality is the mean of its answers on calibration queries of a similar score: the direct method. Feedback exists only
for the pool that answered, and the threshold decided which that was, so that no weighting of feedback could stand in
for the other pool (there is no overlap); ratings are reported where the policy agrees with what was served, and
comparisons of both pools' answers where it does not.

Intervals: 95 %, by a bootstrap of the decisions and, independently, of the calibration queries (percentiles, paired
between both policies); shares and ratings of 0 and 1 by Wilson's score. The interval for the next n queries adds what a
run of n queries varies by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Z95, Floats, wilson
from serve_app.decision.threshold import Calibration
from serve_app.learning.metrics import Interval, percentile_interval
from serve_app.replay.bootstrap_curve import LEVEL, Prices, resample_weights
from serve_app.replay.policy import Bools, Moves

ROUNDS: Final = 500
_MOST_BINS: Final = 100
_LEAST: Final = 50
"""Calibration queries in a bin, at least."""


@dataclass(frozen=True, slots=True)
class ReplayedFigure:
    """One figure: as served, under the policy, and the change. `upcoming`: the figure in the next `n` queries."""

    served: Interval
    predicted: Interval
    change: Interval
    upcoming: Interval


@dataclass(frozen=True, slots=True)
class ServedRatings:
    """Feedback scores, in [0, 1], of the decisions that have any."""

    count: int
    mean: Interval


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """`share` of strong calls, `cost_usd` a query, expected `quality`, as far as they can be known, by name.

    `kept` and `moved` are the ratings of what was served, of decisions that would stay and that would move. Of the
    moved ones that were compared, the other pool's answer was `better`, `worse` or `equal`.
    """

    moves: Moves
    figures: Mapping[str, ReplayedFigure]
    unknown: Mapping[str, str]
    """Why a figure cannot be known."""
    upcoming: int
    kept: ServedRatings | None = None
    moved: ServedRatings | None = None
    better: int = 0
    worse: int = 0
    equal: int = 0
    notes: tuple[str, ...] = field(default=())


def estimate(
    moves: Moves,
    prices: Prices,
    calibration: Calibration | None,
    *,
    upcoming: int | None = None,
    rounds: int = ROUNDS,
    known: tuple[Floats, str, str] | None = None,
) -> ReplayResult:
    """All figures. `calibration`: of the policy's router on these models, or None. `upcoming`: by default as many.

    `known`: costs under the policy, how they were found, and why quality is unknown, where a router is no part of it.
    """
    n = len(moves.log)
    if n == 0:
        return ReplayResult(moves, {}, {"share": "no decision could be replayed"}, upcoming or 0)
    ahead = upcoming or n
    bins = None if calibration is None else ScoreBins(calibration, moves)
    cost = _Costs.of(moves, prices, bins) if known is None else _Costs(moves.log.cost_usd, known[0], (known[1],))
    columns = np.stack([moves.served, moves.predicted, cost.served, cost.predicted], axis=1).astype(np.float64)
    drawn = _Drawn(columns, bins, rounds)
    figures = {"share": _share(moves.served, moves.predicted, drawn, ahead)}
    unknown: dict[str, str] = {}
    if any(p.input_usd_per_million or p.output_usd_per_million for p in prices):
        figures["cost_usd"] = _cost(columns, drawn, ahead)
    else:
        unknown["cost_usd"] = "no pool has a price (pools.NAME.price)"
    if bins is not None:
        figures["quality"] = _quality(bins, drawn, ahead)
    else:
        no_data = f"router {moves.policy.router} has no calibration data of these models"
        unknown["quality"] = no_data if known is None else known[2]
    compared = {name: int(getattr(moves.log, name)[moves.moved].sum()) for name in ("better", "worse", "equal")}
    return ReplayResult(
        moves,
        figures,
        unknown,
        ahead,
        kept=ratings(moves.log.rating[~moves.moved]),
        moved=ratings(moves.log.rating[moves.moved]),
        better=compared["worse"],
        worse=compared["better"],
        equal=compared["equal"],
        notes=cost.notes,
    )


class ScoreBins:
    """Calibration queries and decisions of a similar score: bins of equal mass, split at the policy's threshold."""

    def __init__(self, calibration: Calibration, moves: Moves) -> None:
        n = len(calibration)
        count = max(1, min(_MOST_BINS, n // _LEAST))
        edges = np.unique(np.quantile(calibration.scores, np.arange(1, count) / count)) if count > 1 else np.empty(0)
        edges = np.unique(np.append(edges, moves.policy.threshold))
        of_data = np.searchsorted(edges, calibration.scores, side="right")
        # a bin without calibration queries takes the nearest one's: the split may leave nothing on one side
        filled = np.unique(of_data)
        nearest = filled[np.abs(np.arange(len(edges) + 1)[:, None] - filled[None]).argmin(1)]
        place = np.searchsorted(filled, nearest)
        self.count = len(filled)
        self.of_data = np.searchsorted(filled, of_data)
        scores = np.where(np.isnan(moves.scores), 1.0, moves.scores)  # no score: strong to be safe
        self.of_log = place[np.searchsorted(edges, scores, side="right")]
        self.qualities = np.stack([calibration.weak_quality, calibration.strong_quality], axis=1)
        self.tokens = (calibration.weak_tokens, calibration.strong_tokens)
        self._order = np.argsort(self.of_data, kind="stable")
        self._starts = np.searchsorted(self.of_data[self._order], np.arange(self.count))
        self._cells = [_Cells(2 * self.of_log + strong) for strong in (moves.served, moves.predicted)]

    def means(self, weights: Floats, values: Floats) -> Floats:
        """Mean of each column of `values` [queries, columns] in each bin, [rounds, bins, columns].

        An empty bin of a resample has the mean of all.
        """
        w = weights[:, self._order]
        total = np.add.reduceat(w, self._starts, axis=1)
        found = np.empty((len(weights), self.count, values.shape[1]))
        for i in range(values.shape[1]):
            weighted = w * values[self._order, i]
            whole = weighted.sum(1, keepdims=True) / w.sum(1, keepdims=True)
            sums = np.add.reduceat(weighted, self._starts, axis=1)
            found[:, :, i] = np.where(total > 0, sums / np.maximum(total, 1e-300), whole)
        return found

    def masses(self, weights: Floats) -> list[Floats]:
        """Weight of the decisions by bin and pool, [rounds, bins, 2], of all 1: as served, and under the policy."""
        size = 2 * self.count
        return [cells.sums(weights, size).reshape(len(weights), self.count, 2) for cells in self._cells]


class _Cells:
    """Weights summed by cell; `cell` is that of each decision."""

    def __init__(self, cell: NDArray[np.int64]) -> None:
        self._order = np.argsort(cell, kind="stable")
        self._filled, self._starts = np.unique(cell[self._order], return_index=True)

    def sums(self, weights: Floats, size: int) -> Floats:
        """Shares of all weight, [rounds, size]."""
        found = np.zeros((len(weights), size))
        found[:, self._filled] = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        return np.asarray(found / weights.sum(1, keepdims=True))


class _Drawn:
    """The means of columns on resamples, and the expected qualities of both policies."""

    def __init__(self, columns: Floats, bins: ScoreBins | None, rounds: int, seed: int = 0) -> None:
        self.means = np.empty((rounds, columns.shape[1]))
        self.qualities = np.empty((rounds, 2)) if bins is not None else None
        tables = None if bins is None else self._tables(bins, rounds, seed + 1)
        done = 0
        for weights in resample_weights(len(columns), rounds, seed):
            some = slice(done, done + len(weights))
            self.means[some] = weights @ columns / weights.sum(1, keepdims=True)
            if bins is not None and tables is not None and self.qualities is not None:
                for i, mass in enumerate(bins.masses(weights)):
                    self.qualities[some, i] = (mass * tables[some]).sum((1, 2))
            done += len(weights)

    @staticmethod
    def _tables(bins: ScoreBins, rounds: int, seed: int) -> Floats:
        """Expected quality by bin and pool on resamples of the calibration queries."""
        parts = [bins.means(w, bins.qualities) for w in resample_weights(len(bins.of_data), rounds, seed)]
        return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class _Costs:
    """USD of each decision, as served and under the policy."""

    served: Floats
    predicted: Floats
    notes: tuple[str, ...]

    @classmethod
    def of(cls, moves: Moves, prices: Prices, bins: ScoreBins | None) -> "_Costs":
        log, moved = moves.log, moves.moved
        tokens = np.stack([log.prompt_tokens, log.completion_tokens], axis=1)
        ratio = np.ones((len(log), 2, 2))  # decision, pool that would answer, kind of tokens
        if bins is not None:
            one = np.ones((1, len(bins.of_data)))
            weak, strong = (bins.means(one, kind)[0][bins.of_log] for kind in bins.tokens)
            ratio[:, 1] = np.divide(strong, weak, out=np.ones_like(weak), where=weak > 0)
            ratio[:, 0] = np.divide(weak, strong, out=np.ones_like(weak), where=strong > 0)
        to = moves.predicted.astype(int)
        rates = np.array([[p.input_usd_per_million, p.output_usd_per_million] for p in prices]) / 1e6
        elsewhere = (tokens * ratio[np.arange(len(log)), to] * rates[to]).sum(1)
        note = (
            "cost of the pool that did not answer: the logged tokens at its price"
            if bins is None
            else "cost of the pool that did not answer: the logged tokens, times the ratio of both pools' tokens on "
            "calibration queries of a similar score, at its price"
        )
        return cls(log.cost_usd, np.where(moved, elsewhere, log.cost_usd), (note,) if moved.any() else ())


def _share(served: Bools, predicted: Bools, drawn: _Drawn, ahead: int) -> ReplayedFigure:
    n = len(served)
    before, after = (share_interval(int(chosen.sum()), n) for chosen in (served, predicted))
    change = percentile_interval(after.value - before.value, drawn.means[:, 1] - drawn.means[:, 0], LEVEL)
    center = (after.low + after.high) / 2
    return ReplayedFigure(before, after, change, _bounded(_ahead(after, center * (1 - center), ahead)))


def _cost(columns: Floats, drawn: _Drawn, ahead: int) -> ReplayedFigure:
    values = columns.mean(0)
    before, after = (percentile_interval(float(values[i]), drawn.means[:, i], LEVEL) for i in (2, 3))
    change = percentile_interval(after.value - before.value, drawn.means[:, 3] - drawn.means[:, 2], LEVEL)
    return ReplayedFigure(before, after, change, _ahead(after, float(columns[:, 3].var()), ahead, least=0.0))


def _quality(bins: ScoreBins, drawn: _Drawn, ahead: int) -> ReplayedFigure:
    assert drawn.qualities is not None
    one, mine = np.ones((1, len(bins.of_data))), np.ones((1, len(bins.of_log)))
    table = bins.means(one, bins.qualities)
    masses = bins.masses(mine)
    values = [float((mass * table).sum()) for mass in masses]
    before, after = (percentile_interval(values[i], drawn.qualities[:, i], LEVEL) for i in (0, 1))
    change = percentile_interval(values[1] - values[0], drawn.qualities[:, 1] - drawn.qualities[:, 0], LEVEL)
    squares = float((masses[1] * bins.means(one, bins.qualities**2)).sum())
    upcoming = _ahead(after, max(squares - values[1] ** 2, 0.0), ahead)
    ends = float(bins.qualities.min()), float(bins.qualities.max())
    return ReplayedFigure(before, after, change, _bounded(upcoming, *ends))


def _ahead(found: Interval, variance: float, n: int, least: float = -np.inf) -> Interval:
    """The figure in the next n queries: the interval of the mean, widened by what n queries vary by themselves."""
    own = Z95 * sqrt(variance / n)
    low, high = found.value - found.low, found.high - found.value
    return Interval(found.value, max(least, found.value - sqrt(low**2 + own**2)), found.value + sqrt(high**2 + own**2))


def _bounded(found: Interval, least: float = 0.0, most: float = 1.0) -> Interval:
    return Interval(found.value, max(least, found.low), min(most, found.high))


def share_interval(count: int, n: int) -> Interval:
    """A share with Wilson's score interval (Wilson 1927), which always holds it."""
    low, high = wilson(count, n)
    return Interval(count / n, min(low, count / n), max(high, count / n))


def ratings(values: Floats, seed: int = 0) -> ServedRatings | None:
    """Mean of the ratings that there are (not nan), by Wilson where all are 0 or 1, else by bootstrap."""
    known: NDArray[np.float64] = values[~np.isnan(values)]
    if not len(known):
        return None
    if np.isin(known, (0.0, 1.0)).all():
        return ServedRatings(len(known), share_interval(int(known.sum()), len(known)))
    drawn = np.concatenate([w @ known / len(known) for w in resample_weights(len(known), ROUNDS, seed)])
    return ServedRatings(len(known), percentile_interval(float(known.mean()), drawn, LEVEL))
