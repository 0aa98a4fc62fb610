"""Metrics of a router: the cost-quality curve and its figures, as RouteLLM defines them; bootstrap intervals.

Definitions follow RouteLLM (arXiv 2406.18665, section 2.3) and its evaluation: PGR is the share of the gap between
weak and strong that a router recovers, APGR its mean over the share of strong calls, CPT(x) the share of strong calls
at which PGR reaches x. Qualities have any unit, one value per query and pool.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean quality and cost at each share of strong calls that a threshold can reach, share ascending.

    A threshold cannot split equal scores, so there is one point for each distinct score and one for "none
    strong" (index 0). `thresholds[i]` reaches point i: strong if score >= threshold.
    """

    thresholds: Floats
    share: Floats
    quality: Floats
    cost_usd: Floats
    weak: float
    strong: float

    @property
    def pgr(self) -> Floats:
        """Performance gap recovered at each point. Raises ValueError where there is no gap to recover."""
        return performance_gap_recovered(self.quality, self.weak, self.strong)

    @property
    def drop(self) -> Floats:
        """Relative quality drop against always-strong, (strong - quality) / |strong|; 0 where strong is 0."""
        return quality_drop(self.quality, self.strong)

    def quality_at(self, share: float) -> float:
        """Mean quality at a share of strong calls, linear between the points."""
        return float(np.interp(share, self.share, self.quality))


def cost_quality_curve(
    scores: Floats,
    weak_quality: Floats,
    strong_quality: Floats,
    weak_cost_usd: Floats | None = None,
    strong_cost_usd: Floats | None = None,
) -> Curve:
    """The curve of a router's scores, each array of shape [n]. Raises ValueError for unequal or empty arrays."""
    n = len(scores)
    zero = np.zeros(n)
    weak_cost = zero if weak_cost_usd is None else weak_cost_usd
    strong_cost = zero if strong_cost_usd is None else strong_cost_usd
    if n == 0 or any(len(a) != n for a in (weak_quality, strong_quality, weak_cost, strong_cost)):
        raise ValueError("a curve needs one score, quality and cost for each of at least one query")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), n - 1)

    def running(weak: Floats, strong: Floats) -> Floats:
        gains = np.cumsum((strong - weak)[order])[last_of_tie]
        means: Floats = np.mean(weak) + np.concatenate([[0.0], gains]) / n
        return means

    return Curve(
        thresholds=_between(ranked[last_of_tie]),
        share=np.concatenate([[0.0], (last_of_tie + 1) / n]),
        quality=running(weak_quality, strong_quality),
        cost_usd=running(weak_cost, strong_cost),
        weak=float(np.mean(weak_quality)),
        strong=float(np.mean(strong_quality)),
    )


def decile_curve(scores: Floats, weak_quality: Floats, strong_quality: Floats, results: int = 10) -> Curve:
    """RouteLLM's points: thresholds at the quantiles of the scores (deciles for `results` 10), equal ones once.

    As in its evaluation, a query is strong if its score reaches the threshold, save for the topmost one, the highest
    score, which must be exceeded: the curve begins with no strong call and ends with all strong.
    """
    full = cost_quality_curve(scores, weak_quality, strong_quality)
    edges = np.unique(np.quantile(scores, np.arange(results) / results))[::-1]
    thresholds = np.concatenate([full.thresholds[:1], edges])
    shares = np.array([np.mean(scores >= threshold) for threshold in thresholds])
    at = np.searchsorted(full.share, shares - 0.5 / len(scores))
    return Curve(thresholds, full.share[at], full.quality[at], full.cost_usd[at], full.weak, full.strong)


def oracle_curve(weak_quality: Floats, strong_quality: Floats) -> Curve:
    """The curve of a router that knows both answers' quality: an upper bound."""
    return cost_quality_curve(strong_quality - weak_quality, weak_quality, strong_quality)


def performance_gap_recovered(quality: Floats, weak: float, strong: float) -> Floats:
    """PGR = (quality - weak) / (strong - weak). Raises ValueError where both are equal."""
    if strong == weak:
        raise ValueError(f"weak and strong both have quality {weak}: there is no gap to recover")
    recovered: Floats = (np.asarray(quality) - weak) / (strong - weak)
    return recovered


def average_pgr(curve: Curve) -> float:
    """APGR: mean PGR over the shares that the curve covers, by trapezoids. 0.5 for random routing in expectation."""
    return float(np.trapezoid(curve.pgr, curve.share) / (curve.share[-1] - curve.share[0]))


def call_performance_threshold(curve: Curve, pgr: float) -> float:
    """CPT: the smallest share of strong calls at which PGR reaches `pgr`, linear between points; nan if it never does.

    The same as RouteLLM's where quality rises with share; where it does not, theirs is undefined.
    """
    return float(share_reaching(curve.share[None], curve.pgr[None], pgr)[0])


def share_reaching(share: Floats, pgr: Floats, target: float) -> Floats:
    """Smallest share at which PGR [rounds, points] reaches `target`, linear between points; nan where it never does."""
    reached = pgr >= target
    i = reached.argmax(axis=1)
    rows = np.arange(len(pgr))
    before = np.maximum(i - 1, 0)
    low, high = pgr[rows, before], pgr[rows, i]
    part = np.divide(target - low, high - low, out=np.zeros_like(low), where=high > low)
    at = share[rows, before] + part * (share[rows, i] - share[rows, before])
    return np.where(reached.any(axis=1), np.where(i == 0, share[:, 0], at), np.nan)


def area(curve: Curve) -> float:
    """Area under mean quality over the share of strong calls, by trapezoids."""
    return float(np.trapezoid(curve.quality, curve.share))


def quality_drop(quality: Floats, strong: float) -> Floats:
    """(strong - quality) / |strong|, the relative drop against always-strong; 0 where strong is 0.

    The divisor is the absolute value, so that drops of negative qualities (BARTScore) are positive.
    """
    return (strong - np.asarray(quality)) / abs(strong) if strong else np.zeros_like(quality)


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """P(a positive query scores above a negative one), ties half (Mann-Whitney); nan where one class is missing."""
    pos, neg = np.sort(scores[positive]), np.sort(scores[~positive])
    if len(pos) == 0 or len(neg) == 0:
        return float("nan")
    below = np.searchsorted(neg, pos, "left") + np.searchsorted(neg, pos, "right")
    return float(np.sum(below) / 2 / (len(pos) * len(neg)))


def calibration_error(scores: Floats, outcomes: Floats, bins: int = 10) -> float:
    """Expected calibration error over bins of equal mass: mean |mean score - mean outcome|."""
    parts = np.array_split(np.argsort(scores, kind="stable"), min(bins, len(scores)))
    return float(sum(len(p) * abs(np.mean(scores[p]) - np.mean(outcomes[p])) for p in parts) / len(scores))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its bootstrap percentile interval."""

    value: float
    low: float
    high: float


def resamples(n: int, rounds: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Bootstrap resamples: positions of n queries, shape [n], drawn with replacement; `rounds` of them."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        yield rng.integers(0, n, n)


def percentile_interval(value: float, drawn: Floats, level: float = 0.95) -> Interval:
    """The interval of a figure from its values on resamples, [rounds]; those that do not exist (nan) are left out."""
    known = drawn[np.isfinite(drawn)]
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if len(known) else (np.nan, np.nan)
    return Interval(value, float(low), float(high))


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], n: int, *, rounds: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of `statistic(positions)` over `rounds` resamples of n queries with replacement."""
    drawn = np.array([statistic(rows) for rows in resamples(n, rounds, seed)])
    return percentile_interval(statistic(np.arange(n)), drawn, level)


def _between(distinct: Floats) -> Floats:
    """Thresholds for distinct scores, descending: above all, then half-way below each, then 0 for all strong."""
    top = distinct[0]
    above = (top + 1.0) / 2 if top < 1.0 else np.nextafter(top, np.inf)
    if above <= top:
        above = np.nextafter(top, np.inf)
    middle = (distinct[:-1] + distinct[1:]) / 2
    middle = np.where(middle > distinct[1:], middle, distinct[:-1])
    return np.concatenate([[above], middle, [min(0.0, distinct[-1])]])
