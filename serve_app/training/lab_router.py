"""Trains the routers that ship, on the lab pair's own answers: ask, grade, fit, calibrate, register."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.data.collection.lab import LabPlan, record_lab
from serve_app.data.dataset import Dataset
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.learning.logistic import folds_of
from serve_app.routing.artefact import save_registered
from serve_app.routing.base import Router
from serve_app.training.evaluation import router_metrics
from serve_app.training.training import new_router

_FOLDS = 4
"""Each fold is scored by a router fitted on the others; equal texts are in one fold."""
TARGET_DROP = 0.01
"""Default threshold: a mean quality drop of 1 % against always-large on the queries it is calibrated on ..."""
MOST_STRONG = 0.58
"""... but never more strong calls than this share, or a router would save little."""


PARAMS: Mapping[str, Mapping[str, Any]] = {
    "complexity": {},
    "mf": {"ties": "weak", "noise": 0.02, "learning_rate": 1e-3},
}
"""Kinds that ship, and how they are made: the large lab model loses so rarely that a tie decides for the small one,
and outcomes are so certain that less noise is better (AUC 0.89 for 0.86 with mf's own defaults)."""


@dataclass(frozen=True, slots=True)
class LabRouterPlan:
    """What to train: a kind of PARAMS, on how many queries, drawn and fitted by which seed.

    With `data` the answers are kept in that file, or read from it if it is there.
    """

    kind: str = "complexity"
    n: int = 20_000
    seed: int = 0
    data: Path | None = None

    def router(self) -> Router:
        """An unfitted one."""
        return new_router(self.kind, PARAMS[self.kind], self.seed)


def train(models_dir: Path, out: Path, plan: LabRouterPlan, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Train the router of a plan on balanced lab queries and register it in `out`; returns its metrics.

    The queries are unseen by the models and of the half that is for learning (see `lab_queries`). Threshold and
    figures come from cross-fitting: every query is scored by a router that was not fitted on it; the router that is
    saved is fitted on all. Needs the extra `train`.
    """
    dataset = _answered(models_dir, plan, report)
    started = perf_counter()
    calibration = Calibration.of(cross_scores(dataset, plan), dataset)
    router = plan.router().fit(dataset)
    report(f"{plan.kind}: fitted on {len(dataset):,} queries in {perf_counter() - started:.1f} s")
    threshold = default_threshold(calibration)
    metrics = router_metrics(calibration, threshold.value, plan.seed)
    models = (dataset.weak.model, dataset.strong.model)
    save_registered(out, router, calibration, threshold, models, {"digest": dataset.digest(), **dataset.about}, metrics)
    report(
        f"{out}: threshold {threshold.value:.4f}, {100 * threshold.share:.1f} % strong calls, "
        f"quality drop {100 * threshold.drop:.2f} % on queries not fitted on; AUC {metrics['auc']:.3f}"
    )
    return metrics


def _answered(models_dir: Path, plan: LabRouterPlan, report: Callable[[str], None]) -> Dataset:
    if plan.data is not None and plan.data.exists():
        return Dataset.load(plan.data)
    dataset = record_lab(models_dir, LabPlan(plan.n, "learn", plan.seed), report)
    if plan.data is not None:
        dataset.save(plan.data)
    return dataset


def cross_scores(dataset: Dataset, plan: LabRouterPlan) -> NDArray[np.float64]:
    """Scores of all queries, shape [n], each by a router fitted on the other folds."""
    folds = folds_of([q.text for q in dataset.queries], _FOLDS, plan.seed + 1)
    scores = np.empty(len(dataset))
    for fold in range(_FOLDS):
        inside, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if len(inside):
            scores[inside] = plan.router().fit(dataset.take(others)).score(dataset.take(inside).queries)
    return scores


def default_threshold(calibration: Calibration) -> Threshold:
    """The threshold for TARGET_DROP, or the one for MOST_STRONG where the first would take more strong calls."""
    threshold = Threshold.for_drop(calibration, TARGET_DROP)
    return threshold if threshold.share <= MOST_STRONG else Threshold.for_share(calibration, MOST_STRONG)
