"""Qualities as a chain's judges expect them, in the place of single outcomes: thresholds then follow no query's luck.

Among a few hundred queries the best observed threshold is the luckiest one, and asking further seems to hurt wherever
the last few happened to go wrong. Of a judged level the expected quality is its calibrated probability; of the last
one a logistic regression on the judges' log-odds (a query that weak models find hard, the strong one finds harder).
"""

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.soft_logistic import fit_soft
from serve_app.cascade.thresholds import Walk

Floats = NDArray[np.float64]
_EDGE = 1e-4
_STRENGTH = 1.0


def smoothed(walk: Walk) -> Walk:
    """The same walk with expected qualities. Needs scikit-learn."""
    if walk.last == 0:
        return walk
    known = walk.probability >= 0.0
    judged = np.where(known, np.clip(walk.probability, 0.0, 1.0), walk.ok[:, :-1].mean(0))
    p = np.clip(judged, _EDGE, 1 - _EDGE)
    log_odds = np.log(p / (1 - p))
    scaled = (log_odds - log_odds.mean(0)) / np.maximum(log_odds.std(0), 1e-9)
    weights, bias = fit_soft(scaled, walk.ok[:, -1], _STRENGTH)
    last = 1.0 / (1.0 + np.exp(-(scaled @ np.maximum(weights, 0.0) + bias)))
    last *= walk.ok[:, -1].mean() / max(float(last.mean()), 1e-12)
    return Walk(walk.probability, np.column_stack([judged, np.clip(last, 0.0, 1.0)]), walk.cost_usd)
