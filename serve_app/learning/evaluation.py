"""How good a router is on queries that it was not fitted on: every figure with its interval, ready for JSON.

Cost advantage is the share of queries that the weak model answers (Hybrid LLM, arXiv 2404.14618, section 4.1); PGR,
APGR and CPT are RouteLLM's (arXiv 2406.18665, section 2.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serve_app.learning.dataset import Dataset
from serve_app.learning.metrics import Curve, Interval, average_pgr, cost_quality_curve, decile_curve, oracle_curve
from serve_app.learning.resampling import BINS, ROUNDS, Figures, Scored, intervals, resampled

if TYPE_CHECKING:
    from serve_app.routing.threshold import Calibration

Floats = NDArray[np.float64]
_POINTS = 200
"""Points of a curve that are kept: a plot shows no more."""
_CARD = ("weak_quality", "strong_quality", "auc", "calibration_error", "apgr", "cpt50", "cpt80")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A router's figures on one dataset. `figures` are named as in `resampling.Figures`."""

    router: str
    version: str
    queries: int
    thresholds: tuple[float, ...]
    figures: dict[str, Interval]
    oracle_apgr: float
    routellm_apgr: float
    """APGR over thresholds at score deciles, as RouteLLM's own evaluation takes it."""
    curve: Curve
    oracle: Curve
    reliability: list[dict[str, float]]

    def at(self, threshold: float) -> dict[str, Interval]:
        """Share, quality, drop, pgr, cost_usd and cost_share at one of the thresholds."""
        suffix = f"@{threshold:.10g}"
        return {name.removesuffix(suffix): value for name, value in self.figures.items() if name.endswith(suffix)}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; what does not exist (no gap, one class) is null."""
        plain = {name: value for name, value in self.figures.items() if "@" not in name}
        return {
            "router": self.router,
            "version": self.version,
            "queries": self.queries,
            "figures": {name: interval_json(value) for name, value in plain.items()},
            "apgr_oracle": _number(self.oracle_apgr),
            "apgr_routellm_deciles": _number(self.routellm_apgr),
            "thresholds": [
                {"threshold": t, **{name: interval_json(value) for name, value in self.at(t).items()}}
                for t in self.thresholds
            ],
            "reliability": self.reliability,
            "curve": _curve_json(self.curve),
            "oracle_curve": _curve_json(self.oracle),
        }


def scored(scores: Floats, dataset: Dataset) -> Scored:
    """A router's scores of the dataset's queries beside what both models' answers were worth and cost."""
    weak, strong = dataset.weak, dataset.strong
    qualities = (weak.quality.mean(1), strong.quality.mean(1))
    return Scored(scores, dataset.strong_win_rate(), *qualities, weak.cost_usd.mean(1), strong.cost_usd.mean(1))


def evaluate(
    of: tuple[str, str], found: Scored, thresholds: Sequence[float] = (), rounds: int = ROUNDS, seed: int = 0
) -> Evaluation:
    """All figures of the router `of` = (name, version), with 95 % intervals from `rounds` bootstrap resamples."""
    qualities = (found.weak_quality, found.strong_quality)
    figures = Figures(found, thresholds)
    told = intervals(figures.of_data(), resampled(figures, len(found), rounds, seed))
    curve = cost_quality_curve(found.scores, *qualities, found.weak_cost_usd, found.strong_cost_usd)
    oracle = oracle_curve(*qualities)
    gap = curve.weak != curve.strong
    return Evaluation(
        *of,
        len(found),
        tuple(thresholds),
        told,
        average_pgr(oracle) if gap else float("nan"),
        average_pgr(decile_curve(found.scores, *qualities)) if gap else float("nan"),
        curve,
        oracle,
        reliability(found.scores, found.win_rate),
    )


def reliability(scores: Floats, outcomes: Floats, bins: int = BINS) -> list[dict[str, float]]:
    """Mean score and mean outcome in bins of equal mass, score ascending, with the outcome's standard error."""
    parts = np.array_split(np.argsort(scores, kind="stable"), min(bins, len(scores)))
    return [
        {
            "score": round(float(scores[p].mean()), 6),
            "outcome": round(float(outcomes[p].mean()), 6),
            "standard_error": round(float(outcomes[p].std() / np.sqrt(len(p))), 6),
            "queries": len(p),
        }
        for p in parts
    ]


def router_metrics(calibration: "Calibration", threshold: float, seed: int = 0) -> dict[str, float | list[float]]:
    """The figures of a router's card; `*_interval` are 95 % bootstrap intervals. What does not exist is left out.

    The strong model wins a query if its mean quality is higher, since a calibration keeps means.
    """
    weak, strong = calibration.weak_quality, calibration.strong_quality
    zero = np.zeros(len(weak))
    costs = (zero if c is None else c for c in (calibration.weak_cost_usd, calibration.strong_cost_usd))
    found = Scored(calibration.scores, (strong > weak).astype(np.float64), weak, strong, *costs)
    evaluation = evaluate(("", ""), found, (threshold,), seed=seed)
    at = evaluation.at(threshold)
    told = {name: evaluation.figures[name] for name in _CARD}
    told |= {"strong_share": at["share"], "quality": at["quality"], "quality_drop": at["drop"]}
    figures: dict[str, float | list[float]] = {"queries": float(len(weak))}
    for name, value in told.items():
        if np.isfinite(value.value):
            figures[name] = value.value
            if name in ("apgr", "quality_drop"):
                figures[f"{name}_interval"] = [value.low, value.high]
    if np.isfinite(evaluation.oracle_apgr):
        figures["apgr_routellm_deciles"] = evaluation.routellm_apgr
        figures["apgr_oracle"] = evaluation.oracle_apgr
    return figures


def interval_json(value: Interval) -> dict[str, float | None]:
    """Value, low and high to eight digits; null where the figure does not exist."""
    return {"value": _number(value.value), "low": _number(value.low), "high": _number(value.high)}


def _number(value: float) -> float | None:
    return float(f"{value:.8g}") if np.isfinite(value) else None


def _curve_json(curve: Curve) -> dict[str, list[float]]:
    at = np.unique(np.linspace(0, len(curve.share) - 1, _POINTS).round().astype(int))
    columns = {
        "share": curve.share,
        "quality": curve.quality,
        "cost_usd": curve.cost_usd,
        "threshold": curve.thresholds,
    }
    return {name: [float(f"{v:.8g}") for v in values[at]] for name, values in columns.items()}
