"""From scores to figures: quality drop against always-large at a cost advantage, with intervals and paired differences.

The cost advantage is the share of queries that the small model answers (the paper's section 4.1); the drop is relative,
(large - routed) / large, of mean quality over all samples. Small lab families repeat queries, so intervals resample
distinct queries; all routers of a pair see the same resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.hybrid_llm.paper import ADVANTAGES, BEYOND
from benchmarks.hybrid_llm.runs import Trained
from benchmarks.routing_quality.figures import clusters_of
from serve_app.data.dataset import Dataset
from serve_app.learning.metrics import Curve, average_pgr, cost_quality_curve, oracle_curve

Floats = NDArray[np.float64]
ROUNDS = 1000
_POINTS = (*ADVANTAGES, BEYOND)
SHARES = np.linspace(0.0, 1.0, 51)
"""Cost advantages of the curves that are drawn."""


def pair_figures(trained: Mapping[str, Trained], measure: Dataset, seed: int) -> dict[str, Any]:
    """One pair under one metric, JSON-ready."""
    weak, strong = measure.weak.quality.mean(1), measure.strong.quality.mean(1)
    resamples = _resamples(clusters_of([q.text for q in measure.queries]), seed)
    curves = {name: cost_quality_curve(found.scores, weak, strong) for name, found in trained.items()}
    drawn = {name: _resampled(found.scores, weak, strong, resamples) for name, found in trained.items()}
    gap = float(strong.mean() - weak.mean())
    return {
        "quality": {"small": float(weak.mean()), "large": float(strong.mean()), "gap": gap},
        "routers": {name: _router(trained[name], curves[name], drawn[name]) for name in trained},
        "random": {"drop": [a * gap / float(strong.mean()) for a in ADVANTAGES]},
        "oracle": {"drop": drops(oracle_curve(weak, strong)), "curve": _drawn(oracle_curve(weak, strong))},
        "trans_minus_prob": _difference(drawn, curves, "r_trans", "r_prob"),
        "trans_minus_det": _difference(drawn, curves, "r_trans", "r_det"),
    }


def drops(curve: Curve, advantages: Sequence[float] = ADVANTAGES) -> list[float]:
    """Relative drop at each cost advantage."""
    return [(curve.strong - curve.quality_at(1.0 - a)) / curve.strong for a in advantages]


def _router(trained: Trained, curve: Curve, drawn: Floats) -> dict[str, Any]:
    low, high = np.quantile(drawn[:, : len(ADVANTAGES)], [0.025, 0.975], axis=0)
    return {
        "drop": drops(curve),
        "drop_interval_95": [[float(a), float(b)] for a, b in zip(low, high, strict=True)],
        "apgr": average_pgr(curve),
        "relaxation": trained.relaxation,
        "mean_label": trained.mean_label,
        "fit_s": round(trained.fit_s, 1),
        "note": trained.note,
        "curve": _drawn(curve),
    }


def _drawn(curve: Curve) -> list[float]:
    return [round((curve.strong - curve.quality_at(1.0 - s)) / curve.strong, 6) for s in SHARES]


def _difference(
    drawn: Mapping[str, Floats], curves: Mapping[str, Curve], one: str, other: str
) -> list[dict[str, float]]:
    """Drop of one router less another's, at each cost advantage: below zero, the first loses less."""
    values = np.array(drops(curves[one], _POINTS)) - np.array(drops(curves[other], _POINTS))
    low, high = np.quantile(drawn[one] - drawn[other], [0.025, 0.975], axis=0)
    return [
        {"cost_advantage": a, "value": float(v), "low": float(lo), "high": float(hi)}
        for a, v, lo, hi in zip(_POINTS, values, low, high, strict=True)
    ]


def _resamples(clusters: list[NDArray[np.int64]], seed: int) -> list[NDArray[np.int64]]:
    """Rows of distinct queries drawn with replacement, ROUNDS times."""
    rng = np.random.default_rng(seed)
    picks = (rng.integers(0, len(clusters), len(clusters)) for _ in range(ROUNDS))
    return [np.concatenate([clusters[i] for i in picked]) for picked in picks]


def _resampled(scores: Floats, weak: Floats, strong: Floats, resamples: list[NDArray[np.int64]]) -> Floats:
    """Drops on each resample, shape [ROUNDS, len(_POINTS)]."""
    return np.array([drops(cost_quality_curve(scores[r], weak[r], strong[r]), _POINTS) for r in resamples])
