"""Thresholds of a chain of any length under a budget: a search on quantile grids, polished one threshold at a time.

A sweep of one threshold with the others fixed is exact over all its distinct values (sorted once, running sums), so
that two levels are solved exactly, and longer chains too where all combinations are few enough to try.

Qualities as a chain's judges expect them, in the place of single outcomes: thresholds then follow no query's luck.

Among a few hundred queries the best observed threshold is the luckiest one, and asking further seems to hurt wherever
the last few happened to go wrong. Of a judged level the expected quality is its calibrated probability; of the last
one a logistic regression on the judges' log-odds (a query that weak models find hard, the strong one finds harder).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.decision.target import COST, QUALITY_DROP, STRONG_SHARE, Target
from serve_app.learning.logistic import fit_soft

NEVER: Final = 2.0
"""A threshold above every probability: the level's answer is never taken."""
_GRID: Final = 40
"""Quantiles a level tried for a chain of three (FrugalGPT's number); longer chains get fewer, for like effort."""
_COMBINATIONS: Final = 20_000
_EXACT: Final = 20_000
"""Combinations of all distinct thresholds up to which every one of them is tried."""
_STARTS: Final = 6
_ROUNDS: Final = 20
_SLACK: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Walk:
    """What a chain would have done: for n queries and m levels, weakest first.

    `probability` [n, m - 1] that each answer is right (NOT_TAKEN where unknown), `ok` [n, m] quality, `cost_usd` [n, m]
    of each level's call with its judging.
    """

    probability: Floats
    ok: Floats
    cost_usd: Floats

    def __post_init__(self) -> None:
        n, m = self.ok.shape
        if m < 1 or n < 1 or self.cost_usd.shape != (n, m) or self.probability.shape != (n, m - 1):
            raise ValueError(f"a walk of {n} queries over {m} levels: probabilities have {self.probability.shape}")

    def level(self, thresholds: Floats) -> NDArray[np.int64]:
        """Which level answers each query, shape [n]."""
        taken = self.probability >= thresholds
        last = np.ones((len(taken), 1), dtype=bool)
        found: NDArray[np.int64] = np.argmax(np.concatenate([taken, last], axis=1), axis=1)
        return found

    def outcome(self, thresholds: Floats) -> "Outcome":
        """Mean figures at these thresholds."""
        level = self.level(thresholds)
        rows = np.arange(len(level))
        spent = np.cumsum(self.cost_usd, axis=1)[rows, level]
        return Outcome(float(self.ok[rows, level].mean()), float(spent.mean()), float((level == self.last).mean()))

    @property
    def last(self) -> int:
        """Index of the last level."""
        return int(self.ok.shape[1]) - 1

    def take(self, rows: NDArray[np.int64]) -> "Walk":
        """Some of the queries."""
        return Walk(self.probability[rows], self.ok[rows], self.cost_usd[rows])


@dataclass(frozen=True, slots=True)
class Outcome:
    """Mean quality, mean cost a query in US dollars, share of queries that ask the last level."""

    quality: float
    cost_usd: float
    strong_share: float


@dataclass(frozen=True, slots=True)
class _Points:
    """Outcomes of several candidates, shape [c] each."""

    quality: Floats
    cost: Floats
    share: Floats


def fit_thresholds(walk: Walk, target: Target) -> Floats | None:
    """The thresholds [m - 1] that serve the target best on these queries; None if nothing within it can be had.

    strong-share and cost: the best quality within them, then the least cost. quality-drop: the least cost with a mean
    quality of at least (1 - drop) times always asking the last level. Of equals the highest thresholds. Deterministic.
    """
    found = _fitted(walk, target)
    return None if found is None else _between(walk, found)


def _fitted(walk: Walk, target: Target) -> Floats | None:
    if walk.last == 0:
        return np.empty(0) if _within(_points([walk.outcome(np.empty(0))]), walk, target)[0] else None
    distinct = [_cuts(column) for column in walk.probability.T]
    if walk.last == 1 or prod(map(len, distinct)) <= _EXACT:
        return _best_of(walk, target, distinct)
    grids = _grids(walk)
    starts = _starts(walk, target, grids)
    polished = [_polish(walk, target, start) for start in starts]
    points = _points([walk.outcome(t) for t in polished])
    return polished[_best(points, walk, target)] if polished else None


def _between(walk: Walk, thresholds: Floats) -> Floats:
    """Half-way to the next lower probability: the same decisions here, and no query's luck on the edge elsewhere."""
    found = thresholds.copy()
    for level, column in enumerate(walk.probability.T):
        below = column[(column >= 0.0) & (column < thresholds[level])]
        if thresholds[level] <= 1.0:
            middle = (thresholds[level] + (below.max() if len(below) else 0.0)) / 2
            found[level] = middle if not len(below) or middle > below.max() else thresholds[level]
    return found


def _best_of(walk: Walk, target: Target, grids: list[Floats]) -> Floats | None:
    """The best of all combinations: the last threshold is swept, the others are tried."""
    found: list[Floats] = []
    for others in product(*grids[:-1]):
        thresholds = np.array([*others, NEVER])
        cuts, points = _sweep(walk, thresholds, walk.last - 1)
        at = _best(points, walk, target)
        if _within(points, walk, target)[at]:
            thresholds[-1] = cuts[at]
            found.append(thresholds)
    if not found:
        return None
    return found[_best(_points([walk.outcome(t) for t in found]), walk, target)]


def _starts(walk: Walk, target: Target, grids: list[Floats]) -> list[Floats]:
    """The best few combinations of the grids that keep the target."""
    kept: list[tuple[tuple[float, float], tuple[float, ...]]] = []
    for block in _blocks(product(*grids)):
        points = _all_points(walk, block)
        inside = _within(points, walk, target)
        for at in np.flatnonzero(inside)[np.argsort(_rank(points, target)[inside], kind="stable")[:_STARTS]]:
            key = (float(points.cost[at]), -float(points.quality[at]))
            kept.append((key if target.name == QUALITY_DROP else (key[1], key[0]), tuple(block[at].tolist())))
    kept.sort(key=lambda item: (item[0], tuple(-t for t in item[1])))
    return [np.array(thresholds) for _, thresholds in kept[:_STARTS]]


def _blocks(combinations: Iterator[tuple[float, ...]], size: int = 256) -> Iterator[Floats]:
    block: list[tuple[float, ...]] = []
    for combination in combinations:
        block.append(combination)
        if len(block) == size:
            yield np.array(block)
            block = []
    if block:
        yield np.array(block)


def _all_points(walk: Walk, block: Floats) -> _Points:
    """Outcomes of thresholds [c, m - 1]."""
    n, c = len(walk.ok), len(block)
    quality, cost, reach = np.zeros(c), np.zeros(c), np.ones((c, n), dtype=bool)
    for level in range(walk.last):
        cost += reach @ walk.cost_usd[:, level]
        takes = reach & (walk.probability[:, level][None, :] >= block[:, level][:, None])
        quality += takes @ walk.ok[:, level]
        reach &= ~takes
    cost += reach @ walk.cost_usd[:, -1]
    quality += reach @ walk.ok[:, -1]
    return _Points(quality / n, cost / n, reach.mean(1))


def _polish(walk: Walk, target: Target, thresholds: Floats) -> Floats:
    """Sweep one threshold after the other until none gets better; never leaves the target."""
    now = thresholds.copy()
    for _ in range(_ROUNDS):
        before = now.copy()
        for level in range(walk.last):
            cuts, points = _sweep(walk, now, level)
            at = _best(points, walk, target)
            trial = now.copy()
            trial[level] = cuts[at]
            both = _points([walk.outcome(now), walk.outcome(trial)])
            if _within(both, walk, target)[1] and _best(both, walk, target) == 1:
                now = trial
        if np.array_equal(before, now):
            break
    return now


def _sweep(walk: Walk, thresholds: Floats, level: int) -> tuple[Floats, _Points]:
    """Every cut of one level's threshold, highest first, and the outcomes with the other thresholds fixed."""
    p, n = walk.probability[:, level], len(walk.ok)
    reach = np.all(walk.probability[:, :level] < thresholds[:level], axis=1)
    never = thresholds.copy()
    never[level] = NEVER
    goes = walk.level(never)
    spent = np.cumsum(walk.cost_usd, axis=1)
    rows = np.arange(n)
    order = np.argsort(-p, kind="stable")
    order = order[reach[order] & (p[order] >= 0.0)]
    ranked = p[order]
    cuts = np.unique(ranked)[::-1]
    counts = np.searchsorted(-ranked, -cuts, side="right") if len(cuts) else np.empty(0, dtype=np.int64)

    def running(taken: Floats, otherwise: Floats) -> Floats:
        gains = np.concatenate([[0.0], np.cumsum((taken - otherwise)[order])])
        means: Floats = (otherwise.sum() + gains[np.concatenate([[0], counts]).astype(np.int64)]) / n
        return means

    strong = (goes == walk.last).astype(np.float64)
    points = _Points(
        running(walk.ok[:, level], walk.ok[rows, goes]),
        running(spent[:, level], spent[rows, goes]),
        running(np.zeros(n), strong),
    )
    return np.concatenate([[NEVER], cuts]), points


def _cuts(probability: Floats) -> Floats:
    """All that a threshold can be: never, then each distinct probability, falling."""
    known = np.unique(probability[probability >= 0.0])[::-1]
    return np.concatenate([[NEVER], known])


def _grids(walk: Walk) -> list[Floats]:
    size = max(4, min(_GRID, int(_COMBINATIONS ** (1 / walk.last))))
    grids = []
    for column in walk.probability.T:
        known = column[column >= 0.0]
        cuts = np.quantile(known, np.linspace(0.0, 1.0, size - 1), method="lower") if len(known) else np.empty(0)
        grids.append(np.concatenate([[NEVER], np.unique(cuts)[::-1]]))
    return grids


def _points(outcomes: list[Outcome]) -> _Points:
    rows = np.array([[o.quality, o.cost_usd, o.strong_share] for o in outcomes]).reshape(-1, 3)
    return _Points(rows[:, 0], rows[:, 1], rows[:, 2])


def _within(points: _Points, walk: Walk, target: Target) -> NDArray[np.bool_]:
    """Which points keep the target."""
    if target.name == STRONG_SHARE:
        return points.share <= target.value + _SLACK
    if target.name == COST:
        return points.cost <= target.value * (1 + _SLACK)
    strong = float(walk.ok[:, -1].mean())
    return points.quality >= strong - target.value * abs(strong) - _SLACK


def _rank(points: _Points, target: Target) -> NDArray[np.int64]:
    """Place of each point, best 0; equal ones in the order given. Rounded, so that rounding errors break no tie."""
    cost, quality = np.round(points.cost / max(float(points.cost.max()), 1e-300), 10), np.round(-points.quality, 10)
    order = np.lexsort((quality, cost)) if target.name == QUALITY_DROP else np.lexsort((cost, quality))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place


def _best(points: _Points, walk: Walk, target: Target) -> int:
    """The best point within the target; if there is none, any."""
    inside = _within(points, walk, target)
    rank = np.where(inside, _rank(points, target), len(inside))
    return int(np.argmin(rank))


_EDGE = 1e-4
_STRENGTH = 1.0


def smoothed(walk: Walk) -> Walk:
    """The same walk with expected qualities. Needs scikit-learn."""
    if walk.last == 0:
        return walk
    known = walk.probability >= 0.0
    judged = np.where(known, np.clip(walk.probability, 0.0, 1.0), walk.ok[:, :-1].mean(0))
    p = np.clip(judged, _EDGE, 1 - _EDGE)
    log_odds = np.log(p / (1 - p))
    scaled = (log_odds - log_odds.mean(0)) / np.maximum(log_odds.std(0), 1e-9)
    weights, bias = fit_soft(scaled, walk.ok[:, -1], _STRENGTH)
    last = 1.0 / (1.0 + np.exp(-(scaled @ np.maximum(weights, 0.0) + bias)))
    last *= walk.ok[:, -1].mean() / max(float(last.mean()), 1e-12)
    return Walk(walk.probability, np.column_stack([judged, np.clip(last, 0.0, 1.0)]), walk.cost_usd)
