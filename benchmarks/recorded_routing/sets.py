"""The data sets, and the tasks on each: known kinds of query, unseen groups of them, or another set altogether."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.data.importing import import_outcomes
from serve_app.data.splitting import folds
from serve_app.errors import DataError

TaskKind = Literal["random folds", "unseen groups", "transfer"]
ENDINGS = (".jsonl.gz", ".jsonl", ".csv", ".csv.gz", ".parquet")
LEAST = 400
"""Queries below which a set is too small to learn from: it is scored by routers of the other sets."""
GROUPS_PER_FOLD = 2


@dataclass(frozen=True, slots=True)
class Task:
    """One data set measured in one way. `folds` is the fold of each query, shape [n]; all 0 for transfer.

    `train` are the sets to learn from; the set itself where it is cross-validated.
    """

    name: str
    how: TaskKind
    dataset: Dataset
    folds: NDArray[np.int64]
    seed: int
    train: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """For tables and files."""
        return f"{self.name}, transfer from {' and '.join(self.train)}" if self.train else f"{self.name}, {self.how}"


def load_sets(paths: Sequence[Path]) -> dict[str, Dataset]:
    """The sets of files and folders by file name, clean rows only, pools `small` and `large`.

    Raises DataError for a path without a file of records, or two files of one name.
    """
    found: dict[str, Dataset] = {}
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.name.endswith(ENDINGS)) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: no file of records; give {', '.join(ENDINGS)}")
        for file in inside:
            name = file.name.split(".")[0]
            if name in found:
                raise DataError(f"{file}: a set named {name!r} was read already; rename the file")
            found[name] = import_outcomes(file).pair("small", "large")
    return found


def tasks(sets: Mapping[str, Dataset], k: int, seed: int, least: int = LEAST) -> list[Task]:
    """The tasks on each set: folds at random, by group where there are groups enough, transfer for small ones."""
    large = tuple(name for name, dataset in sets.items() if len(dataset) >= least)
    found = []
    for name, dataset in sets.items():
        if name not in large:
            if large:
                found.append(Task(name, "transfer", dataset, np.zeros(len(dataset), dtype=np.int64), seed, large))
            continue
        found.append(Task(name, "random folds", dataset, folds(dataset, k, seed), seed))
        if len(set(dataset.groups)) >= GROUPS_PER_FOLD * k:
            found.append(Task(name, "unseen groups", dataset, folds(dataset, k, seed, by_group=True), seed))
    return found


def joined(sets: Mapping[str, Dataset]) -> Dataset:
    """All sets as one, quality scaled to [0, 1]: to learn from several at once."""
    parts = list(sets.values())
    pools = {pool: _joined_answers([_unit(part, pool) for part in parts]) for pool in ("small", "large")}
    return Dataset(
        tuple(q for part in parts for q in part.queries),
        pools,
        tuple(f"{name}:{group}" for name, part in sets.items() for group in part.groups),
        {"source": " + ".join(sets)},
        tuple(f"{name}:{i}" for name, part in sets.items() for i in part.ids),
    )


def _unit(dataset: Dataset, pool: str) -> PoolAnswers:
    low, high = dataset.about.get("quality_range", (0.0, 1.0))
    a = dataset.pools[pool]
    quality = ((a.quality - low) / (high - low)).mean(1, keepdims=True)
    one = [x.mean(1, keepdims=True) for x in (a.cost_usd, a.prompt_tokens, a.completion_tokens)]
    return PoolAnswers(a.model, tuple(t[:1] for t in a.texts), quality, *one)


def _joined_answers(parts: Sequence[PoolAnswers]) -> PoolAnswers:
    def column(name: str) -> NDArray[np.float64]:
        return np.concatenate([getattr(part, name) for part in parts])

    texts = tuple(t for part in parts for t in part.texts)
    return PoolAnswers(
        parts[0].model, texts, *(column(n) for n in ("quality", "cost_usd", "prompt_tokens", "completion_tokens"))
    )
