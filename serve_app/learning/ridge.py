"""Ridge regression whose penalty leave-one-out cross-validation chooses, with the leave-one-out predictions.

One eigendecomposition serves all penalties, and leaving one row out needs no refit: its residual is the ordinary one
over 1 - h, h its leverage (Hastie et al. 2009, equation 7.64). A stack is fitted on these predictions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats

PENALTIES = tuple(float(p) for p in np.logspace(-2, 3.5, 12).round(3))
"""For rows of mean squared length 1 or so; half a decade apart."""


@dataclass(frozen=True, slots=True)
class Ridge:
    """Prediction = x · weights + bias, weights of shape [d]; `penalty` is the one chosen."""

    weights: Floats
    bias: float
    penalty: float


def fit_ridge(matrix: NDArray[np.floating], target: Floats) -> tuple[Ridge, Floats]:
    """The ridge of a matrix [n, d] and targets [n], and its leave-one-out predictions [n]. The bias is free."""
    centre = matrix.mean(0, dtype=np.float64)
    rows = matrix.astype(np.float64) - centre
    mean = float(target.mean())
    values, vectors = _spectrum(rows)
    turned = rows @ vectors
    moments = turned.T @ (target - mean)
    tried = [_left_out(turned, moments / (values + p), values + p, target - mean) for p in PENALTIES]
    best = int(np.argmin([((target - mean - left_out) ** 2).mean() for left_out in tried]))
    penalty, left_out = PENALTIES[best], tried[best]
    weights: Floats = vectors @ (moments / (values + penalty))
    return Ridge(weights, mean - float(centre @ weights), penalty), left_out + mean


def _spectrum(rows: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues and eigenvectors [d, k] of the rows' d × d products, through the n × n ones where these are fewer."""
    n, d = rows.shape
    if n >= d:
        values, vectors = np.linalg.eigh(rows.T @ rows)
        return np.maximum(values, 0.0), vectors
    values, left = np.linalg.eigh(rows @ rows.T)
    kept = values > 1e-12 * max(float(values[-1]), 1e-300)  # the others are those of no row
    return values[kept], rows.T @ left[:, kept] / np.sqrt(values[kept])


def _left_out(turned: Floats, weights: Floats, shrunk: Floats, target: Floats) -> Floats:
    """Predictions of each row by a fit on the others; the free bias adds 1 / n to the leverage."""
    n = len(target)
    leverage = (turned**2 / shrunk).sum(1) + 1.0 / n
    residual = (target - turned @ weights) / np.maximum(1.0 - leverage, 1e-6)
    predictions: Floats = target - residual
    return predictions
