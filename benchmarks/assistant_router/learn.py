"""From graded answers to a dataset, to routers that are scored on queries they never saw, to the one that ships."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.assistant_router.collect import WEAK, Answer
from benchmarks.assistant_router.sets import STRONG, TRAINED, Question
from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.data.splitting import folds
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.routing.artefact import save_registered
from serve_app.training.evaluation import Evaluation, evaluate, router_metrics, scored_queries
from serve_app.training.training import new_router
from serve_app.types import Message, Query

Floats = NDArray[np.float64]
FOLDS = 5
STRONG_USD = 0.88
"""Price of the strong model assumed for costs, US dollars per million tokens; the weak one runs on the machine."""
MOST_DROP = 0.02
"""The default threshold: the smallest share of strong calls that loses at most this of the strong model's quality."""
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Scored:
    """One kind of router on one dataset: its scores [n] and its figures."""

    scores: Floats
    evaluation: Evaluation


def dataset_of(chosen: Sequence[Question], answers: Mapping[str, Answer], sets: Sequence[str]) -> Dataset:
    """The answered questions of some sets; quality is 1 or 0. Groups are families of everyday questions, or sets."""
    rows = [q for q in chosen if q.set in sets and q.id in answers]
    weak = [answers[q.id] for q in rows]
    prompts = [len(q.text) / _CHARS_PER_TOKEN for q in rows]
    pools = {
        "small": _pool(
            WEAK,
            [a.text for a in weak],
            [float(q.right(a.text)) for q, a in zip(rows, weak, strict=True)],
            [a.prompt_tokens for a in weak],
            [a.completion_tokens for a in weak],
            0.0,
        ),
        "large": _pool(
            STRONG, [""] * len(rows), [q.strong for q in rows], prompts, [q.strong_tokens for q in rows], STRONG_USD
        ),
    }
    return Dataset(
        tuple(Query((Message("user", q.text),)) for q in rows),
        pools,
        tuple(f"everyday:{q.group}" if q.set == "everyday" else q.set for q in rows),
        {"source": " + ".join(sets), "metric": "right or wrong", "temperature": 0.0},
        tuple(q.id for q in rows),
    )


def _pool(
    model: str,
    texts: Sequence[str],
    quality: Sequence[float],
    prompt: Sequence[float],
    completion: Sequence[float],
    usd: float,
) -> PoolAnswers:
    columns = [np.array(values, dtype=np.float64)[:, None] for values in (quality, prompt, completion)]
    cost = (columns[1] + columns[2]) * usd / 1e6
    return PoolAnswers(model, tuple((t,) for t in texts), columns[0], cost, columns[1], columns[2])


def crossed(dataset: Dataset, kind: str, seed: int, by_group: bool) -> Scored:
    """Every query scored by a router fitted on the other folds; `by_group`: on other families and sets."""
    at, scores = folds(dataset, FOLDS, seed, by_group=by_group), np.empty(len(dataset))
    for fold in range(FOLDS):
        inside, others = np.flatnonzero(at == fold), np.flatnonzero(at != fold)
        scores[inside] = new_router(kind, {}, seed).fit(dataset.take(others)).score(dataset.take(inside).queries)
    return Scored(scores, evaluate((kind, ""), scored_queries(scores, dataset), seed=seed))


def transferred(train: Dataset, test: Dataset, kind: str, seed: int) -> Scored:
    """The queries of one dataset scored by a router of another."""
    scores = new_router(kind, {}, seed).fit(train).score(test.queries)
    return Scored(scores, evaluate((kind, ""), scored_queries(scores, test), seed=seed))


def register(
    dataset: Dataset, kind: str, scores: Floats, out: Path, seed: int, report: Callable[[str], None]
) -> dict[str, Any]:
    """Fit on all, take the threshold of the cross-fitted `scores`, write the artefact; returns its card's figures."""
    calibration = Calibration.of(scores, dataset)
    threshold = Threshold.for_drop(calibration, MOST_DROP)
    metrics = router_metrics(calibration, threshold.value, seed)
    data = {
        "digest": dataset.digest(),
        **dataset.about,
        "n": len(dataset),
        "seed": seed,
        "sets": sorted(TRAINED),
        "assumed": "the strong model is counted right on all everyday questions",
    }
    router = new_router(kind, {}, seed).fit(dataset)
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").unlink(missing_ok=True)  # written again by the caller, and no part of the version
    save_registered(out, router, calibration, threshold, (WEAK, STRONG), data, metrics)
    report(f"{out}: threshold {threshold.value:.4f}, {100 * threshold.share:.1f} % strong calls")
    return metrics
