"""Estimates of rows by fits that did not see them: what a policy is fitted on, or it would trust them too much."""

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.estimates import Estimates, fit_estimates
from serve_app.cascade.routing.seen import Seen
from serve_app.cascade.routing.uncertainty import fit_moves
from serve_app.cascade.routing.walk import Tables
from serve_app.learning.logistic import folds_of

Floats = NDArray[np.float64]
FOLDS = 10


def estimate_all(estimates: Estimates, seen: Seen) -> tuple[Floats, Floats]:
    """Quality and cost [2 ** K, n, K] in every state."""
    rows = estimates.evidence(seen)
    sets = range(2**estimates.models)
    quality = np.stack([estimates.qualities(asked, rows) for asked in sets])
    return quality, np.stack([estimates.costs(asked, seen) for asked in sets])


def crossfitted(seen: Seen, ok: Floats, difficulty: Floats, folds: NDArray[np.int64]) -> Tables:
    """Tables of all rows, each estimated by a fit on the other folds; moves counted on the same estimates."""
    n, models = ok.shape
    quality, cost = np.empty((2**models, n, models)), np.empty((2**models, n, models))
    for fold in np.unique(folds).tolist():
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        fitted = fit_estimates(seen.take(outside), ok[outside], difficulty[outside])
        quality[:, inside], cost[:, inside] = estimate_all(fitted, seen.take(inside))
    return Tables(quality, cost, fit_moves(quality), ok, seen.cost_usd)


def folds_by_text(prompts: tuple[str, ...], seed: int, folds: int = FOLDS) -> NDArray[np.int64]:
    """The same prompt always falls into the same fold."""
    return folds_of(prompts, folds, seed)
