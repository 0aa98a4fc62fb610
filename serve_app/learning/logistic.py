"""Logistic regression on labels that are probabilities, with an L2 penalty.

`fit_soft` lets scikit-learn fit dense or sparse rows; `fit_logistic` names its features and chooses the penalty.
`fit_ridge_logistic` uses Newton's method instead, for what scikit-learn lacks: an offset, and a penalty on the bias.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.errors import needs_extra

Rows = Sequence[Mapping[str, float]]

_STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Inverse L2 penalties that `fit_logistic` tries; log loss out of fold chooses."""
_ITERATIONS = 2_000
_TINY = 1e-4
"""Log-odds below which a weight is left out: no score moves by more than 1e-4 for it."""


def smoothed_mean(ok: Floats) -> float:
    """Mean of labels in [0, 1] with half a count added to each class, so that it is inside (0, 1)."""
    return (float(np.sum(ok)) + 0.5) / (len(ok) + 1)


def smoothed_log_odds(ok: Floats) -> float:
    """Log-odds of `smoothed_mean`: the bias of a model without weights."""
    mean = smoothed_mean(ok)
    return log(mean / (1 - mean))


def one_class(ok: Floats) -> bool:
    """Whether labels are all 0, all 1, or none at all: there is nothing to learn from them."""
    return len(ok) == 0 or (ok.min() == ok.max() and ok.min() in (0.0, 1.0))


def soft_rows(x: Any, ok: Floats) -> tuple[Any, Floats, Floats]:
    """Rows, hard labels and weights that equal soft labels `ok` [n]: each row once per class, by its probability.

    `x` is an array [n, k] or a sparse matrix of that shape.
    """
    weights = np.concatenate([ok, 1 - ok])
    used = weights > 0
    labels = np.concatenate([np.ones(len(ok)), np.zeros(len(ok))])[used]
    if isinstance(x, np.ndarray):
        return np.concatenate([x, x])[used], labels, weights[used]
    from scipy.sparse import vstack  # type: ignore[import-untyped]

    return vstack([x, x], format="csr")[used], labels, weights[used]


def fit_soft(x: Any, ok: Floats, strength: float) -> tuple[Floats, float]:
    """Weights [k] and bias from rows `x` [n, k] (dense or sparse) and labels [n] in [0, 1].

    `strength` is the inverse L2 penalty. One class alone gives no weights and a smoothed bias. Raises DependencyError
    without scikit-learn.
    """
    if one_class(ok):
        return np.zeros(x.shape[1]), smoothed_log_odds(ok)
    with needs_extra("training needs scikit-learn", "train"):
        from sklearn.linear_model import LogisticRegression
    rows, labels, weights = soft_rows(x, ok)
    model = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(rows, labels, sample_weight=weights)
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])


def log_loss(log_odds: Floats, ok: Floats) -> float:
    """Mean cross-entropy of soft labels, in nats."""
    return float(np.mean(np.logaddexp(0.0, log_odds) - ok * log_odds))


def log_odds(p: Floats, nearest: float) -> Floats:
    """log(p / (1 - p)), p kept `nearest` away from 0 and 1."""
    clipped = np.clip(p, nearest, 1.0 - nearest)
    found: Floats = np.log(clipped / (1.0 - clipped))
    return found


def fit_logistic(
    rows: Rows, dense: Sequence[str], named: Sequence[str], outcomes: Floats, folds: NDArray[np.int64]
) -> tuple[dict[str, float], float]:
    """Weights by name, in log-odds per unit of the feature as given, and the bias.

    `dense` features are in every row and are standardized for the fit; `named` ones are absent where zero.
    `outcomes` in [0, 1], shape [n], count as soft labels. One class alone gives no weights and a smoothed bias.
    Raises DependencyError without scikit-learn.
    """
    if one_class(outcomes):
        return {}, smoothed_log_odds(outcomes)
    matrix, mean, scale = matrix_of(rows, dense, named)
    losses = [_loss_out_of_fold(matrix, outcomes, folds, strength) for strength in _STRENGTHS]
    slopes, bias = fit_soft(matrix, outcomes, _STRENGTHS[int(np.argmin(losses))])
    slopes[: len(dense)] /= scale
    bias -= float(slopes[: len(dense)] @ mean)
    names = [*dense, *named]
    return {n: round(float(w), 6) for n, w in zip(names, slopes, strict=True) if abs(w) > _TINY}, bias


def folds_of(texts: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for each text, shape [n]; the same text always falls into the same one."""
    keys = [zlib.crc32(f"{seed}\n{text}".encode("utf-8", "surrogatepass")) for text in texts]
    return np.array(keys, dtype=np.int64) % folds


def means_by_text(values: Floats, rows: Mapping[str, Sequence[int]]) -> Floats:
    """Mean value of each text, in the order of `rows_by_text`."""
    return np.array([values[list(at)].mean() for at in rows.values()])


def matrix_of(rows: Rows, dense: Sequence[str], named: Sequence[str]) -> tuple[Any, Floats, Floats]:
    """Sparse matrix [n, dense + named] with the dense columns standardised, and their means and scales."""
    from scipy.sparse import csr_matrix, hstack

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
    if inside.all():
        return 0.0
    weights, bias = fit_soft(matrix[~inside], outcomes[~inside], strength)
    return log_loss(matrix[inside] @ weights + bias, outcomes[inside])


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
