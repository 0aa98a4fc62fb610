"""The figures of a router's card: discrimination, calibration, RouteLLM's metrics, the chosen point, with intervals."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serve_app.learning.metrics import (
    auc,
    average_pgr,
    bootstrap,
    calibration_error,
    call_performance_threshold,
    cost_quality_curve,
    decile_curve,
    oracle_curve,
)

if TYPE_CHECKING:
    from serve_app.routing.threshold import Calibration


def router_metrics(calibration: "Calibration", threshold: float, seed: int = 0) -> dict[str, float | list[float]]:
    """Figures on queries that the router was not fitted on; `*_interval` are 95 % bootstrap intervals."""
    scores, weak, strong = calibration.scores, calibration.weak_quality, calibration.strong_quality
    curve = cost_quality_curve(scores, weak, strong)
    chosen = scores >= threshold
    routed = np.where(chosen, strong, weak)

    def drop(rows: NDArray[np.int64]) -> float:
        top = float(strong[rows].mean())
        return (top - float(routed[rows].mean())) / top if top else 0.0

    found = bootstrap(drop, len(scores), seed=seed)
    figures: dict[str, float | list[float]] = {
        "queries": float(len(scores)),
        "weak_quality": curve.weak,
        "strong_quality": curve.strong,
        "auc": auc(scores, strong > weak),
        "calibration_error": calibration_error(scores, (strong > weak).astype(np.float64)),
        "strong_share": float(chosen.mean()),
        "quality": float(routed.mean()),
        "quality_drop": found.value,
        "quality_drop_interval": [found.low, found.high],
    }
    if curve.weak != curve.strong:
        figures["apgr"] = average_pgr(curve)
        figures["apgr_routellm_deciles"] = average_pgr(decile_curve(scores, weak, strong))
        figures["apgr_oracle"] = average_pgr(oracle_curve(weak, strong))
        figures["cpt50"] = call_performance_threshold(curve, 0.5)
        figures["cpt80"] = call_performance_threshold(curve, 0.8)
    return figures
