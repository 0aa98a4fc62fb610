"""Thresholds of a chain of any length within a budget: a search on quantile grids, refined one threshold at a time.

A sweep of one threshold with the others fixed is exact over all its distinct values (sorted once, running sums), so
that two levels are solved exactly, and longer chains too where all combinations are few enough to try.

`smoothed` replaces single outcomes by expected qualities. Among a few hundred queries the best observed threshold is
the luckiest one, and escalation seems to hurt wherever the last few happened to go wrong. The expected quality of a
level is its calibrated probability; of the last one a logistic regression on the levels' log-odds (a query that weak
models find hard, the strong one finds harder).
"""

from dataclasses import dataclass
from itertools import islice, product
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
_BLOCK: Final = 256
_EXACT: Final = 20_000
"""Combinations of all distinct thresholds up to which every one of them is tried."""
_STARTS: Final = 6
_ROUNDS: Final = 20
_SLACK: Final = 1e-12
_EDGE: Final = 1e-4
_STRENGTH: Final = 1.0


@dataclass(frozen=True, slots=True)
class ChainReplay:
    """A chain over recorded answers: n queries and m levels, weakest first.

    `probability` [n, m - 1] that each answer is right (NOT_TAKEN where unknown), `ok` [n, m] quality, `cost_usd` [n, m]
    of each level's calls.
    """

    probability: Floats
    ok: Floats
    cost_usd: Floats

    def __post_init__(self) -> None:
        n, m = self.ok.shape
        if m < 1 or n < 1 or self.cost_usd.shape != (n, m) or self.probability.shape != (n, m - 1):
            raise ValueError(f"a replay of {n} queries over {m} levels: probabilities have {self.probability.shape}")

    def level(self, thresholds: Floats) -> NDArray[np.int64]:
        """Which level answers each query, shape [n]."""
        taken = self.probability >= thresholds
        last = np.ones((len(taken), 1), dtype=bool)
        found: NDArray[np.int64] = np.argmax(np.concatenate([taken, last], axis=1), axis=1)
        return found

    def taken(self, thresholds: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Level, quality and summed cost of each query's answer, shape [n] each."""
        level = self.level(thresholds)
        rows = np.arange(len(level))
        return level, self.ok[rows, level], np.cumsum(self.cost_usd, axis=1)[rows, level]

    def outcome(self, thresholds: Floats) -> "ChainOutcome":
        """Mean figures at these thresholds."""
        level, quality, cost = self.taken(thresholds)
        return ChainOutcome(float(quality.mean()), float(cost.mean()), float((level == self.last).mean()))

    @property
    def last(self) -> int:
        """Index of the last level."""
        return int(self.ok.shape[1]) - 1

    def take(self, rows: NDArray[np.int64]) -> "ChainReplay":
        """Some of the queries."""
        return ChainReplay(self.probability[rows], self.ok[rows], self.cost_usd[rows])


@dataclass(frozen=True, slots=True)
class ChainOutcome:
    """Mean quality, mean cost a query in US dollars, share of queries that reach the last level."""

    quality: float
    cost_usd: float
    strong_share: float


@dataclass(frozen=True, slots=True)
class _Points:
    """Outcomes of several candidates, shape [c] each."""

    quality: Floats
    cost: Floats
    share: Floats


def fit_thresholds(replay: ChainReplay, target: Target) -> Floats | None:
    """The thresholds [m - 1] that meet the target best on these queries; None if none meets it.

    strong-share and cost: the best quality within them, then the least cost. quality-drop: the least cost with a mean
    quality of at least (1 - drop) times that of the last level. Of equals the highest thresholds. Deterministic.
    """
    found = _fitted(replay, target)
    return None if found is None else _between(replay, found)


def _fitted(replay: ChainReplay, target: Target) -> Floats | None:
    if replay.last == 0:
        return np.empty(0) if _within(_points([replay.outcome(np.empty(0))]), replay, target)[0] else None
    distinct = [_cuts(column) for column in replay.probability.T]
    if replay.last == 1 or prod(map(len, distinct)) <= _EXACT:
        return _best_of(replay, target, distinct)
    polished = [_polish(replay, target, start) for start in _starts(replay, target, _grids(replay))]
    points = _points([replay.outcome(t) for t in polished])
    return polished[_best(points, replay, target)] if polished else None


def _between(replay: ChainReplay, thresholds: Floats) -> Floats:
    """Half-way to the next lower probability: the same decisions here, and less luck at the edge elsewhere."""
    found = thresholds.copy()
    for level, column in enumerate(replay.probability.T):
        below = column[(column >= 0.0) & (column < thresholds[level])]
        if thresholds[level] <= 1.0:
            middle = (thresholds[level] + (below.max() if len(below) else 0.0)) / 2
            found[level] = middle if not len(below) or middle > below.max() else thresholds[level]
    return found


def _best_of(replay: ChainReplay, target: Target, grids: list[Floats]) -> Floats | None:
    """The best of all combinations: the last threshold is swept, the others are tried."""
    found: list[Floats] = []
    for others in product(*grids[:-1]):
        thresholds = np.array([*others, NEVER])
        cuts, points = _sweep(replay, thresholds, replay.last - 1)
        at = _best(points, replay, target)
        if _within(points, replay, target)[at]:
            thresholds[-1] = cuts[at]
            found.append(thresholds)
    if not found:
        return None
    return found[_best(_points([replay.outcome(t) for t in found]), replay, target)]


def _starts(replay: ChainReplay, target: Target, grids: list[Floats]) -> list[Floats]:
    """The best few combinations of the grids that keep the target."""
    kept: list[tuple[tuple[float, float], tuple[float, ...]]] = []
    combinations = product(*grids)
    while taken := list(islice(combinations, _BLOCK)):
        block = np.array(taken)
        points = _all_points(replay, block)
        inside = _within(points, replay, target)
        for at in np.flatnonzero(inside)[np.argsort(_rank(points, target)[inside], kind="stable")[:_STARTS]]:
            key = (float(points.cost[at]), -float(points.quality[at]))
            kept.append((key if target.name == QUALITY_DROP else (key[1], key[0]), tuple(block[at].tolist())))
    kept.sort(key=lambda item: (item[0], tuple(-t for t in item[1])))
    return [np.array(thresholds) for _, thresholds in kept[:_STARTS]]


def _all_points(replay: ChainReplay, block: Floats) -> _Points:
    """Outcomes of thresholds [c, m - 1]."""
    n, c = len(replay.ok), len(block)
    quality, cost, reach = np.zeros(c), np.zeros(c), np.ones((c, n), dtype=bool)
    for level in range(replay.last):
        cost += reach @ replay.cost_usd[:, level]
        takes = reach & (replay.probability[:, level][None, :] >= block[:, level][:, None])
        quality += takes @ replay.ok[:, level]
        reach &= ~takes
    cost += reach @ replay.cost_usd[:, -1]
    quality += reach @ replay.ok[:, -1]
    return _Points(quality / n, cost / n, reach.mean(1))


def _polish(replay: ChainReplay, target: Target, thresholds: Floats) -> Floats:
    """Sweep one threshold after the other until none gets better; never leaves the target."""
    now = thresholds.copy()
    for _ in range(_ROUNDS):
        before = now.copy()
        for level in range(replay.last):
            cuts, points = _sweep(replay, now, level)
            at = _best(points, replay, target)
            trial = now.copy()
            trial[level] = cuts[at]
            both = _points([replay.outcome(now), replay.outcome(trial)])
            if _within(both, replay, target)[1] and _best(both, replay, target) == 1:
                now = trial
        if np.array_equal(before, now):
            break
    return now


def _sweep(replay: ChainReplay, thresholds: Floats, level: int) -> tuple[Floats, _Points]:
    """Every cut of one level's threshold, highest first, and the outcomes with the other thresholds fixed."""
    p, n = replay.probability[:, level], len(replay.ok)
    reach = np.all(replay.probability[:, :level] < thresholds[:level], axis=1)
    never = thresholds.copy()
    never[level] = NEVER
    goes = replay.level(never)
    spent = np.cumsum(replay.cost_usd, axis=1)
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

    strong = (goes == replay.last).astype(np.float64)
    quality, cost = (running(of[:, level], of[rows, goes]) for of in (replay.ok, spent))
    return np.concatenate([[NEVER], cuts]), _Points(quality, cost, running(np.zeros(n), strong))


def _cuts(probability: Floats) -> Floats:
    """All that a threshold can be: never, then each distinct probability, falling."""
    return np.concatenate([[NEVER], np.unique(probability[probability >= 0.0])[::-1]])


def _grids(replay: ChainReplay) -> list[Floats]:
    size = max(4, min(_GRID, int(_COMBINATIONS ** (1 / replay.last))))
    grids = []
    for column in replay.probability.T:
        known = column[column >= 0.0]
        cuts = np.quantile(known, np.linspace(0.0, 1.0, size - 1), method="lower") if len(known) else np.empty(0)
        grids.append(np.concatenate([[NEVER], np.unique(cuts)[::-1]]))
    return grids


def _points(outcomes: list[ChainOutcome]) -> _Points:
    rows = np.array([[o.quality, o.cost_usd, o.strong_share] for o in outcomes]).reshape(-1, 3)
    return _Points(rows[:, 0], rows[:, 1], rows[:, 2])


def _within(points: _Points, replay: ChainReplay, target: Target) -> NDArray[np.bool_]:
    """Which points keep the target."""
    if target.name == STRONG_SHARE:
        return points.share <= target.value + _SLACK
    if target.name == COST:
        return points.cost <= target.value * (1 + _SLACK)
    strong = float(replay.ok[:, -1].mean())
    return points.quality >= strong - target.value * abs(strong) - _SLACK


def _rank(points: _Points, target: Target) -> NDArray[np.int64]:
    """Place of each point, best 0; equal ones in the order given. Rounded, so that rounding errors break no tie."""
    cost, quality = np.round(points.cost / max(float(points.cost.max()), 1e-300), 10), np.round(-points.quality, 10)
    order = np.lexsort((quality, cost)) if target.name == QUALITY_DROP else np.lexsort((cost, quality))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place


def _best(points: _Points, replay: ChainReplay, target: Target) -> int:
    """The best point within the target; if there is none, any."""
    inside = _within(points, replay, target)
    rank = np.where(inside, _rank(points, target), len(inside))
    return int(np.argmin(rank))


def smoothed(replay: ChainReplay) -> ChainReplay:
    """The same replay with expected qualities. Needs scikit-learn."""
    if replay.last == 0:
        return replay
    known = replay.probability >= 0.0
    expected = np.where(known, np.clip(replay.probability, 0.0, 1.0), replay.ok[:, :-1].mean(0))
    p = np.clip(expected, _EDGE, 1 - _EDGE)
    log_odds = np.log(p / (1 - p))
    scaled = (log_odds - log_odds.mean(0)) / np.maximum(log_odds.std(0), 1e-9)
    weights, bias = fit_soft(scaled, replay.ok[:, -1], _STRENGTH)
    last = 1.0 / (1.0 + np.exp(-(scaled @ np.maximum(weights, 0.0) + bias)))
    last *= replay.ok[:, -1].mean() / max(float(last.mean()), 1e-12)
    return ChainReplay(replay.probability, np.column_stack([expected, np.clip(last, 0.0, 1.0)]), replay.cost_usd)
