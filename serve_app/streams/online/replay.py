"""A bounded, balanced store of labelled feature rows, and the correction for labels that the LLM overuses.

LLMs have labels they fall back on (Zhao, Wallace, Feng, Klein, Singh, ICML 2021, "Calibrate before use"; Zhou et al.,
ICLR 2024, "Batch calibration"): an unclear text gets the favourite. A level that learns such labels unchanged is sure
of the favourite where it should defer, and defers where it found a rare label against the odds. So levels learn by the
logit-adjusted loss (Menon et al., ICLR 2021, "Long-tail learning via logit adjustment", section 4.2): while they learn,
the logarithm of each label's share is added to its logit, and what they predict without it is as if all labels were as
frequent. That minimises the error averaged over labels, not over queries.

Shares are those of the labels they learn from, and they count only within a bound: an LLM is not believed to distort a
label's share more than so many times, and what is beyond that is the stream's own.

Balancing costs accuracy where the stream itself has one common label. No LLM label shows which of the two it is, so it
is judged by how even the answers to all queries are (not the labels learned: deferral picks those, and they are always
more even than the stream).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.streams.online.base import Arrays, Row

EVEN, UNEVEN = 0.95, 0.92
"""Evenness of the answers from which labels are balanced in full, and below which not at all. GPT-3.5's labels of
ISEAR, whose true labels are even, have 0.98; two labels that come 2 : 1 have 0.92 (docs/streams.md)."""


class Replay:
    """Keeps up to `capacity` rows. A full store lets go of the oldest row of the class that has most rows.

    So a rare class is not flushed by frequent ones. Rows are arrays of any shape [..., features].
    """

    def __init__(self, capacity: int, labels: int) -> None:
        self.capacity = capacity
        self.rows: list[Row] = []
        self.labels: list[int] = []
        self.ages: list[int] = []
        self._held = np.zeros(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each label."""
        return self._held

    def add(self, row: Row, label: int, age: int) -> Row | None:
        """Store a row that came `age`-th; the row that had to go, if any."""
        self.rows.append(row)
        self.labels.append(label)
        self.ages.append(age)
        self._held[label] += 1
        if len(self.rows) <= self.capacity:
            return None
        return self._pop(self.labels.index(int(np.argmax(self._held))))

    def drop_before(self, age: int) -> None:
        """Forget all rows that came before the `age`-th."""
        for at in reversed([i for i, a in enumerate(self.ages) if a < age]):
            self._pop(at)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """As arrays; `restore` is its inverse."""
        flat = [row.ravel() for row in self.rows]
        return {
            "rows": np.concatenate(flat) if flat else np.zeros(0, dtype=np.float32),
            "lengths": np.array([row.shape[-1] for row in self.rows], dtype=np.int64),
            "labels": np.array(self.labels, dtype=np.int64),
            "ages": np.array(self.ages, dtype=np.int64),
        }

    def restore(self, arrays: Arrays, lead: tuple[int, ...] = ()) -> None:
        """The inverse of `state`; `lead`: a row's shape before its features."""
        per = int(np.prod(lead)) if lead else 1
        lengths: list[int] = [int(n) for n in arrays["lengths"]]
        ends: Any = np.cumsum([n * per for n in lengths])
        parts = np.split(np.asarray(arrays["rows"], dtype=np.float32), ends[:-1]) if lengths else []
        self.rows = [part.reshape(*lead, n).copy() for part, n in zip(parts, lengths, strict=True)]
        self.labels = [int(x) for x in arrays["labels"]]
        self.ages = [int(x) for x in arrays["ages"]]
        self._held = np.bincount(self.labels, minlength=len(self._held)).astype(np.int64)

    def _pop(self, at: int) -> Row:
        self._held[self.labels.pop(at)] -= 1
        self.ages.pop(at)
        return self.rows.pop(at)


def excess(counts: NDArray[np.int64], most: float) -> NDArray[np.float64]:
    """Logarithm [labels] of how many times its even share each label has, between 1 / `most` and `most`.

    One row of each label is counted to those there are, so that few rows say little. `most` of 1 gives zeros.
    """
    smoothed = counts + 1.0
    times: NDArray[np.float64] = np.log(np.clip(smoothed * len(smoothed) / smoothed.sum(), 1 / most, most))
    return times


def evenness(counts: NDArray[np.int64]) -> float:
    """Entropy of the shares over that of even ones, in [0, 1]; 0 for no counts. Few counts come out less even."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts)))


def trust_in_even_labels(answers: NDArray[np.int64]) -> float:
    """How far labels are balanced, in [0, 1], by the label counts of a stream's answers."""
    return float(np.clip((evenness(answers) - UNEVEN) / (EVEN - UNEVEN), 0.0, 1.0))
