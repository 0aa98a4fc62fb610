"""What is measured: sampled answers, and the scores of each router on queries that it has not seen.

Both are kept in a folder, so that a run that is killed loses one training's last epoch at most.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.hybrid_llm.edit_similarity import edit_similarity
from serve_app.data.collection.lab import MODELS, LabPlan, record_lab
from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.errors import ConfigError
from serve_app.lab import models_dir
from serve_app.routing.kinds.complexity.router import ComplexityRouter
from serve_app.routing.kinds.fine_tuned.routers import HybridDet, HybridProb, HybridRouter, HybridTrans

Floats = NDArray[np.float64]
Report = Callable[[str], None]
PAIRS = (("tiny", "small"), ("small", "large"), ("tiny", "large"))
ROUTERS: Mapping[str, type[HybridRouter]] = {"r_det": HybridDet, "r_prob": HybridProb, "r_trans": HybridTrans}
EXACT, EDIT = "exact_match", "edit_similarity"
METRICS = (EXACT, EDIT)


@dataclass(frozen=True, slots=True)
class Trained:
    """Scores of the queries measured, shape [n], and how they came about."""

    scores: Floats
    relaxation: float = 0.0
    mean_label: float = 0.0
    fit_s: float = 0.0
    note: str = ""


def answers(folder: Path, plan: LabPlan, report: Report) -> Dataset:
    """The three models' answers of the plan: from the folder, or drawn now and kept there."""
    path = folder / f"{plan.half}-{plan.n}-{plan.samples}-{plan.seed}.parquet"
    if not path.exists():
        record_lab(models_dir(), replace(plan, models=MODELS), report).save(path)
    return Dataset.load(path)


def regraded(dataset: Dataset, grade: Callable[[str, str], float], metric: str) -> Dataset:
    """The same answers by another metric: `grade(reference, text)`. Raises ConfigError where a reference is missing."""
    if not dataset.references or any(reference is None for reference in dataset.references):
        raise ConfigError(f"{metric}: every query needs a reference to grade against; collect the dataset again")
    known: dict[tuple[str, str], float] = {}

    def quality(pool: PoolAnswers) -> Floats:
        pairs = [(str(r), text) for r, row in zip(dataset.references, pool.texts, strict=True) for text in row]
        known.update({pair: grade(*pair) for pair in set(pairs) - known.keys()})
        return np.array([known[pair] for pair in pairs]).reshape(pool.quality.shape)

    pools = {name: replace(pool, quality=quality(pool)) for name, pool in dataset.pools.items()}
    return replace(dataset, pools=pools, about={**dataset.about, "metric": metric})


def by_metric(dataset: Dataset, metric: str) -> Dataset:
    """The same answers, graded exactly or with partial credit."""
    return dataset if metric == EXACT else regraded(dataset, edit_similarity, metric)


class Bench:
    """Trains routers on one half's answers and scores the other's queries."""

    def __init__(self, folder: Path, params: Mapping[str, Any], report: Report) -> None:
        self._folder, self._params, self._report = folder, params, report

    def routers(self, learn: Dataset, measure: Dataset, what: str) -> dict[str, Trained]:
        """Of one pair and metric, by name: the paper's three, and the product's default for comparison."""
        found: dict[str, Trained] = {}
        for name, kind in ROUTERS.items():
            good, relaxation = kind().labels(learn)
            same = name == "r_trans" and np.array_equal(good, HybridProb().labels(learn)[0])
            if same:
                self._report(f"{what} {name}: t* is {relaxation:g}, the labels are r_prob's, and so is the router")
                prob = found["r_prob"]
                found[name] = Trained(prob.scores, relaxation, prob.mean_label, 0.0, "labels equal r_prob's")
            else:
                found[name] = self._scored(name, learn, measure, what)
        found["complexity"] = Trained(ComplexityRouter().fit(learn).score(measure.queries))
        return found

    def _scored(self, name: str, learn: Dataset, measure: Dataset, what: str) -> Trained:
        from time import perf_counter

        router = ROUTERS[name](**self._params)
        key = json.dumps([name, dict(router.params), learn.digest(), measure.digest()], sort_keys=True)
        path = self._folder / f"scores-{blake2b(key.encode(), digest_size=8).hexdigest()}.json"
        if path.exists():
            kept = json.loads(path.read_text("utf-8"))
            self._report(f"{what} {name}: kept from an earlier run")
            return Trained(np.array(kept["scores"]), kept["relaxation"], kept["mean_label"], kept["fit_s"])
        started = perf_counter()
        router.checkpoint = path.with_suffix(".checkpoint")
        router.fit(learn, lambda line: self._report(f"{what} {name}: {line}"))
        fit_s = perf_counter() - started
        scores = router.score(measure.queries)
        found = Trained(scores, router.relaxation_, float(router.labels(learn)[0].mean()), fit_s)
        body = {"scores": scores.tolist(), "relaxation": found.relaxation, "mean_label": found.mean_label}
        path.write_text(json.dumps({**body, "fit_s": fit_s}), "utf-8")
        return found
