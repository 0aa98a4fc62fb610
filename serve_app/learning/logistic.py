"""Logistic regression over named features, for labels that are probabilities. scikit-learn does the work.

Logistic regression on soft labels in [0, 1]; scikit-learn does the work.

Logistic regression with an L2 penalty on standardised columns, soft labels and an offset, by Newton's method.

scikit-learn's takes no offset, and the estimates are built on those of smaller sets of models.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.errors import missing_extra

Rows = Sequence[Mapping[str, float]]

_STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Inverse L2 penalties that are tried; log loss out of fold chooses."""
_ITERATIONS = 1_000
_TINY = 1e-4
"""Log-odds below which a weight is left out: no score moves by more than 1e-4 for it."""


def fit_logistic(
    rows: Rows, dense: Sequence[str], named: Sequence[str], outcomes: Floats, folds: NDArray[np.int64]
) -> tuple[dict[str, float], float]:
    """Weights by name, in log-odds per unit of the feature as given, and the bias.

    `dense` features are in every row and are standardised for the fit; `named` ones are absent where zero.
    `outcomes` in [0, 1], shape [n], count as soft labels. One class alone gives no weights and a smoothed bias.
    Raises DependencyError without scikit-learn.
    """
    if outcomes.min() == outcomes.max() and outcomes.min() in (0.0, 1.0):
        prior = (float(outcomes.sum()) + 0.5) / (len(outcomes) + 1)
        return {}, log(prior / (1 - prior))
    matrix, mean, scale = matrix_of(rows, dense, named)
    losses = [_loss_out_of_fold(matrix, outcomes, folds, strength) for strength in _STRENGTHS]
    model = _fit(matrix, outcomes, _STRENGTHS[int(np.argmin(losses))])
    slopes = model.coef_[0]
    slopes[: len(dense)] /= scale
    bias = float(model.intercept_[0] - slopes[: len(dense)] @ mean)
    names = [*dense, *named]
    return {n: round(float(w), 6) for n, w in zip(names, slopes, strict=True) if abs(w) > _TINY}, bias


def folds_of(texts: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for each text, shape [n]; the same text always falls into the same one."""
    keys = [zlib.crc32(f"{seed}\n{text}".encode("utf-8", "surrogatepass")) for text in texts]
    return np.array(keys, dtype=np.int64) % folds


def matrix_of(rows: Rows, dense: Sequence[str], named: Sequence[str]) -> tuple[Any, Floats, Floats]:
    """Sparse matrix [n, dense + named] with the dense columns standardised, and their means and scales."""
    from scipy.sparse import csr_matrix, hstack  # type: ignore[import-untyped]

    columns = np.array([[row[name] for name in dense] for row in rows])
    mean, scale = columns.mean(0), columns.std(0)
    scale[scale < 1e-9] = 1.0  # a constant column; rounding leaves its deviation just above zero
    place = {name: j for j, name in enumerate(named)}
    at = [[(place[name], value) for name, value in row.items() if name in place] for row in rows]
    starts = np.cumsum([0, *map(len, at)])
    indices = [j for row in at for j, _ in row]
    data = [value for row in at for _, value in row]
    sparse = csr_matrix((data, indices, starts), shape=(len(rows), len(named)), dtype=np.float64)
    return hstack([csr_matrix((columns - mean) / scale), sparse], format="csr"), mean, scale


def _loss_out_of_fold(matrix: Any, outcomes: Floats, folds: NDArray[np.int64], strength: float) -> float:
    """Mean log loss on one fold of a fit on the others; one split is enough to rank a few penalties."""
    inside = folds == folds.max()
    rest = outcomes[~inside]
    if not inside.any() or len(rest) == 0 or (rest.min() == rest.max() and rest.min() in (0.0, 1.0)):
        return 0.0
    p = np.clip(_fit(matrix[~inside], rest, strength).predict_proba(matrix[inside])[:, 1], 1e-9, 1 - 1e-9)
    y = outcomes[inside]
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def _fit(matrix: Any, outcomes: Floats, strength: float) -> Any:
    """Fit on soft labels: each row stands once for either class, weighted by its probability."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise missing_extra("training a router needs scikit-learn", "train") from None
    from scipy.sparse import vstack

    sure = np.concatenate([outcomes, 1 - outcomes])
    labels = np.concatenate([np.ones(len(outcomes)), np.zeros(len(outcomes))])
    used = sure > 0
    model = LogisticRegression(C=strength, max_iter=_ITERATIONS)
    return model.fit(vstack([matrix, matrix], format="csr")[used], labels[used], sample_weight=sure[used])


_SOLVER_ITERATIONS = 2_000


def fit_soft(x: Floats, ok: Floats, strength: float) -> tuple[Floats, float]:
    """Weights [k] and bias from x [n, k]; `strength` is the inverse L2 penalty.

    Each row stands once for either class, weighted by its quality. One class alone gives no weights and a smoothed
    bias. Raises DependencyError without scikit-learn.
    """
    sure = np.concatenate([ok, 1 - ok])
    labels = np.concatenate([np.ones(len(ok)), np.zeros(len(ok))])
    used = sure > 0
    if len(np.unique(labels[used])) == 1:
        share = (float(ok.sum()) + 0.5) / (len(ok) + 1)
        return np.zeros(x.shape[1]), float(np.log(share / (1 - share)))
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise missing_extra("fitting a cascade needs scikit-learn", "train") from None
    model = LogisticRegression(C=strength, max_iter=_SOLVER_ITERATIONS)
    model.fit(np.concatenate([x, x])[used], labels[used], sample_weight=sure[used])
    return model.coef_[0], float(model.intercept_[0])


def log_loss(log_odds: Floats, ok: Floats) -> float:
    """Mean cross-entropy of soft labels, in nats."""
    return float(np.mean(np.logaddexp(0.0, log_odds) - ok * log_odds))


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
