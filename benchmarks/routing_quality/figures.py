"""From replies to figures: share of strong calls, quality, relative drop with interval, cost, PGR.

Quality drop = (always-large - routed) / always-large. Small lab families repeat queries, so intervals resample
distinct queries, not rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing_quality.ask import Reply
from serve_app.learning.metrics import (
    Curve,
    auc,
    average_pgr,
    bootstrap,
    call_performance_threshold,
    cost_quality_curve,
    decile_curve,
    oracle_curve,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answers:
    """Replies to the same queries under each model name; `queries` are their texts."""

    queries: Sequence[str]
    weak: Sequence[Reply]
    strong: Sequence[Reply]
    routed: Sequence[Reply]
    random: Sequence[Reply]


def figures(answers: Answers, seed: int) -> dict[str, Any]:
    """All figures as JSON-ready values."""
    weak, strong = quality(answers.weak), quality(answers.strong)
    rows = {"always small": answers.weak, "random": answers.random, "router": answers.routed}
    rows["always large"] = answers.strong
    clusters = clusters_of(answers.queries)
    points = {name: _point(replies, answers, clusters, seed) for name, replies in rows.items()}
    share = points["router"]["strong_share"]
    expected = float(weak.mean() + share * (strong.mean() - weak.mean()))
    random_drop = _drop(expected, float(strong.mean()))
    points["random"]["expected_drop_at_router_share"] = random_drop
    router_drop = points["router"]["quality_drop"]
    return {
        "queries": len(weak),
        "distinct_queries": len(clusters),
        "points": points,
        "drop_ratio_random_to_router": random_drop / router_drop if router_drop > 0 else None,
        "oracle_share_without_drop": float((strong > weak).mean()),
        **_curve_figures(answers, weak, strong),
    }


def quality(replies: Sequence[Reply]) -> Floats:
    """Grades, shape [n]."""
    return np.array([r.quality for r in replies])


def scores(replies: Sequence[Reply]) -> Floats:
    """The router's scores, shape [n]. Raises ValueError for a reply without one."""
    found = [r.score for r in replies if r.score is not None]
    if len(found) != len(replies):
        raise ValueError("the routed replies carry no scores: ask a model that a router answers for")
    return np.array(found)


def offline_curve(answers: Answers) -> Curve:
    """The cost-quality curve of the router's scores over both pools' answers."""
    return cost_quality_curve(scores(answers.routed), quality(answers.weak), quality(answers.strong))


def best_curve(answers: Answers) -> Curve:
    """The oracle's curve: it knows both answers."""
    return oracle_curve(quality(answers.weak), quality(answers.strong))


def clusters_of(queries: Sequence[str]) -> list[NDArray[np.int64]]:
    """Rows of each distinct query."""
    rows: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        rows.setdefault(query, []).append(row)
    return [np.array(found) for found in rows.values()]


def _point(
    replies: Sequence[Reply], answers: Answers, clusters: Sequence[NDArray[np.int64]], seed: int
) -> dict[str, Any]:
    weak, strong, got = quality(answers.weak), quality(answers.strong), quality(replies)
    interval = bootstrap(_resampled(clusters, got, strong), len(clusters), seed=seed)
    cost = np.array([r.cost_usd for r in replies])
    dearest = float(np.mean([r.cost_usd for r in answers.strong]))
    return {
        "strong_share": float(np.mean([r.pool == "large" for r in replies])),
        "quality": float(got.mean()),
        "quality_drop": interval.value,
        "quality_drop_interval_95": [interval.low, interval.high],
        "cost_usd_per_1000": float(cost.mean() * 1000),
        "cost_of_always_large": float(cost.mean()) / dearest if dearest else None,
        "pgr": float((got.mean() - weak.mean()) / (strong.mean() - weak.mean())),
    }


def _resampled(
    clusters: Sequence[NDArray[np.int64]], got: Floats, strong: Floats
) -> Callable[[NDArray[np.int64]], float]:
    """The drop over resampled distinct queries; sums of each cluster are taken once."""
    sums = np.array([[got[rows].sum(), strong[rows].sum(), len(rows)] for rows in clusters])

    def drop(picked: NDArray[np.int64]) -> float:
        routed, best, n = sums[picked].sum(0)
        return _drop(routed / n, best / n)

    return drop


def _drop(got: float, strong: float) -> float:
    return float((strong - got) / strong) if strong else 0.0


def _curve_figures(answers: Answers, weak: Floats, strong: Floats) -> dict[str, Any]:
    curve = offline_curve(answers)
    return {
        "auc": auc(scores(answers.routed), strong > weak),
        "apgr": average_pgr(curve),
        "apgr_routellm_deciles": average_pgr(decile_curve(scores(answers.routed), weak, strong)),
        "apgr_oracle": average_pgr(best_curve(answers)),
        "cpt50": call_performance_threshold(curve, 0.5),
        "cpt80": call_performance_threshold(curve, 0.8),
        "cpt95": call_performance_threshold(curve, 0.95),
        "curve": {"share": _thin(curve.share), "quality": _thin(curve.quality)},
    }


def _thin(values: Floats, points: int = 101) -> list[float]:
    """Every so-many-th value, first and last kept: enough to draw the line again."""
    at = np.unique(np.linspace(0, len(values) - 1, points).round().astype(int))
    return [round(float(v), 5) for v in values[at]]
