"""Logistic regression over named features, for labels that are probabilities. scikit-learn does the work."""

import zlib
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import DependencyError

Floats = NDArray[np.float64]
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
        raise DependencyError('training a router needs scikit-learn: pip install "jethro[train]"') from None
    from scipy.sparse import vstack

    sure = np.concatenate([outcomes, 1 - outcomes])
    labels = np.concatenate([np.ones(len(outcomes)), np.zeros(len(outcomes))])
    used = sure > 0
    model = LogisticRegression(C=strength, max_iter=_ITERATIONS)
    return model.fit(vstack([matrix, matrix], format="csr")[used], labels[used], sample_weight=sure[used])
