"""Scores of queries by routers that never saw them, kept in files as they arrive: an interrupted run resumes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from inspect import getmodule, getsource
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.recorded_routing.baseline import LogisticBaseline
from benchmarks.recorded_routing.sets import Task, joined
from serve_app.arrays import read_arrays
from serve_app.data.dataset import Dataset
from serve_app.routing.base import Report, silent
from serve_app.routing.kinds.stacked.query_view import layer_views
from serve_app.training.training import new_router, router_class
from serve_app.types import Query

Floats = NDArray[np.float64]
BASELINE = "logistic regression"
VERSION = 1
"""Of how scores are made; another one does not read those of this."""
_READ_AT_ONCE = 256


class Scorer(Protocol):
    """What is measured: a router, or the baseline."""

    def fit(self, dataset: Dataset, report: Report = silent) -> "Scorer":
        """Learn."""

    def score(self, queries: Sequence[Query]) -> Floats:
        """Strong win rates, shape [len(queries)]."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """Scores of each query of a task, shape [n], and the seconds that fitting took in all."""

    scores: Floats
    fit_s: float


class Bench:
    """Fits and scores in `folder`, where the scores of each task, kind and fold are kept.

    Kept scores are those of the same data, folds, parameters and code of the kind's own module.
    """

    def __init__(
        self, folder: Path, sets: Mapping[str, Dataset], params: Mapping[str, Mapping[str, Any]], report: Report
    ) -> None:
        self._folder = folder
        self._sets = sets
        self._params = params
        self._report = report
        self._digests = {name: dataset.digest() for name, dataset in sets.items()}
        self._has_read: set[str] = set()

    def scores(self, task: Task, kind: str) -> Crossed:
        """Of every query by a router fitted on the other folds, or on other sets. Raises what the router raises."""
        found = np.empty(len(task.dataset))
        spent = 0.0
        for fold in np.unique(task.folds):
            inside = np.flatnonzero(task.folds == fold)
            path = self._path(task, kind, inside)
            part = _read(path, len(inside))
            if part is None:
                self._read_texts(task)
                self._report(f"{task.title}, seed {task.seed}: {kind}, part {fold + 1} of {task.folds.max() + 1}")
                part = self._fitted(task, kind, inside)
                _write(path, part)
            found[inside] = part.scores
            spent += part.fit_s
        return Crossed(found, spent)

    def _fitted(self, task: Task, kind: str, inside: NDArray[np.int64]) -> Crossed:
        others = np.setdiff1d(np.arange(len(task.dataset)), inside)
        train = joined({n: self._sets[n] for n in task.train}) if task.train else task.dataset.take(others)
        scorer: Scorer = LogisticBaseline() if kind == BASELINE else new_router(kind, self._params.get(kind, {}), 0)
        started = perf_counter()
        scorer.fit(train)
        spent = perf_counter() - started
        return Crossed(scorer.score([task.dataset.queries[i] for i in inside]), spent)

    def _path(self, task: Task, kind: str, inside: NDArray[np.int64]) -> Path:
        train = [self._digests[name] for name in task.train]
        params = dict(self._params.get(kind, {}))
        what = [VERSION, self._digests[task.name], train, kind, params, _source(kind), inside.tolist()]
        key = blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=12).hexdigest()
        return self._folder / f"{task.name}-{kind.replace(' ', '_')}-{key}.npz"

    def _read_texts(self, task: Task) -> None:
        """One pass of the encoder over all texts of a task, for all routers; reported, as it takes minutes."""
        for name in (*task.train, task.name):
            if name in self._has_read:
                continue
            texts = [q.text for q in self._sets[name].queries]
            for start in range(0, len(texts), _READ_AT_ONCE):
                layer_views("minilm").embed(texts[start : start + _READ_AT_ONCE])
                self._report(
                    f"{name}: the encoder has read {min(start + _READ_AT_ONCE, len(texts)):,} of {len(texts):,}"
                )
            self._has_read.add(name)


def _source(kind: str) -> str:
    """Hash of the module that defines a kind."""
    module = getmodule(LogisticBaseline if kind == BASELINE else router_class(kind))
    assert module is not None
    return blake2b(getsource(module).encode(), digest_size=8).hexdigest()


def _read(path: Path, n: int) -> Crossed | None:
    try:
        data = read_arrays(path)
        kept = Crossed(data["scores"], float(data["fit_s"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None  # not made yet, or cut while it was written
    return kept if kept.scores.shape == (n,) else None


def _write(path: Path, part: Crossed) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    with draft.open("wb") as out:
        np.savez(out, scores=part.scores, fit_s=part.fit_s)
    draft.replace(path)
