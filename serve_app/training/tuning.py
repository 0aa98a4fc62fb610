"""From both models' answers to a calibrated router with honest figures, or to the finding that none is of use.

Three parts, which no near-duplicate straddles: kinds are compared by cross-validation and the best is trained on the
first, its threshold is chosen on the second, and all figures are of the third, which took no part in any choice. A
router is offered only where it beats random on both the first and the third.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.data.splitting import split_dataset
from serve_app.data.validation import check
from serve_app.decision.target import QUALITY_DROP, STRONG_SHARE, Target
from serve_app.decision.threshold import Calibration
from serve_app.errors import DataError
from serve_app.learning.metrics import Interval, bootstrap
from serve_app.routing.base import Report, silent
from serve_app.routing.registry import Registry
from serve_app.training.artefacts import open_router
from serve_app.training.comparison import BASELINE, ComparedRouter, ComparisonPlan, compare, recommend
from serve_app.training.evaluation import Evaluation, evaluate, scored_queries
from serve_app.training.training import TrainingRun, default_folds, recalibrate, register, train

TRAIN, CALIBRATION, TEST = "train", "calibration", "test"
SHARES: Final = {TRAIN: 0.5, CALIBRATION: 0.2, TEST: 0.3}
"""Of 600 prompts 180 measure: intervals of quality are then about 0.05 to either side."""
FEWEST: Final = 100
"""Prompts; with fewer, 30 or less measure, and hardly any router would differ from random."""
CHANCE: Final = 0.5
"""APGR of random routing in expectation."""
_OTHERS: Final = tuple(Target(STRONG_SHARE, share) for share in (0.2, 0.4, 0.6, 0.8))
_DROPS: Final = tuple(Target(QUALITY_DROP, drop) for drop in (0.01, 0.02, 0.05))
_CLOSE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """What to look for. `kinds` are compared; the threshold is calibrated to `target`; `name`: the router's."""

    kinds: Sequence[str] = ("complexity", "knn", "mf")
    target: Target = field(default_factory=lambda: Target(QUALITY_DROP, 0.01))
    name: str = "tuned"
    folds: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold chosen on the calibration part for a target, with figures of the test part."""

    target: str
    threshold: float
    share: Interval
    quality: Interval
    drop: Interval
    saved_usd: Interval
    """Against calling the large model for every query, US dollars a query."""
    gain: Interval
    """Quality above random routing with the same share of strong calls."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One model alone on the test part."""

    quality: Interval
    cost_usd: Interval


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found. Where no router is offered `kind` is None, `reason` says why, and `advice` what to do instead."""

    parts: Mapping[str, int]
    """Queries in each part."""
    models: tuple[str, str]
    weak: Reference
    strong: Reference
    reason: str = ""
    advice: str = ""
    kind: str | None = None
    version: str = ""
    candidates: Sequence[ComparedRouter] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    """Of the chosen kind on the test part; also where it was found to be of no use there."""
    points: Sequence[OperatingPoint] = ()
    """The recommended one first."""

    @property
    def useful(self) -> bool:
        """Whether a router is offered."""
        return self.kind is not None


def tune(dataset: Dataset, plan: TuningPlan, folder: Path, registry: Registry, report: Report = silent) -> Tuned:
    """Compare, train, calibrate and evaluate. A router that is of use is in `registry` afterwards; none serves yet.

    `folder` keeps what takes long, so that the same call resumes. The dataset has the pools small and large, scored.
    Raises DataError for too few queries, or data without anything to learn.
    """
    if len(dataset) < FEWEST:
        raise DataError(f"{len(dataset)} queries are too few to train, calibrate and measure: give {FEWEST} or more")
    check(dataset, needs_two_classes=False)
    parts = split_dataset(dataset, SHARES, plan.seed)
    sizes = {name: len(part) for name, part in parts.items()}
    report(", ".join(f"{name}: {size:,} queries" for name, size in sizes.items()))
    models = (dataset.weak.model, dataset.strong.model)
    weak, strong = (_reference(pool, plan.seed) for pool in (parts[TEST].weak, parts[TEST].strong))
    found = Tuned(sizes, models, weak, strong, advice=_advice(parts[TEST], plan.seed))
    if (reason := _nothing_to_gain(parts[TRAIN])) is not None:
        return replace(found, reason=reason, advice="call the small model for every query")
    comparison = ComparisonPlan(plan.kinds, plan.folds, plan.seed, plan.target)
    candidates, refused = compare(parts[TRAIN], comparison, folder, report)
    found = replace(found, candidates=candidates, refused=refused)
    recommended = recommend(candidates)
    best = next((c for c in candidates if c.kind == recommended.kind), None)
    if best is None or best.evaluation.figures["apgr"].low <= CHANCE:
        rival = next(c for c in candidates if c.kind != BASELINE)
        reason = f"no router beats random on the {sizes[TRAIN]:,} training queries: the best, {_apgr(rival)}"
        return replace(found, reason=reason)
    version, evaluation, points = _trained(best.kind, parts, plan, folder, report)
    found = replace(found, evaluation=evaluation, points=points)
    if (reason := _no_use(evaluation, points[0])) is not None:
        return replace(found, reason=reason)
    registry.adopt(Registry(folder / "routers"), plan.name, version)
    return replace(found, reason=recommended.reason, advice="", kind=best.kind, version=version)


def _apgr(candidate: ComparedRouter) -> str:
    found = candidate.evaluation.figures["apgr"]
    return f"{candidate.kind}, has APGR {found.value:.3f} [{found.low:.3f}, {found.high:.3f}], random 0.5"


def _nothing_to_gain(part: Dataset) -> str | None:
    """Why no router is needed: the large model is no better."""
    weak, strong = part.weak.quality.mean(1), part.strong.quality.mean(1)
    if strong.mean() > weak.mean():
        return None
    return (
        f"the large model is no better than the small one on {len(part):,} queries: quality {strong.mean():.3f} "
        f"against {weak.mean():.3f}"
    )


def _advice(test: Dataset, seed: int) -> str:
    """What to do without a router: how sure it is that the large model is better."""
    gap = bootstrap(_mean(test.strong.quality.mean(1) - test.weak.quality.mean(1)), len(test), seed=seed)
    if gap.low > 0:
        return (
            "call the large model for every query; where that is too dear, `random` at the share that you can pay: "
            "each query that it sends to the small model loses the same on average"
        )
    return "call the small model for every query: the large one is not surely better"


def _trained(
    kind: str, parts: Mapping[str, Dataset], plan: TuningPlan, folder: Path, report: Report
) -> tuple[str, Evaluation, list[OperatingPoint]]:
    """The calibrated version in the folder's own registry, and what it does on the test part."""
    own = Registry(folder / "routers")
    data = folder / f"{TRAIN}.parquet"
    run = TrainingRun(kind, str(data), seed=plan.seed, folds=default_folds(kind), target=str(plan.target))
    trained = train(run, parts[TRAIN], report)
    version = register(trained, parts[TRAIN], own, plan.name, use=False)
    artefact = open_router(own, f"{plan.name}@{version}")
    version = recalibrate(artefact, parts[CALIBRATION], plan.target, None, own)
    calibrated = open_router(own, f"{plan.name}@{version}").registered
    test = parts[TEST]
    calibration = Calibration.of(calibrated.router.score(parts[CALIBRATION].queries), parts[CALIBRATION])
    targets = [t for t in (*_DROPS, *_OTHERS) if t != plan.target]
    thresholds = {str(plan.target): calibrated.threshold}
    thresholds |= {str(target): target.threshold(calibration).value for target in targets}
    found = scored_queries(calibrated.router.score(test.queries), test)
    evaluation = evaluate((plan.name, version), found, tuple(dict.fromkeys(thresholds.values())), seed=plan.seed)
    points = [_point(evaluation, found.scores, test, *item, plan.seed) for item in thresholds.items()]
    return version, evaluation, points


def _point(
    evaluation: Evaluation, scores: Floats, test: Dataset, target: str, threshold: float, seed: int
) -> OperatingPoint:
    at = evaluation.at(threshold)
    chosen = scores >= threshold
    weak, strong = test.weak.quality.mean(1), test.strong.quality.mean(1)
    saved = np.where(chosen, 0.0, test.strong.cost_usd.mean(1) - test.weak.cost_usd.mean(1))
    quality = np.where(chosen, strong, weak)

    def gain(rows: NDArray[np.int64]) -> float:
        share = chosen[rows].mean()
        return float(quality[rows].mean() - share * strong[rows].mean() - (1 - share) * weak[rows].mean())

    n = len(test)
    of_saved, of_gain = bootstrap(_mean(saved), n, seed=seed), bootstrap(gain, n, seed=seed)
    return OperatingPoint(target, threshold, at["share"], at["quality"], at["drop"], of_saved, of_gain)


def _no_use(evaluation: Evaluation, point: OperatingPoint) -> str | None:
    """Why a trained router is not offered, None if it is; by figures of the test part."""
    apgr = evaluation.figures["apgr"]
    where = f"on the {evaluation.queries:,} test queries"
    if apgr.low <= CHANCE:
        return (
            f"the router is not shown to beat random {where}: APGR {apgr.value:.3f} [{apgr.low:.3f}, {apgr.high:.3f}], "
            "random 0.5; more prompts would tell"
        )
    if point.share.value >= 1 - _CLOSE:
        return f"to keep {point.target} the router calls the large model for every query {where}: it saves nothing"
    if point.saved_usd.value < 0:
        return f"the small model costs more than the large one {where}: a router saves nothing"
    return None


def _reference(pool: PoolAnswers, seed: int) -> Reference:
    quality, cost_usd = pool.quality.mean(1), pool.cost_usd.mean(1)
    n = len(quality)
    return Reference(bootstrap(_mean(quality), n, seed=seed), bootstrap(_mean(cost_usd), n, seed=seed))


def _mean(values: Floats) -> Callable[[NDArray[np.int64]], float]:
    return lambda rows: float(values[rows].mean())
