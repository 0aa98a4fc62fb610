"""Cross-validates several kinds of router on the same folds of your own data, and recommends one.

Every query is scored by a router fitted on the other folds. Each kind's scores of each fold are kept in a folder, so
that an interrupted comparison resumes. Recommended is the best kind, or a cheaper one that is not significantly worse.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, read_arrays
from serve_app.data.dataset import Dataset
from serve_app.data.splitting import folds as near_duplicate_safe_folds
from serve_app.decision.target import Target
from serve_app.decision.threshold import Calibration
from serve_app.errors import ConfigError, JethroError
from serve_app.files import replacing
from serve_app.learning.metrics import Interval, percentile_interval
from serve_app.numbers import between, fixed, significant
from serve_app.routing.base import Report, Router, silent
from serve_app.training.evaluation import (
    LEVEL,
    ROUNDS,
    Evaluation,
    WeightedFigures,
    evaluate,
    resampled,
    scored_queries,
)
from serve_app.training.training import data_digest, new_router, router_class
from serve_app.types import Query

BASELINE = "random"
_TIMED, _WARMED = 6, 2
"""Queries of each fold that the time of one decision is measured on, and those before them that are not counted."""


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """What is compared, and how. `params` holds the constructor arguments of a kind, by kind."""

    kinds: Sequence[str]
    folds: int = 5
    seed: int = 0
    target: Target = field(default_factory=lambda: Target.parse("quality-drop=0.01"))
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rounds: int = ROUNDS


@dataclass(frozen=True, slots=True)
class ComparedRouter:
    """One kind's figures. `share`, `quality` and `drop` are those at thresholds calibrated on the other folds."""

    kind: str
    placement: str
    evaluation: Evaluation
    resampled_apgr: Floats
    """APGR on the bootstrap resamples that all kinds share, shape [rounds]."""
    share: float
    quality: float
    drop: float
    fit_s: float
    decision_ms: float
    """Median time of one decision on a query not met before, alone on this machine."""

    @property
    def apgr(self) -> float:
        """Over all queries, each scored by a router that was not fitted on it."""
        return self.evaluation.figures["apgr"].value


@dataclass(frozen=True, slots=True)
class CrossFittedScores:
    """A kind's cross-fitted scores, shape [n], with what it took."""

    scores: Floats
    fit_s: float
    decision_ms: float


def compare(
    dataset: Dataset, plan: ComparisonPlan, folder: Path, report: Report = silent
) -> tuple[list[ComparedRouter], dict[str, str]]:
    """The candidates, best APGR first, and why any kind could not take part; `random` is always among them.

    Raises ConfigError for an unknown kind or parameter, or where the pools are equally good; the error of a kind if
    none but random could be fitted.
    """
    kinds = [BASELINE, *(k for k in dict.fromkeys(plan.kinds) if k != BASELINE)]
    for kind in kinds:
        new_router(kind, plan.params.get(kind, {}), plan.seed)
    if dataset.weak.quality.mean() == dataset.strong.quality.mean():
        raise ConfigError("both pools are equally good on these data: there is nothing for a router to gain")
    folds = near_duplicate_safe_folds(dataset, plan.folds, plan.seed)
    digest = data_digest(dataset)
    found: list[ComparedRouter] = []
    refused: dict[str, str] = {}
    error: JethroError | None = None
    for kind in kinds:
        try:
            scores = _cross_fitted(kind, dataset, folds, plan, _ScoreFiles(folder, digest), report)
        except JethroError as e:
            refused[kind], error = str(e), e
            report(f"{kind}: cannot take part: {e}")
            continue
        found.append(_candidate(kind, scores, dataset, folds, plan))
        report(f"{kind}: APGR {fixed(found[-1].apgr, 3)}")
    if error is not None and len(found) == 1:
        raise error
    return sorted(found, key=lambda c: -c.apgr), refused


class _ScoreFiles:
    """Scores of one kind and fold in files, named by all that determines them."""

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder = folder
        self._digest = digest

    def path(self, kind: str, plan: ComparisonPlan, fold: int) -> Path:
        """The file for a kind and fold."""
        what = [self._digest, kind, dict(plan.params.get(kind, {})), plan.folds, plan.seed, fold]
        key = blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=8).hexdigest()
        return self._folder / "scores" / f"{kind}-{fold}-{key}.npz"

    def read(self, path: Path) -> CrossFittedScores | None:
        """What is there; None if nothing is, or if it was cut."""
        try:
            data = read_arrays(path)
            return CrossFittedScores(data["scores"], float(data["fit_s"]), float(data["decision_ms"]))
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def write(self, path: Path, scores: CrossFittedScores) -> None:
        """Whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft, draft.open("wb") as out:
            np.savez(out, scores=scores.scores, fit_s=scores.fit_s, decision_ms=scores.decision_ms)


def _cross_fitted(
    kind: str, dataset: Dataset, folds: NDArray[np.int64], plan: ComparisonPlan, kept: _ScoreFiles, report: Report
) -> CrossFittedScores:
    scores = np.empty(len(dataset))
    parts = []
    for fold in range(plan.folds):
        inside = np.flatnonzero(folds == fold)
        path = kept.path(kind, plan, fold)
        part = kept.read(path)
        if part is None:
            report(f"{kind}: fold {fold + 1} of {plan.folds}: fitting on {len(dataset) - len(inside):,} queries")
            router = new_router(kind, plan.params.get(kind, {}), plan.seed)
            others = dataset.take(np.flatnonzero(folds != fold))
            part = _fit_and_score(router, others, dataset.take(inside), lambda line: report(f"  {line}"))
            kept.write(path, part)
        else:
            report(f"{kind}: fold {fold + 1} of {plan.folds}: done before")
        scores[inside] = part.scores
        parts.append(part)
    return CrossFittedScores(scores, sum(p.fit_s for p in parts), float(np.median([p.decision_ms for p in parts])))


def _fit_and_score(router: Router, others: Dataset, inside: Dataset, report: Report) -> CrossFittedScores:
    started = perf_counter()
    router.fit(others, report)
    fit_s = perf_counter() - started
    return CrossFittedScores(router.score(inside.queries), fit_s, _decision_ms(router, inside.queries))


def _decision_ms(router: Router, queries: Sequence[Query]) -> float:
    """Median time of one score, of queries made new by a word for each kind, so that no cache knows them."""
    spent = []
    for number in range(_TIMED + _WARMED):
        query = queries[number % len(queries)]
        last = query.messages[-1]
        new = replace(last, content=f"{last.content} ({router.name} {number})")
        fresh = replace(query, messages=(*query.messages[:-1], new))
        started = perf_counter()
        router.score([fresh])
        spent.append(1e3 * (perf_counter() - started))
    return float(np.median(spent[_WARMED:]))


def _candidate(
    kind: str, scores: CrossFittedScores, dataset: Dataset, folds: NDArray[np.int64], plan: ComparisonPlan
) -> ComparedRouter:
    found = scored_queries(scores.scores, dataset)
    evaluation = evaluate((kind, "cross-validated"), found, rounds=plan.rounds, seed=plan.seed)
    rounds = resampled(WeightedFigures(found), len(found), plan.rounds, plan.seed)["apgr"]
    calibration = Calibration.of(scores.scores, dataset)
    chosen = np.empty(len(dataset), dtype=bool)
    for fold in range(plan.folds):
        threshold = plan.target.threshold(calibration.take(np.flatnonzero(folds != fold))).value
        chosen[folds == fold] = scores.scores[folds == fold] >= threshold
    quality = float(np.where(chosen, found.strong_quality, found.weak_quality).mean())
    strong = float(found.strong_quality.mean())
    drop = (strong - quality) / abs(strong) if strong else 0.0
    share = float(chosen.mean())
    placement = router_class(kind).placement
    return ComparedRouter(kind, placement, evaluation, rounds, share, quality, drop, scores.fit_s, scores.decision_ms)


_PLACES: Final = {"inline": 0, "batched": 1, "scorer": 2}
"""Cheapest to run first: in the Gateway's loop, on its encoder thread, in a deployment of its own."""
_SAME: Final = 1.5
"""Decision times within this factor count as equal: they were measured on a few queries."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The kind to run, None if none beats chance, and why in one sentence."""

    kind: str | None
    reason: str


def recommend(candidates: Sequence[ComparedRouter]) -> Recommendation:
    """From candidates sorted by APGR, best first; `random` is the one to beat."""
    chance = next(c for c in candidates if c.kind == BASELINE)
    rivals = [c for c in candidates if c.kind != BASELINE]
    if not rivals:
        return Recommendation(None, "only random was compared: name some kinds")
    best = rivals[0]
    lead = difference(best, chance)
    if lead.low <= 0:
        return Recommendation(
            None,
            f"none: the best, {best.kind}, leads random by {_gap(lead)} APGR, which may be chance; collect more data, "
            "or other features than these kinds have",
        )
    chosen = best
    for candidate in (c for c in rivals[1:] if cheaper(c, best) and difference(best, c).low <= 0):
        if chosen is best or cheaper(candidate, chosen):
            chosen = candidate
    if chosen is best:
        others = [f"{c.kind} by {_gap(difference(best, c))}" for c in rivals[1:]]
        over = f"; it leads {', '.join(others)}" if others else ""
        return Recommendation(best.kind, f"{best.kind}: the best APGR, {fixed(best.apgr, 3)}{over}")
    return Recommendation(
        chosen.kind,
        f"{chosen.kind}: {best.kind} leads it by {_gap(difference(best, chosen))} APGR, which may be chance, and "
        f"{chosen.kind} is cheaper to run ({_cost(chosen)} against {_cost(best)})",
    )


def difference(one: ComparedRouter, other: ComparedRouter) -> Interval:
    """APGR of one minus the other's, with its paired bootstrap interval."""
    return percentile_interval(one.apgr - other.apgr, one.resampled_apgr - other.resampled_apgr, LEVEL)


def cheaper(one: ComparedRouter, other: ComparedRouter) -> bool:
    """Whether one costs less to run: by where it runs, then by the time of a decision."""
    places = _PLACES[one.placement], _PLACES[other.placement]
    if places[0] != places[1]:
        return places[0] < places[1]
    return one.decision_ms * _SAME < other.decision_ms


def _gap(value: Interval) -> str:
    """A difference with its interval."""
    return between(*(fixed(part, 3) for part in (value.value, value.low, value.high)))


def _cost(candidate: ComparedRouter) -> str:
    return f"{candidate.placement}, {significant(candidate.decision_ms, 2)} ms a decision"
