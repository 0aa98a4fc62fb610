"""Stacking of several estimates, and kernel ridge regression on landmarks, which is one of them.

Stacked regression with weights that are not negative (Wolpert 1992; Breiman 1996), with a Gaussian prior around
weights given beforehand: few or noisy outcomes move them little. Then a logistic curve from the weighed sum to a
probability (Platt 1999), which keeps the order of the sums: it calibrates, it does not rank.

The kernel is Gaussian, by Nyström's method (Williams & Seeger 2001), with scikit-learn's landmarks, so that the cost of
a prediction does not grow with the data; then ridge regression.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.errors import needs_extra
from serve_app.learning.encoder import Vectors
from serve_app.learning.logistic import fit_soft, smoothed_log_odds
from serve_app.learning.ridge import fit_ridge

_PRIOR_SD = 0.25
"""Standard deviation of the prior of a weight."""
_STRENGTH = 10.0
"""Inverse penalty of the logistic curve, which has one weight."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Log-odds of a strong win = slope * sum of weight * estimate, plus bias; weights by expert."""

    weights: Mapping[str, float]
    slope: float
    bias: float

    @classmethod
    def fit(cls, estimates: Mapping[str, Floats], prior: Mapping[str, float], target: Floats, wins: Floats) -> Self:
        """From estimates out of fold by expert, the target that they estimate, and strong win rates; all [n].

        `prior` are the weights where the data say nothing. Raises DependencyError without scikit-learn.
        """
        columns = np.stack([estimates[name] for name in prior], axis=1)
        weights = _weights(columns - columns.mean(0), target - target.mean(), np.array(list(prior.values())))
        slope, bias = _calibrated(columns @ weights, wins)
        return cls(dict(zip(prior, weights.tolist(), strict=True)), slope, bias)

    def log_odds(self, estimates: Mapping[str, float]) -> float:
        """Of one query, from each expert's estimate."""
        return self.bias + self.slope * sum(w * estimates[name] for name, w in self.weights.items())


def _weights(columns: Floats, target: Floats, prior: Floats) -> Floats:
    """The most likely weights that are not negative: least squares, the prior as further rows of the problem."""
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    noise = max(float((target - columns @ prior).std()), 1e-9)
    pull = np.eye(len(prior)) * noise / _PRIOR_SD
    found, _ = nnls(np.concatenate([columns, pull]), np.concatenate([target, pull @ prior]))
    weights: Floats = found
    return weights


def _calibrated(sums: Floats, wins: Floats) -> tuple[float, float]:
    """Slope and bias of the log-odds of winning. The slope is at least 0; 0 for constant sums."""
    flat = (0.0, smoothed_log_odds(wins))
    mean, deviation = float(sums.mean()), float(sums.std())
    if deviation < 1e-9:
        return flat
    weights, bias = fit_soft(((sums - mean) / deviation)[:, None], wins, _STRENGTH)
    slope = float(weights[0])
    return (slope / deviation, bias - slope * mean / deviation) if slope > 0 else flat


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
        with needs_extra("training a router needs scikit-learn", "train"):
            from sklearn.kernel_approximation import Nystroem
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
