"""Logistic regression with an L2 penalty on standardised columns, soft labels and an offset, by Newton's method.

scikit-learn's takes no offset, and the estimates are built on those of smaller sets of models.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_STEPS = 50
_CLOSE = 1e-8
_FLAT = 1e-9
"""Columns that vary less are left out."""


@dataclass(frozen=True, slots=True)
class RidgeLogistic:
    """Log-odds = offset + x · weights + bias, weights per unit of the column as given."""

    weights: Floats
    bias: float

    def log_odds(self, x: Floats, offset: Floats | float = 0.0) -> Floats:
        """Of rows [n, d]."""
        found: Floats = offset + x @ self.weights + self.bias
        return found


def fit_ridge_logistic(
    x: Floats, y: Floats, penalty: float, offset: Floats | None = None, bias_penalty: float = 1e-3
) -> RidgeLogistic:
    """Of rows [n, d] and qualities [n] in [0, 1].

    `penalty` is half the weight of the squared coefficients of standardised columns against the summed log loss.
    """
    mean, scale = x.mean(0), x.std(0)
    flat = scale < _FLAT
    scale = np.where(flat, 1.0, scale)
    rows = np.column_stack([np.ones(len(x)), np.where(flat, 0.0, (x - mean) / scale)])
    start = np.zeros(len(x)) if offset is None else offset
    shrink = np.full(rows.shape[1], penalty)
    shrink[0] = bias_penalty
    w = _newton(rows, y, start, shrink)
    weights = np.where(flat, 0.0, w[1:] / scale)
    return RidgeLogistic(weights, float(w[0] - weights @ mean))


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    found: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return found


def log_odds(p: Floats, nearest: float) -> Floats:
    """log(p / (1 - p)), p kept `nearest` away from 0 and 1."""
    clipped = np.clip(p, nearest, 1.0 - nearest)
    found: Floats = np.log(clipped / (1.0 - clipped))
    return found


def _newton(rows: Floats, y: Floats, start: Floats, shrink: Floats) -> Floats:
    """Newton steps, halved until the loss falls; the loss is strictly convex."""
    w = np.zeros(rows.shape[1])
    loss = _loss(rows, y, start, shrink, w)
    for _ in range(_STEPS):
        p = sigmoid(rows @ w + start)
        slope = rows.T @ (p - y) + shrink * w
        curvature = (rows * (p * (1.0 - p))[:, None]).T @ rows + np.diag(shrink)
        step = np.linalg.solve(curvature, slope)
        size = 1.0
        while size > _CLOSE and (found := _loss(rows, y, start, shrink, w - size * step)) > loss:
            size /= 2.0
        w, loss = w - size * step, found
        if size <= _CLOSE or np.abs(step).max() < _CLOSE:
            break
    return w


def _loss(rows: Floats, y: Floats, start: Floats, shrink: Floats, w: Floats) -> float:
    z = rows @ w + start
    return float((np.logaddexp(0.0, z) - y * z).sum() + 0.5 * (shrink * w**2).sum())
