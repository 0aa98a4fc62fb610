"""How far an estimate of quality still moves once its model has answered: one normal distribution for each state.

The paper takes estimates to be normal around what will be known later. What will be known is the estimate after the
answer, so its covariance is counted over the rows the estimates were cross-fitted on. A model's move is taken relative
to that of the best answer so far, which the same answer makes more or less likely (they may agree): only the
difference decides. Moves are in units of sqrt(q (1 - q)): a sure estimate moves little.
"""

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.sets import members

Floats = NDArray[np.float64]
_LEAST_VARIANCE = 0.0025
"""Of q (1 - q): an estimate of 0.25 % or 99.75 % is not surer than that."""


def unit_of_moves(quality: Floats) -> Floats:
    """sqrt(q (1 - q)) of estimates of any shape."""
    found: Floats = np.sqrt(np.maximum(quality * (1.0 - quality), _LEAST_VARIANCE))
    return found


def fit_moves(quality: Floats) -> Floats:
    """Factors [2 ** K, K, K] from cross-fitted estimates [2 ** K, n, K].

    `factor[asked] @ factor[asked].T` is the covariance of the moves; rows of models that have answered are 0.
    """
    sets, _, models = quality.shape
    found = np.zeros((sets, models, models))
    for asked in range(sets):
        new = [m for m in range(models) if not asked >> m & 1]
        if not new:
            continue
        moves = np.stack([_moves(quality, asked, m) for m in new], axis=1)
        found[asked][np.ix_(new, new)] = _root(moves.T @ moves / len(moves))
    return found


def _moves(quality: Floats, asked: int, model: int) -> Floats:
    """[n], in units of moves."""
    now, then = quality[asked], quality[asked | 1 << model]
    moved = then[:, model] - now[:, model]
    there = members(asked, quality.shape[2])
    if there:
        rows = np.arange(len(now))
        best = np.array(there)[now[:, there].argmax(1)]
        moved = moved - (then[rows, best] - now[rows, best])
    found: Floats = moved / unit_of_moves(now[:, model])
    return found


def _root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    found: Floats = vectors * np.sqrt(np.maximum(values, 0.0))
    return found
