"""Sums of RouteLLM's similarity weights over stored battles, faster than reading them all.

A battle whose prompt has cosine s to the query weighs 10 * 10^(s / s_max), s_max being the greatest (RouteLLM's code;
the paper's section 4.2 with gamma = 10). All battles count, and 100,000 vectors of 384 numbers are 154 MB: 20 ms and
more. But far battles have nearly equal weights. Those in the clusters nearest to the query are compared one by one;
of the others only the mean similarity of each group is needed, which follows exactly from the group's mean vector, and
the spread within a group, which is taken from the pooled covariance: E[e^x] = e^(mean + variance / 2).
"""

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.errors import needs_extra

Vectors = NDArray[np.float32]
Positions = NDArray[np.int64]

CLUSTERS = 1_024
NEAR = 4_096
"""Battles that are compared one by one where there are too many for all."""
GROUPS = 4_096
"""Groups of one cluster and one cell that the others are summed in, at most about so many: 6 MB of mean vectors."""
_LEAST = 0.01
"""Lower bound of the greatest similarity: where nothing is similar, the paper's quotient would reverse the weights."""
_TAUGHT = 50
"""Vectors per cluster that k-means learns from."""


@dataclass(frozen=True, slots=True)
class Near:
    """Battles compared one by one, in no order: positions and weights, shape [m] each; and the weight of each cell."""

    rows: Positions
    weights: Floats
    totals: Floats


class BattleIndex:
    """n battles with unit vectors [n, d] and a cell each: what the weights are summed by.

    `cluster` [n] comes from `clusters_of`, or is None where all are compared one by one. Positions are those of the
    arrays given.
    """

    def __init__(self, vectors: Vectors, cells: Positions, cell_count: int, cluster: Positions | None) -> None:
        self.cell_count = cell_count
        self._order = np.arange(len(cells)) if cluster is None else np.argsort(cluster, kind="stable")
        self._vectors = vectors if cluster is None else np.ascontiguousarray(vectors[self._order])
        self._cells = cells[self._order]
        self._clusters = None if cluster is None else _Clusters(self._vectors, self._cells, cluster[self._order])

    def weigh(self, query: Vectors) -> Near:
        """Weights of the battles near to a query's unit vector, and the sums of all weights by cell."""
        if self._clusters is None:
            similar = self._vectors @ query
            top = max(float(similar.max()), _LEAST)
            weights = _weights(similar, top)
            return Near(self._order, weights, self._sums(self._cells, weights))
        at = self._clusters.nearest_rows(query)
        similar = np.concatenate([self._vectors[a:b] @ query for a, b in at])
        rows = np.concatenate([np.arange(a, b) for a, b in at])
        top = max(float(similar.max()), _LEAST)
        weights = _weights(similar, top)
        totals = self._sums(self._cells[rows], weights)
        cells, rest = self._clusters.rest(query, rows, similar, log(10) / top)
        return Near(self._order[rows], weights, totals + self._sums(cells, rest))

    def _sums(self, cells: Positions, weights: Floats) -> Floats:
        sums: Floats = np.bincount(cells, weights=weights, minlength=self.cell_count).astype(np.float64, copy=False)
        return sums


class _Clusters:
    """Clusters and groups of battles sorted by cluster."""

    def __init__(self, vectors: Vectors, cells: Positions, cluster: Positions) -> None:
        count = int(cluster.max()) + 1
        self._starts = np.searchsorted(cluster, np.arange(count + 1)).tolist()
        self._sizes = np.diff(self._starts)
        self._centres = _means(vectors, cluster, self._sizes)
        wide = cluster if count * len(np.unique(cells)) <= GROUPS else _coarse(self._centres, cluster, cells)
        keys, self._group = np.unique(wide * (int(cells.max()) + 1) + cells, return_inverse=True)
        self._cell_of_group = keys % (int(cells.max()) + 1)
        self._count = np.bincount(self._group).astype(np.float64)
        self._mean = _means(vectors, self._group, self._count)
        spread = np.maximum(1.0 - (self._mean.astype(np.float64) ** 2).sum(1), 0.0)
        weighted = self._mean * np.sqrt(self._count / len(vectors))[:, None].astype(np.float32)
        self._within = (vectors.T @ vectors / len(vectors) - weighted.T @ weighted).astype(np.float32)
        self._relative = spread / max(float(np.trace(self._within)), 1e-12)

    def nearest_rows(self, query: Vectors) -> list[tuple[int, int]]:
        """Spans of the nearest clusters, at least one and NEAR battles in all at most otherwise."""
        order = np.argsort(-(self._centres @ query), kind="stable")
        enough = max(1, int(np.searchsorted(np.cumsum(self._sizes[order]), NEAR, "right")))
        return [(self._starts[c], self._starts[c + 1]) for c in order[:enough].tolist()]

    def rest(self, query: Vectors, rows: Positions, similar: Vectors, scale: float) -> tuple[Positions, Floats]:
        """For each group its cell, and the weight of its battles that are not among `rows`."""
        seen = self._group[rows]
        groups = len(self._count)
        left = self._count - np.bincount(seen, minlength=groups)
        total = self._count * (self._mean @ query) - np.bincount(seen, weights=similar, minlength=groups)
        mean = total / np.maximum(left, 1.0)
        variance = self._relative * float(query @ self._within @ query)
        return self._cell_of_group, left * 10.0 * np.exp(scale * mean + scale**2 * variance / 2)


def clusters_of(vectors: Vectors, seed: int) -> Positions:
    """A k-means cluster for each unit vector, shape [n]; numbers without a gap. Raises DependencyError."""
    with needs_extra("an index of many battles needs scikit-learn", "train"):
        from sklearn.cluster import MiniBatchKMeans
    rng = np.random.default_rng(seed)
    taught = vectors[rng.choice(len(vectors), min(len(vectors), _TAUGHT * CLUSTERS), replace=False)]
    model = MiniBatchKMeans(CLUSTERS, random_state=seed, batch_size=4096, n_init=1, max_iter=20, init="random")
    centres = model.fit(taught).cluster_centers_.astype(np.float32)
    squares = (centres**2).sum(1) / 2
    nearest = [(vectors[i : i + 4096] @ centres.T - squares).argmax(1) for i in range(0, len(vectors), 4096)]
    found: Positions = np.unique(np.concatenate(nearest), return_inverse=True)[1]
    return found


def _coarse(centres: Vectors, cluster: Positions, cells: Positions) -> Positions:
    """Clusters joined until GROUPS hold them all: the widest one is halved repeatedly."""
    count = max(1, GROUPS // len(np.unique(cells)))
    parts = [np.arange(len(centres))]
    while len(parts) < min(count, len(centres)):
        widest = max(range(len(parts)), key=lambda i: _scatter(centres[parts[i]]))
        members = parts.pop(widest)
        around = centres[members] - centres[members].mean(0)
        along = around @ np.linalg.svd(around, full_matrices=False)[2][0]
        ranked = members[np.argsort(along, kind="stable")]
        parts += [ranked[: len(ranked) // 2], ranked[len(ranked) // 2 :]]
    label = np.empty(len(centres), dtype=np.int64)
    for number, members in enumerate(parts):
        label[members] = number
    return label[cluster]


def _scatter(points: Vectors) -> float:
    return float(((points - points.mean(0)) ** 2).sum())


def _means(vectors: Vectors, label: Positions, sizes: NDArray[Any]) -> Vectors:
    """Mean vector of each label, shape [labels, d]; every label has a member."""
    order = np.argsort(label, kind="stable")
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    sums = np.add.reduceat(vectors[order], first, axis=0, dtype=np.float64)
    means: Vectors = (sums / np.asarray(sizes)[:, None]).astype(np.float32)
    return means


def _weights(similar: Vectors, top: float) -> Floats:
    weights: Floats = 10.0 * np.exp(similar.astype(np.float64) * (log(10) / top))
    return weights
