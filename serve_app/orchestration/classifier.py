"""Names the task of a text: one logistic regression for each task over hashed n-grams, fitted on examples.

One against the rest, so that a text of no task has a low probability for all of them; examples of other texts (task
null) teach that. Words, pairs of words, and signs are hashed (Weinberger et al., ICML 2009); a number counts as
its number of digits.

    tasks.json    {"kind": "task-classifier", "format": 1, "version": "tasks-<hash>", "tasks": [...], "bias": [...],
                   "metrics": {...}}
    weights.npz   columns [used], weights [used, tasks]
"""

import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from math import isfinite, log
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, read_arrays, sigmoid
from serve_app.errors import DataError, reading, writing
from serve_app.files import write_whole
from serve_app.learning.logistic import fit_soft, folds_of
from serve_app.learning.saved_folder import check_folder, read_json

FILE: Final = "tasks.json"
WEIGHTS: Final = "weights.npz"
FORMAT: Final = 1
COLUMNS: Final = 2**14
_KIND: Final = "task-classifier"
_REMEDY: Final = "give a folder that `jethro orchestrate fit` wrote, or fit the classifier again"
_STRENGTH: Final = 30.0
"""Inverse L2 penalty; a row has unit length."""
_MOST_GRAMS: Final = 2_000
_FEWEST: Final = 8
"""Examples of a task."""
_FOLDS: Final = 5
_PIECE: Final = re.compile(r"\d+|[^\W\d_]+|[^\w\s]")


def grams(text: str) -> dict[int, float]:
    """Columns and weights of a text, at unit length; empty for a text without words, numbers and signs."""
    pieces = [f"#{min(len(p), 5)}" if p.isdecimal() else p for p in _PIECE.findall(text.lower())[:_MOST_GRAMS]]
    counts = Counter(pieces)
    counts.update(f"{a} {b}" for a, b in pairwise(["^", *pieces, "$"]))
    found: dict[int, float] = {}
    for gram, count in counts.items():
        column = zlib.crc32(gram.encode("utf-8", "surrogatepass")) % COLUMNS
        found[column] = found.get(column, 0.0) + 1.0 + log(count)
    length = sum(w * w for w in found.values()) ** 0.5
    return {column: w / length for column, w in found.items()}


@dataclass(frozen=True)
class HashedTasks:
    """A fitted classifier: `weights` [used columns, tasks] of `columns`, and `bias` [tasks]."""

    tasks: tuple[str, ...]
    columns: NDArray[np.int64]
    weights: Floats
    bias: Floats
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        row = {int(column): i for i, column in enumerate(self.columns)}
        object.__setattr__(self, "_row", row)

    @property
    def version(self) -> str:
        """A hash of all that decides."""
        content = json.dumps([self.tasks, self.bias.round(6).tolist()]).encode()
        digest = blake2b(content + self.columns.tobytes() + self.weights.astype(np.float32).tobytes(), digest_size=6)
        return f"tasks-{digest.hexdigest()}"

    def probabilities(self, text: str) -> dict[str, float]:
        """Of each task, in [0, 1]; a text without any known n-gram has those of the biases."""
        rows: Mapping[int, int] = self._row  # type: ignore[attr-defined]
        known = [(rows[column], weight) for column, weight in grams(text).items() if column in rows]
        log_odds = self.bias.copy()
        if known:
            at, weights = zip(*known, strict=True)
            log_odds += np.array(weights) @ self.weights[list(at)]
        return dict(zip(self.tasks, sigmoid(log_odds).tolist(), strict=True))

    def save(self, folder: Path) -> None:
        """Write the folder; a reader sees a whole file or none. Raises ConfigError where it cannot be written."""
        body = {"kind": _KIND, "format": FORMAT, "version": self.version, "tasks": list(self.tasks)}
        body |= {"bias": self.bias.round(6).tolist(), "metrics": dict(self.metrics)}
        with writing(folder / FILE, "give a folder that can"):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / WEIGHTS).open("wb") as out:
                np.savez_compressed(out, columns=self.columns, weights=self.weights.astype(np.float32))
            write_whole(folder / FILE, (json.dumps(body, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The classifier saved there. Raises ConfigError naming the file and what to do."""
        check_folder(folder)
        body = read_json(folder / FILE, kind=_KIND, version=FORMAT, remedy=_REMEDY)
        with reading(folder / WEIGHTS, _REMEDY, ValueError, KeyError, TypeError):
            arrays = read_arrays(folder / WEIGHTS)
            bias = np.array(body["bias"], dtype=np.float64)
            columns, weights = arrays["columns"].astype(np.int64), arrays["weights"].astype(np.float64)
            tasks = tuple(str(name) for name in body["tasks"])
            if weights.shape != (len(columns), len(tasks)) or bias.shape != (len(tasks),):
                raise ValueError("the shapes of weights, columns and tasks do not agree")
            if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
                raise ValueError("a weight is not finite")
        metrics = {str(k): float(v) for k, v in dict(body.get("metrics", {})).items() if isfinite(v)}
        return cls(tasks, columns, weights, bias, metrics)


@dataclass(frozen=True, slots=True)
class TaskExample:
    """A text and its task; None: it is of no task in the table."""

    text: str
    task: str | None


def read_examples(path: Path) -> list[TaskExample]:
    """JSONL rows {"text": ..., "task": ... or null}. Raises DataError naming file and line."""
    rows = []
    with reading(path, "give a JSONL file of {text, task}", error=DataError):
        lines = path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or "task" not in row:
            raise DataError(f'{path}, line {number}: give an object {{"text": "...", "task": "NAME" or null}}')
        if not isinstance(row["task"], str | None):
            raise DataError(f"{path}, line {number}: task must be a name or null")
        rows.append(TaskExample(row["text"], row["task"]))
    return rows


def fit_tasks(examples: Sequence[TaskExample], seed: int = 0) -> HashedTasks:
    """Fit one regression for each task, with accuracy out of fold as its metrics.

    Raises DataError for fewer than two classes or too few examples of one, DependencyError without scikit-learn.
    """
    counts = Counter(example.task for example in examples)
    tasks = tuple(sorted(name for name in counts if name is not None))
    if not tasks or len(counts) < 2:
        raise DataError("examples: they are all of one task; add examples of others, or of none (task null)")
    if few := next((name for name in tasks if counts[name] < _FEWEST), None):
        raise DataError(f"examples: task {few!r} has {counts[few]}, and it takes {_FEWEST}; add more")
    matrix = _matrix([example.text for example in examples])
    labels = np.array([[float(example.task == name) for name in tasks] for example in examples])
    folds = folds_of([example.text for example in examples], _FOLDS, seed)
    right = np.zeros(len(examples))
    for fold in range(_FOLDS):
        held = np.flatnonzero(folds == fold)
        if len(held):
            weights, bias = _fitted(matrix[folds != fold], labels[folds != fold])
            right[held] = _correct(sigmoid(matrix[held] @ weights + bias), labels[held])
    weights, bias = _fitted(matrix, labels)
    used = np.flatnonzero(np.abs(weights).max(axis=1) > 1e-3)
    metrics = {"examples": float(len(examples)), "accuracy": round(float(right.mean()), 4)}
    return HashedTasks(tasks, used, weights[used].round(5), bias.round(6), metrics)


def _fitted(matrix: Any, labels: Floats) -> tuple[Floats, Floats]:
    fits = [fit_soft(matrix, labels[:, column], _STRENGTH) for column in range(labels.shape[1])]
    return np.stack([weights for weights, _ in fits], axis=1), np.array([bias for _, bias in fits])


def _correct(probabilities: Floats, labels: Floats) -> Floats:
    """1 where the likeliest task at 0.5 or more is the right one, or none is and there is none; shape [rows]."""
    best = probabilities.argmax(axis=1)
    named = probabilities[np.arange(len(best)), best] >= 0.5
    hit = labels[np.arange(len(best)), best] == 1.0
    return np.where(named, hit, labels.sum(axis=1) == 0).astype(np.float64)


def _matrix(texts: Sequence[str]) -> Any:
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    rows = [grams(text) for text in texts]
    counts = np.cumsum([0, *(len(row) for row in rows)])
    columns = np.array([column for row in rows for column in row], dtype=np.int64)
    values = np.array([weight for row in rows for weight in row.values()])
    return csr_matrix((values, columns, counts), shape=(len(rows), COLUMNS))
