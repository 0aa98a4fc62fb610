"""A raw signal to calibrated log-odds of being right: a curve through knots, looked up at decision time.

The curve is the mean of two logistic regressions, one on the signal's own log-odds and one on its rank among the
answers it was fitted on: the first knows how sure the model says it is, the second bears any scale and ties at the top
(a model that gives half of its answers with probability 1).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.ridge_logistic import fit_ridge_logistic, log_odds

Floats = NDArray[np.float64]
_NEAREST = 1e-5
"""A probability counts as no nearer to 0 or 1: recorded log-probabilities are rounded to so much."""
_PENALTY = 2.0


@dataclass(frozen=True, slots=True)
class ConfidenceCurve:
    """Log-odds at ascending values of the raw signal, linear between, constant beyond. nan counts as the least sure."""

    values: Floats
    log_odds: Floats

    def __call__(self, raw: Floats) -> Floats:
        """Log-odds, of the shape of `raw`."""
        if len(self.values) == 0:
            return np.zeros(np.shape(raw))
        found: Floats = np.interp(np.where(np.isnan(raw), -np.inf, raw), self.values, self.log_odds)
        return found


def fit_confidence(raw: Floats, ok: Floats) -> ConfidenceCurve:
    """The curve of raw signals [n] and qualities [n] in [0, 1]. Without any known signal it is 0 everywhere."""
    known = np.isfinite(raw)
    if not known.any():
        return ConfidenceCurve(np.empty(0), np.empty(0))
    filled = np.where(np.isnan(raw), raw[known].min(), np.clip(raw, raw[known].min(), raw[known].max()))
    values = np.unique(filled)
    ranked = np.sort(filled)
    columns = (_own_log_odds, lambda x: _rank(x, ranked))
    curves = [fit_ridge_logistic(of(filled)[:, None], ok, _PENALTY).log_odds(of(values)[:, None]) for of in columns]
    return ConfidenceCurve(values, np.mean(curves, axis=0))


def _own_log_odds(raw: Floats) -> Floats:
    """Of a log-probability (never above 0) or a probability; any other signal stays as it is."""
    if raw.max() <= 0.0:
        return log_odds(np.exp(raw), _NEAREST)
    if raw.min() >= 0.0 and raw.max() <= 1.0:
        return log_odds(raw, _NEAREST)
    return raw


def _rank(raw: Floats, ranked: Floats) -> Floats:
    """Share of `ranked` below, ties counted half."""
    below, up_to = np.searchsorted(ranked, raw, "left"), np.searchsorted(ranked, raw, "right")
    found: Floats = (below + up_to) / (2.0 * len(ranked))
    return found
