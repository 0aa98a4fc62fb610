"""The weights of nearest neighbours in a mean, and their choice by leave-one-out cross-validation."""

from dataclasses import dataclass
from itertools import product
from math import log

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ConfigError
from serve_app.learning.neighbours import Vectors, largest

Floats = NDArray[np.float64]

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
