"""Reads a stream: a file of texts, gold labels and recorded labels of an LLM, halved and shuffled."""

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import DataError

HALVES_SEED = 42
"""The seed of the authors' shuffle; theirs is another generator, so the rows of a half are not theirs."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """`gold` [n] and `expert` [n] are indices into `labels`; `expert` is -1 where the LLM's answer did not parse."""

    name: str
    texts: tuple[str, ...]
    gold: NDArray[np.int64]
    expert: NDArray[np.int64]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: NDArray[np.int64]) -> "Recorded":
        """Those rows, in that order."""
        return Recorded(self.name, tuple(self.texts[i] for i in rows), self.gold[rows], self.expert[rows], self.labels)

    def halves(self) -> tuple["Recorded", "Recorded"]:
        """The stream, and the half that is for distillation and for tuning."""
        rows = np.random.default_rng(HALVES_SEED).permutation(len(self))
        return self.take(rows[: len(rows) // 2]), self.take(rows[len(rows) // 2 :])

    def shuffled(self, seed: int) -> "Recorded":
        """The same queries in an order of that seed."""
        return self.take(np.random.default_rng([HALVES_SEED, seed]).permutation(len(self)))

    def swapped(self, start: int) -> "Recorded":
        """From row `start` on all labels, gold and the LLM's, mean the next class: nothing that was learned holds."""
        after = np.arange(len(self)) >= start
        k = len(self.labels)
        expert = np.where(after & (self.expert >= 0), (self.expert + 1) % k, self.expert)
        return Recorded(self.name, self.texts, np.where(after, (self.gold + 1) % k, self.gold), expert, self.labels)


def load(path: Path, expert: str, names: tuple[str, ...] = ()) -> Recorded:
    """Rows of `text`, `label` and a column named `expert`, JSON lines, gzip or not.

    Labels are numbers from 0 or words; the expert's -1, null or "" is an answer that did not parse. `names`: the words
    of numbered labels. Raises DataError with file and row for anything else.
    """
    rows = _rows(path)
    found = sorted({row["label"] for row in rows}, key=lambda x: (isinstance(x, str), x))
    whole = all(isinstance(x, int) for x in found)
    values: list[Any] = list(range(max(found) + 1)) if whole else found
    labels = names or tuple(str(v) for v in values)
    if len(labels) != len(values):
        raise DataError(f"{path}: {len(values)} labels, but {len(labels)} names are given")
    place = {v: i for i, v in enumerate(values)}
    experts = []
    for number, row in enumerate(rows, 1):
        if expert not in row:
            raise DataError(f"{path}: row {number} has no column {expert!r}; it has {', '.join(row)}")
        expert_label = row[expert]
        if expert_label not in place and expert_label not in (-1, None, ""):
            raise DataError(f"{path}: row {number}: {expert} {expert_label!r} is none of the labels")
        experts.append(place.get(expert_label, -1))
    texts = tuple(str(row["text"]) for row in rows)
    gold = np.array([place[row["label"]] for row in rows])
    return Recorded(path.name.split(".")[0], texts, gold, np.array(experts), labels)


def remember_vectors(texts: tuple[str, ...], keep: Path, report: Callable[[str], None]) -> None:
    """Encode all texts at once, which is quicker than one by one: kept for the process, and in a file for the next."""
    from serve_app.learning.encoder import load_encoder

    encoder = load_encoder()
    key = hashlib.blake2b("\0".join((encoder.digest, *texts)).encode("utf-8", "replace"), digest_size=8).hexdigest()
    path = keep / f"vectors-{key}.npy"
    if not path.is_file():
        keep.mkdir(parents=True, exist_ok=True)
        report(f"encoding {len(texts):,} texts")
        np.save(path, encoder.embed(texts))
    encoder.remember(texts, list(np.load(path)))


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                row["text"], row["label"]
            except (ValueError, KeyError, TypeError) as e:
                raise DataError(f"{path}: row {number} is not a JSON object with text and label") from e
            rows.append(row)
    if len(rows) < 10:
        raise DataError(f"{path}: {len(rows)} rows are no stream; give 10 or more")
    return rows
