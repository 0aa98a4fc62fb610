"""History of similar queries: the mean outcome of past queries with the same signature, at four levels.

A query's signatures run from fine to coarse. A rare one's mean is smoothed towards that of the coarser one (additive
smoothing with back-off). Memory is bounded: each level keeps its most frequent signatures.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from math import log
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, read_arrays
from serve_app.learning.features import Reading, rows_by_text
from serve_app.learning.logistic import smoothed_mean

LEVELS = ("content", "wording", "shape", "task")
"""Fine to coarse: the same content in any wording; the same wording over content of the same shape; the same shape
of content; the same task."""

_LIMITS = (16_384, 8_192, 8_192, 1_024)
_STRENGTH = (2.0, 4.0, 4.0, 8.0)
"""Weight of the coarser estimate, in queries, for each level."""
_MAX_DIGITS, _MAX_LETTERS = 6, 12
_NUMBER_FORMS = tuple(f"#{digits}" for digits in range(_MAX_DIGITS + 1))
_WORD_FORMS = tuple(f"w{letters}" for letters in range(_MAX_LETTERS + 1))
_VOCABULARY = 2_048


class History:
    """Learned in `fit`; `logits` returns the estimates, finest first."""

    def __init__(self, vocabulary: Iterable[str] = ()) -> None:
        self.vocabulary_ = frozenset(vocabulary)
        self.prior_ = 0.5
        self.tables_: tuple[dict[int, tuple[float, float]], ...] = tuple({} for _ in LEVELS)

    @classmethod
    def fit(cls, readings: Sequence[Reading], outcomes: Floats, vocabulary: Iterable[str]) -> Self:
        """From readings and their outcomes in [0, 1], shape [n]. `vocabulary`: words that are wording, not content."""
        history = cls(vocabulary)
        history.prior_ = smoothed_mean(outcomes)
        sums: tuple[Counter[int], ...] = tuple(Counter() for _ in LEVELS)
        counts: tuple[Counter[int], ...] = tuple(Counter() for _ in LEVELS)
        for reading, outcome in zip(readings, outcomes.tolist(), strict=True):
            for level, key in enumerate(history.signatures(reading)):
                sums[level][key] += outcome
                counts[level][key] += 1
        history.tables_ = tuple(
            {key: (float(sums[level][key]), float(n)) for key, n in counts[level].most_common(_LIMITS[level])}
            for level in range(len(LEVELS))
        )
        return history

    def past_logits(
        self, readings: Sequence[Reading], outcomes: Floats, texts: Sequence[str], seed: int
    ) -> list[tuple[float, ...]]:
        """`logits` of each reading from those before it in a random order; forgets the tables. In the order given.

        For training: a mean over the other queries, or over other folds, would leak the query's own outcome with its
        sign reversed; a mean over the past does not (ordered target statistics; Prokhorenkova et al. 2018, CatBoost).
        Equal texts are added together.
        """
        self.prior_ = smoothed_mean(outcomes)
        self.tables_ = tuple({} for _ in LEVELS)
        rows = rows_by_text(texts)
        order = sorted(rows)
        np.random.default_rng(seed).shuffle(order)
        found: list[tuple[float, ...]] = [()] * len(readings)
        for text in order:
            reading = readings[rows[text][0]]
            estimates = self.logits(reading)
            for row in rows[text]:
                found[row] = estimates
            for table, key in zip(self.tables_, self.signatures(reading), strict=True):
                total, count = table.get(key, (0.0, 0.0))
                table[key] = (total + float(outcomes[rows[text]].sum()), count + len(rows[text]))
        return found

    def signatures(self, reading: Reading) -> tuple[int, ...]:
        """One key per level, finest first: crc32 of the text that similar queries share."""
        wording, content, shape = [], [], []
        known = self.vocabulary_
        for token in reading.tokens:
            first = token[0]
            if first.isdecimal():
                form = _NUMBER_FORMS[min(len(token), _MAX_DIGITS)]
                content.append(token)
                shape.append(form)
            elif token in known:
                form = token
            elif first.isalpha():
                form = _WORD_FORMS[min(len(token), _MAX_LETTERS)]
                content.append(token)
                shape.append(form)
            else:
                form = token
            if form != "?":
                wording.append(form)
        task = f"{reading.task}|{reading.operators}"
        texts = (f"{task}|{' '.join(content)}", " ".join(wording), f"{task}|{' '.join(shape)}", reading.task)
        return tuple(map(_key, texts))

    def logits(self, reading: Reading) -> tuple[float, ...]:
        """Smoothed mean outcomes as log-odds, finest level first; each backs off to the next coarser.

        The coarsest, the task, is used for back-off only: the task has a weight of its own.
        """
        tables, keys = self.tables_, self.signatures(reading)
        task = _smoothed(tables[3].get(keys[3]), self.prior_, _STRENGTH[3])
        shape = _smoothed(tables[2].get(keys[2]), task, _STRENGTH[2])
        wording = _smoothed(tables[1].get(keys[1]), shape, _STRENGTH[1])
        content = _smoothed(tables[0].get(keys[0]), wording, _STRENGTH[0])
        return log(content / (1.0 - content)), log(wording / (1.0 - wording)), log(shape / (1.0 - shape))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Tables as arrays, to be saved; the vocabulary is the caller's to save."""
        found: dict[str, NDArray[np.generic]] = {"prior": np.array(self.prior_)}
        for name, table in zip(LEVELS, self.tables_, strict=True):
            found[f"{name}_keys"] = np.array(list(table), dtype=np.uint32)
            found[f"{name}_seen"] = np.array(list(table.values()), dtype=np.float32).reshape(-1, 2)
        return found

    @classmethod
    def from_arrays(cls, path: Path, vocabulary: Iterable[str]) -> Self:
        """The history saved as npz. Raises OSError, KeyError or ValueError on a broken file."""
        history = cls(vocabulary)
        data = read_arrays(path)
        history.prior_ = float(data["prior"])
        history.tables_ = tuple(
            {key: (a, b) for key, (a, b) in zip(data[f"{n}_keys"].tolist(), data[f"{n}_seen"].tolist(), strict=True)}
            for n in LEVELS
        )
        return history


def _key(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def _smoothed(seen: tuple[float, float] | None, coarser: float, strength: float) -> float:
    """The mean of past outcomes, smoothed towards the coarser estimate."""
    return coarser if seen is None else (seen[0] + strength * coarser) / (seen[1] + strength)


def common_words(readings: Sequence[Reading], min_share: float = 0.002) -> tuple[str, ...]:
    """Words in at least this share of the queries (and in two), most frequent first, at most 2,048: the wording."""
    seen: Counter[str] = Counter()
    for reading in readings:
        seen.update({t for t in reading.tokens if t[0].isalpha()})
    least = max(2.0, min_share * len(readings))
    return tuple(word for word, n in seen.most_common(_VOCABULARY) if n >= least)
