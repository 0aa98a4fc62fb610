"""Nearest stored vectors by inner product (exact for few, by an inverted file for many), and their weights in a mean.

An exact scan of 100,000 vectors of 384 dimensions reads 154 MB for one query. The inverted file (Sivic & Zisserman
2003; Jégou et al. 2011, section IV) sorts the vectors into cells around k-means centres and scans the cells whose
centres are nearest to the query; what it scans it compares exactly. How many cells, `fit` finds by measuring recall.
For one query at a time numpy is as fast as an index library, which would add 64 MB. The weights' parameters are chosen
by leave-one-out cross-validation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import log, sqrt
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.errors import ConfigError, needs_extra

Vectors = NDArray[np.float32]
Positions = NDArray[np.int64]

EXACT_UP_TO = 8_000
"""Vectors that are scanned whole: 12 MB at 384 dimensions, under a millisecond."""
RECALL = 0.98
"""Mean share of the true nearest that a search must find, on stored vectors as queries; tests hold 0.97 on others."""
MOST_SCANNED = 16_000
"""Vectors that a search may scan, about 1.5 ms on a busy core; `recall_` is then lower."""
_CELLS_PER_ROOT = 4
"""Cells per square root of the number of vectors, as is usual; 1,264 cells of 79 for 100,000."""
_PER_CELL = 50
"""Vectors per cell that k-means learns from; more move the centres little."""
_PROBES = 200
"""Stored vectors that recall is measured with."""


class Neighbours:
    """An index over n vectors of d dimensions, shape [n, d]; positions are those of the array given.

    Not for vectors of different length: inner products rank by angle at unit length only.
    """

    def __init__(self, vectors: Vectors, order: Positions, starts: Positions, centres: Vectors, visited: int) -> None:
        """From the parts that `arrays` gives; `fit` makes them. `vectors` are sorted by cell, `order` says whence."""
        self._vectors = vectors
        self._order = order
        self._starts = starts.tolist()
        self._centres = centres
        self.visited = visited
        """Cells that a search scans; 0 where it scans all vectors."""
        self.recall_ = 1.0
        """Measured by `fit`; not saved."""

    def __len__(self) -> int:
        return len(self._vectors)

    @classmethod
    def fit(cls, vectors: Vectors, nearest: int, seed: int = 0) -> Self:
        """The index; searches for `nearest` have RECALL, or scan MOST_SCANNED. Many vectors need scikit-learn."""
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        n, dimensions = vectors.shape
        if n <= EXACT_UP_TO:
            empty = np.zeros((0, dimensions), dtype=np.float32)
            return cls(vectors, np.arange(n), np.array([0, n]), empty, 0)
        rng = np.random.default_rng(seed)
        centres = _centres(vectors, round(_CELLS_PER_ROOT * sqrt(n)), rng)
        cell = _nearest_centre(vectors, centres)
        order = np.argsort(cell, kind="stable")
        starts = np.searchsorted(cell[order], np.arange(len(centres) + 1))
        index = cls(vectors[order], order, starts, centres, 1)
        index._visit_enough(vectors[rng.choice(n, _PROBES, replace=False)], nearest)
        return index

    def search(self, query: Vectors, nearest: int) -> tuple[Positions, Vectors]:
        """Positions and similarities of the nearest to one vector of shape [d], most similar first.

        Fewer than `nearest` where there are no more, or no more in the cells that are scanned.
        """
        if self.visited == 0:
            similar = self._vectors @ query
            at = largest(similar, nearest)
            return self._order[at], similar[at]
        return self._scan(largest(self._centres @ query, self.visited), query, nearest)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All parts but the vectors, to be saved with them."""
        return {
            "order": self._order.astype(np.int32),
            "starts": np.array(self._starts, dtype=np.int32),
            "centres": self._centres,
            "visited": np.array(self.visited),
        }

    @property
    def vectors(self) -> Vectors:
        """The vectors in the order of the positions that `search` gives, shape [n, d]."""
        back = np.empty_like(self._order)
        back[self._order] = np.arange(len(self._order))
        return self._vectors[back]

    @classmethod
    def from_arrays(cls, vectors: Vectors, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The index whose `arrays` and `vectors` were saved. Raises KeyError or ValueError if they do not fit."""
        order, starts = arrays["order"].astype(np.int64), arrays["starts"].astype(np.int64)
        if sorted(order.tolist()) != list(range(len(vectors))) or starts[0] != 0 or starts[-1] != len(vectors):
            raise ValueError("cells and vectors do not fit together")
        visited = int(arrays["visited"])
        centres = arrays["centres"].astype(np.float32)
        if visited and len(centres) != len(starts) - 1:
            raise ValueError("cells and centres do not fit together")
        return cls(vectors[order], order, starts, centres, visited)

    def _scan(self, cells: Positions, query: Vectors, nearest: int) -> tuple[Positions, Vectors]:
        spans = [(self._starts[cell], self._starts[cell + 1]) for cell in cells.tolist()]
        similar = np.concatenate([self._vectors[a:b] @ query for a, b in spans])
        where = np.concatenate([self._order[a:b] for a, b in spans])
        at = largest(similar, nearest)
        return where[at], similar[at]

    def _visit_enough(self, queries: Vectors, nearest: int) -> None:
        """Set `visited` to the fewest cells (in steps of a quarter) with RECALL on the queries, within MOST_SCANNED."""
        everywhere = np.arange(len(self._centres))
        truth = [self._scan(everywhere, q, nearest)[0] for q in queries]
        most = max(2, len(self._centres) * MOST_SCANNED // len(self))
        self.visited = 1
        while self.recall_ < RECALL or self.visited == 1:
            self.visited = min(most, self.visited + max(1, self.visited // 4))
            self.recall_ = recall([self.search(q, nearest)[0] for q in queries], truth)
            if self.visited == most:
                return


def recall(found: list[Positions], truth: list[Positions]) -> float:
    """Mean share of the true nearest that were found."""
    return float(np.mean([len(np.intersect1d(f, t)) / len(t) for f, t in zip(found, truth, strict=True)]))


def largest(values: NDArray[np.floating[Any]], count: int) -> Positions:
    """Positions of the largest values, largest first; equal ones in the order of their positions."""
    if count < len(values):
        at = np.argpartition(values, len(values) - count)[len(values) - count :]
        at.sort()
    else:
        at = np.arange(len(values))
    return at[np.argsort(-values[at], kind="stable")]


def _centres(vectors: Vectors, cells: int, rng: np.random.Generator) -> Vectors:
    """k-means centres at unit length, shape [cells, d]."""
    with needs_extra("an index of many vectors needs scikit-learn", "train"):
        from sklearn.cluster import MiniBatchKMeans
    taught = rng.choice(len(vectors), min(len(vectors), _PER_CELL * cells), replace=False)
    seed = int(rng.integers(2**31))
    model = MiniBatchKMeans(cells, random_state=seed, batch_size=4096, n_init=1, max_iter=20, init="random")
    found: Vectors = model.fit(vectors[taught]).cluster_centers_.astype(np.float32)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return found


def _nearest_centre(vectors: Vectors, centres: Vectors, rows: int = 4096) -> Positions:
    parts = [(vectors[i : i + rows] @ centres.T).argmax(1) for i in range(0, len(vectors), rows)]
    return np.concatenate(parts)


_K = (4, 8, 16, 32, 64, 128)
_TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 1.0)
"""Of cosine similarity: at 0.02 little but the nearest counts, at 1 all k count nearly alike."""
_SHRINKAGES = (0.5, 1.0, 2.0, 4.0, 8.0)
_VALIDATED = 4_000
"""Queries whose neighbours are sought among all others; more rank the few candidates no better."""
_ROWS = 256


@dataclass(frozen=True, slots=True)
class Kernel:
    """Neighbour i of k weighs exp((s_i - s_1) / temperature); the prior weighs `shrinkage`. None: to be chosen."""

    k: int | None
    temperature: float | None
    shrinkage: float | None

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ConfigError(f"knn: k is {self.k}; give at least 1, or leave it out to have it chosen")
        for name in ("temperature", "shrinkage"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"knn: {name} is {value}; give a number above 0, or leave it out to have it chosen")

    def __str__(self) -> str:
        return f"k {self.k}, temperature {self.temperature:g}, shrinkage {self.shrinkage:g}"

    @property
    def nearest(self) -> int:
        """k, once it is chosen."""
        assert self.k is not None
        return self.k

    def shares(self, similar: NDArray[np.floating]) -> Floats:
        """Share of each neighbour in the mean, shape of `similar` [..., found]; most similar first.

        They add up to less than 1: the rest is the prior's. Those beyond k have none.
        """
        assert self.temperature is not None and self.shrinkage is not None
        weights = np.exp((similar.astype(np.float64) - similar[..., :1]) / self.temperature)
        weights[..., self.nearest :] = 0.0
        shares: Floats = weights / (weights.sum(-1, keepdims=True) + self.shrinkage)
        return shares


def choose_kernel(vectors: Vectors, outcomes: Floats, given: Kernel, prior: float, seed: int) -> Kernel:
    """`given` with what is None chosen: least mean log loss of each query estimated from all others.

    `vectors` [n, d] at unit length, no two of one text; `outcomes` [n] in [0, 1]. Of equal ones the first, smallest.
    """
    if None not in (given.k, given.temperature, given.shrinkage):
        return given
    candidates = [
        Kernel(*values)
        for values in product(
            _K if given.k is None else (given.k,),
            _TEMPERATURES if given.temperature is None else (given.temperature,),
            _SHRINKAGES if given.shrinkage is None else (given.shrinkage,),
        )
    ]
    if len(vectors) < 3 or outcomes.min() == outcomes.max():
        return candidates[0]
    at, similar = _others(vectors, max(c.nearest for c in candidates), seed)
    near = outcomes[at[:, 1:]] - prior
    truth = outcomes[at[:, 0]]
    losses = [_log_loss(prior + (c.shares(similar) * near).sum(1), truth) for c in candidates]
    return candidates[int(np.argmin(losses))]


def log_odds(probability: float) -> float:
    """log(p / (1 - p)), for p in (0, 1)."""
    return log(probability / (1 - probability))


def _others(vectors: Vectors, nearest: int, seed: int) -> tuple[NDArray[np.int64], Vectors]:
    """Rows [q, 1 + nearest] of some queries and the nearest others, most similar first, and the similarities."""
    n = len(vectors)
    rng = np.random.default_rng(seed)
    chosen = np.arange(n) if n <= _VALIDATED else np.sort(rng.choice(n, _VALIDATED, replace=False))
    nearest = min(nearest, n - 1)
    at, similar = [], []
    for start in range(0, len(chosen), _ROWS):
        rows = chosen[start : start + _ROWS]
        found = vectors[rows] @ vectors.T
        found[np.arange(len(rows)), rows] = -np.inf
        top = np.stack([largest(row, nearest) for row in found])
        at.append(np.concatenate([rows[:, None], top], axis=1))
        similar.append(np.take_along_axis(found, top, axis=1))
    return np.concatenate(at), np.concatenate(similar)


def _log_loss(estimates: Floats, outcomes: Floats) -> float:
    p = np.clip(estimates, 1e-9, 1 - 1e-9)
    return float(-np.mean(outcomes * np.log(p) + (1 - outcomes) * np.log(1 - p)))
