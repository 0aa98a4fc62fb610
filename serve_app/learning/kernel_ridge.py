"""Kernel ridge regression on a few hundred landmarks: like queries have like outcomes, at a cost that stays the same.

A Gaussian kernel by Nyström's method (Williams & Seeger 2001), with scikit-learn's landmarks; then ridge regression.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import DependencyError
from serve_app.learning.encoder import Vectors
from serve_app.learning.ridge import Floats, fit_ridge

GAMMA = 0.3
"""Of exp(-gamma * squared distance), rows having mean squared length 1: wide, as the data are noisy."""
LANDMARKS = 512


@dataclass(frozen=True, slots=True)
class KernelRidge:
    """Prediction = sum over landmarks of weight * exp(-gamma * squared distance), plus bias."""

    landmarks: Vectors
    weights: Floats
    bias: float
    gamma: float
    lengths: Floats = field(init=False, repr=False)
    """Squared lengths of the landmarks: distances then take one product."""

    def __post_init__(self) -> None:
        squares = np.einsum("ij,ij->i", self.landmarks, self.landmarks, dtype=np.float64)
        object.__setattr__(self, "lengths", squares)

    @classmethod
    def fit(cls, rows: Vectors, target: Floats, seed: int) -> tuple[Self, Floats]:
        """From rows [n, d] and targets [n]; also the leave-one-out predictions [n]. `seed` draws the landmarks.

        Raises DependencyError without scikit-learn.
        """
        try:
            from sklearn.kernel_approximation import Nystroem
        except ImportError:
            raise DependencyError('training a router needs scikit-learn: pip install "jethro[train]"') from None
        count = min(LANDMARKS, len(rows))
        mapping = Nystroem(kernel="rbf", gamma=GAMMA, n_components=count, random_state=seed)
        ridge, left_out = fit_ridge(mapping.fit_transform(rows.astype(np.float64)), target)
        weights = mapping.normalization_.T @ ridge.weights
        return cls(mapping.components_.astype(np.float32), weights, ridge.bias, GAMMA), left_out

    def predict(self, row: Vectors) -> float:
        """Of one row, shape [d]."""
        apart = self.lengths + float(row @ row) - 2.0 * (self.landmarks @ row)
        return float(np.exp(-self.gamma * apart) @ self.weights) + self.bias

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For saving."""
        return {
            "landmarks": self.landmarks,
            "kernel_weights": self.weights,
            "kernel_bias": np.array(self.bias),
            "kernel_gamma": np.array(self.gamma),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], columns: int) -> Self:
        """What `arrays` gave. Raises KeyError or ValueError."""
        landmarks, weights = arrays["landmarks"], arrays["kernel_weights"]
        if landmarks.ndim != 2 or landmarks.shape[1] != columns or weights.shape != (len(landmarks),):
            raise ValueError("landmarks and weights do not fit together")
        return cls(landmarks, weights, float(arrays["kernel_bias"]), float(arrays["kernel_gamma"]))
