"""From scores to figures with intervals, and what the groups of a set say of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.recorded_routing.crossed import BASELINE, Crossed
from benchmarks.recorded_routing.sets import Task
from serve_app.data.dataset import Dataset
from serve_app.learning.metrics import average_pgr, decile_curve, oracle_curve
from serve_app.training.evaluation import WeightedFigures, interval_json, intervals, resampled, scored_queries

Floats = NDArray[np.float64]
WITH_INTERVALS = ("apgr", "cpt50", "cpt80", "auc", "calibration_error")


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind on one task; `rounds` are APGRs on the resamples that all kinds share."""

    figures: dict[str, Any]
    rounds: Floats


def measured(task: Task, crossed: Crossed, rounds: int) -> Measured:
    """All figures of a kind's scores with 95 % bootstrap intervals over queries."""
    found = scored_queries(crossed.scores, task.dataset)
    figures = WeightedFigures(found)
    drawn = resampled(figures, len(found), rounds, task.seed)
    intervals_found = intervals(figures.of_data(), drawn)
    curve = decile_curve(crossed.scores, found.weak_quality, found.strong_quality)
    values: dict[str, Any] = {name: interval_json(intervals_found[name]) for name in WITH_INTERVALS}
    values |= {"apgr_routellm_deciles": average_pgr(curve), "fit_s": round(crossed.fit_s, 1)}
    return Measured(values, drawn["apgr"])


def against_baseline(kinds: Mapping[str, Measured]) -> None:
    """Adds to each kind its APGR less the baseline's, with the interval of the difference on equal resamples."""
    base = kinds.get(BASELINE)
    if base is None:
        return
    for kind, one in kinds.items():
        if kind != BASELINE:
            low, high = np.quantile(one.rounds - base.rounds, [0.025, 0.975])
            value = one.figures["apgr"]["value"] - base.figures["apgr"]["value"]
            one.figures["apgr_above_baseline"] = {"value": value, "low": float(low), "high": float(high)}


def about(dataset: Dataset) -> dict[str, Any]:
    """What there is to gain on a set."""
    weak, strong = dataset.weak.quality.mean(1), dataset.strong.quality.mean(1)
    return {
        "queries": len(dataset),
        "benchmark": dataset.about.get("benchmark", ""),
        "contaminated_dropped": dataset.about["contaminated_dropped"],
        "small": float(weak.mean()),
        "large": float(strong.mean()),
        "large_better": float((strong > weak).mean()),
        "small_better": float((strong < weak).mean()),
        "oracle": float(np.maximum(weak, strong).mean()),
        "apgr_oracle": average_pgr(oracle_curve(weak, strong)),
    }


def inverted_groups(dataset: Dataset) -> list[dict[str, Any]]:
    """Groups in which the large model is the worse one, with the sign test's two-sided p of so uneven a split."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    weak, strong = dataset.weak.quality.mean(1), dataset.strong.quality.mean(1)
    groups = np.array(dataset.groups)
    found = []
    for group in np.unique(groups):
        at = groups == group
        if strong[at].mean() >= weak[at].mean():
            continue
        wins, losses = int((strong > weak)[at].sum()), int((strong < weak)[at].sum())
        found.append(
            {
                "group": str(group),
                "queries": int(at.sum()),
                "small": float(weak[at].mean()),
                "large": float(strong[at].mean()),
                "large_better": wins,
                "small_better": losses,
                "p": float(binomtest(wins, wins + losses).pvalue),
            }
        )
    return found
