"""Level `logistic`: multinomial logistic regression over hashed n-grams, learned by AdaGrad.

Duchi, Hazan, Singer, "Adaptive subgradient methods" (JMLR 2011): rare n-grams keep a large step. The released code fits
its vectoriser on the whole stream first; hashing needs no such look ahead.

Words and pairs of words are hashed to a fixed number of columns (Weinberger et al., ICML 2009, "Feature hashing for
large scale multitask learning", without the sign), weighted 1 + log(count), at unit length.
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import log

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import softmax
from serve_app.streams.online.base import Arrays, Probabilities, StreamSpec, under
from serve_app.streams.online.replay import Replay, excess
from serve_app.streams.online.settings import has_fix, settings_of

COLUMNS = 2**15
"""Collisions among a stream's few ten thousand n-grams cost less than a larger matrix does to publish."""
_MOST_WORDS = 2_000
"""Words of a text that are read."""
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")

Sparse = NDArray[np.float32]
"""[2, features]: columns (whole numbers, exact in float32), then weights."""


def hashed(text: str) -> Sparse:
    """The features of a text; none for a text without words."""
    words = _WORD.findall(text.lower())[:_MOST_WORDS]
    counts = Counter(words)
    counts.update(f"{a} {b}" for a, b in pairwise(words))
    weights: dict[int, float] = {}
    for gram, count in counts.items():
        column = zlib.crc32(gram.encode("utf-8", "surrogatepass")) % COLUMNS
        weights[column] = weights.get(column, 0.0) + 1.0 + log(count)
    found = np.array([list(weights), list(weights.values())], dtype=np.float32).reshape(2, -1)
    if found.shape[1]:
        found[1] /= np.linalg.norm(found[1])
    return found


RATE = 0.5
SHRINK = 1e-5
"""L2 of the weights that a batch touches."""
BATCH = 32
REPLAYED = 256
"""Rows of the store that are learned again at each update."""


class HashedPredictor:
    """Weights [COLUMNS, labels] and bias [labels]."""

    def __init__(self, weights: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        self._weights = weights
        self._bias = bias

    @classmethod
    def from_arrays(cls, arrays: Arrays, labels: int) -> "HashedPredictor":
        """The inverse of `arrays`."""
        weights = np.zeros((COLUMNS, labels), dtype=np.float32)
        weights[arrays["columns"]] = arrays["weights"]
        return cls(weights, np.asarray(arrays["bias"], dtype=np.float32))

    def prepare(self, texts: Sequence[str]) -> None:
        """Nothing: hashing a batch is no quicker."""

    def features(self, text: str) -> Sparse:
        """Hashed n-grams."""
        return hashed(text)

    def of(self, row: Sparse) -> Probabilities:
        """Class probabilities."""
        return softmax(row[1] @ self._weights[row[0].astype(np.int64)] + self._bias)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Only the columns that were ever learned."""
        columns = np.flatnonzero(self._weights.any(axis=1))
        return {"columns": columns, "weights": self._weights[columns], "bias": self._bias}


class HashedStudent:
    """Learns each full cache once, and with replay a draw of the store as well."""

    def __init__(self, spec: StreamSpec) -> None:
        settings = settings_of(spec)
        self._labels = len(spec.labels)
        self._cache_size = settings.levels[spec.levels.index("logistic")].cache_size
        self._replays = has_fix(spec, "replay")
        self._balance = settings.balance if has_fix(spec, "balanced") else 1.0
        self._seed = spec.seed
        self._cache = Replay(self._cache_size + 1, self._labels)
        self._store = Replay(settings.replay, self._labels)
        self.updates = 0
        self.evening = 1.0
        self._trained = 0
        self._frozen: HashedPredictor | None = None
        self._forget()

    @property
    def predictor(self) -> HashedPredictor:
        """A copy of the weights, made once for each update."""
        if self._frozen is None:
            self._frozen = HashedPredictor(self._weights.copy(), self._bias.copy())
        return self._frozen

    def learn(self, row: Sparse, label: int, age: int) -> None:
        """See Student."""
        self._cache.add(row, label, age)
        if self._replays:
            self._store.add(row, label, age)
        if len(self._cache) >= self._cache_size:
            self._update()

    def begin_again(self, age: int) -> None:
        """See Student."""
        self._forget()
        self._cache.drop_before(age)
        self._store.drop_before(age)
        self.updates = 0
        if len(self._store):
            self._learn_rows(self._store.rows, self._store.labels)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """See Student."""
        columns = np.flatnonzero(self._squares.any(axis=1))
        kept: dict[str, NDArray[np.generic]] = {
            "columns": columns,
            "weights": self._weights[columns],
            "squares": self._squares[columns],
            "bias": self._bias,
            "bias_squares": self._bias_squares,
            "counts": np.array([self.updates, self._trained], dtype=np.int64),
        }
        kept |= {f"cache.{k}": v for k, v in self._cache.state().items()}
        return kept | {f"store.{k}": v for k, v in self._store.state().items()}

    def restore(self, arrays: Arrays) -> None:
        """See Student."""
        self._forget()
        self._weights[arrays["columns"]] = arrays["weights"]
        self._squares[arrays["columns"]] = arrays["squares"]
        self._bias = np.array(arrays["bias"], dtype=np.float32)
        self._bias_squares = np.array(arrays["bias_squares"], dtype=np.float32)
        self.updates, self._trained = (int(n) for n in arrays["counts"])
        self._cache.restore(under(arrays, "cache"), (2,))
        self._store.restore(under(arrays, "store"), (2,))

    def _forget(self) -> None:
        self._weights = np.zeros((COLUMNS, self._labels), dtype=np.float32)
        self._squares = np.zeros_like(self._weights)
        self._bias = np.zeros(self._labels, dtype=np.float32)
        self._bias_squares = np.zeros_like(self._bias)
        self._frozen = None

    def _update(self) -> None:
        rows, labels = list(self._cache.rows), list(self._cache.labels)
        if self._replays:
            # the draw depends on the seed and the number of updates alone, so that a restart draws the same
            self._trained += 1
            draw = np.random.default_rng([self._seed, 1, self._trained]).permutation(len(self._store))[:REPLAYED]
            rows += [self._store.rows[i] for i in draw]
            labels += [self._store.labels[i] for i in draw]
        self._learn_rows(rows, labels)
        self._cache = Replay(self._cache_size + 1, self._labels)
        self.updates += 1
        self._frozen = None

    def _learn_rows(self, rows: list[Sparse], labels: list[int]) -> None:
        for start in range(0, len(rows), BATCH):
            self._step(rows[start : start + BATCH], np.array(labels[start : start + BATCH]))

    def _step(self, rows: list[Sparse], labels: NDArray[np.int64]) -> None:
        """One AdaGrad step on a batch; `owner` holds the row of each value in the flat arrays."""
        columns = np.concatenate([row[0] for row in rows]).astype(np.int64)
        values = np.concatenate([row[1] for row in rows])
        owner = np.repeat(np.arange(len(rows)), [row.shape[1] for row in rows])
        touched, place = np.unique(columns, return_inverse=True)
        weights = self._weights[touched]
        logits = np.tile(self._bias, (len(rows), 1))
        np.add.at(logits, owner, values[:, None] * weights[place])
        errors = softmax(logits + self.evening * excess(self._store.counts, self._balance)).astype(np.float32)
        errors[np.arange(len(rows)), labels] -= 1.0
        gradient = SHRINK * weights
        np.add.at(gradient, place, values[:, None] * errors[owner])
        squares = self._squares[touched] + gradient**2
        self._squares[touched] = squares
        self._weights[touched] = weights - RATE * gradient / (np.sqrt(squares) + 1e-6)
        bias = errors.sum(axis=0)
        self._bias_squares += bias**2
        self._bias -= RATE * 0.1 * bias / (np.sqrt(self._bias_squares) + 1e-6)
