"""Calibrators: raw signals to probabilities of being correct, fitted on recorded answers, served without scikit-learn.

Logistic: Platt 1999, with his smoothed targets. Isotonic: Zadrozny & Elkan 2002. Blended: the `ConfidenceCurve` of
cascade routing, the mean of two logistic regressions, one on the signal's own log-odds and one on its rank among the
answers it was fitted on. The first knows how sure the model says it is; the second works with any scale and with ties
at the top (a model that writes half of its answers with probability 1). By cross-validation the best of the three for a
single raw signal.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import exp, isfinite, isnan
from typing import ClassVar, Final

import numpy as np

from serve_app.arrays import Floats, sigmoid
from serve_app.cascade.base import Calibrator
from serve_app.errors import ConfigError, InsufficientData, needs_extra
from serve_app.learning.logistic import fit_ridge_logistic, fit_soft, log_odds

FEWEST: Final = 20
"""Answers required for a calibration."""
_KNOTS: Final = 200
"""A blended curve is kept at so many quantiles of the signal."""
_TILT: Final = 1e-3
"""How much all steps together rise beyond isotonic regression."""
_PLATT_STRENGTH = 1e4
"""Inverse L2 penalty of Platt scaling: next to none, as its targets already keep it from certainty."""
_NEAREST = 1e-5
"""A probability counts as no nearer to 0 or 1: recorded log-probabilities are rounded to so much."""
_PENALTY = 2.0


@dataclass(frozen=True, slots=True)
class LogisticCalibrator:
    """1 / (1 + exp(-(slope * value + bias))), slope at least 0."""

    slope: float
    bias: float
    kind: ClassVar[str] = "logistic"

    def __post_init__(self) -> None:
        if not (isfinite(self.slope) and isfinite(self.bias) and self.slope >= 0):
            raise ValueError(f"slope {self.slope} must be at least 0 and bias {self.bias} finite")

    def probability(self, value: float) -> float:
        """In [0, 1], rising with the value; 0 for nan."""
        if isnan(value):
            return 0.0
        x = self.slope * value + self.bias if self.slope else self.bias
        if x >= 0:
            return 1.0 / (1.0 + exp(-x))
        e = exp(max(x, -700.0))
        return e / (1.0 + e)


@dataclass(frozen=True, slots=True)
class IsotonicCalibrator:
    """Linear between knots, constant beyond; `values` rise, `probabilities` do not fall, and there is one for each."""

    values: tuple[float, ...]
    probabilities: tuple[float, ...]
    kind: ClassVar[str] = "isotonic"

    def __post_init__(self) -> None:
        x, p = self.values, self.probabilities
        if not x or len(x) != len(p) or not all(map(isfinite, (*x, *p))):
            raise ValueError("values and probabilities must be finite, as many of either, and at least one")
        falls = any(a > b for a, b in pairwise(p)) or p[0] < 0.0 or p[-1] > 1.0
        if falls or any(a >= b for a, b in pairwise(x)):
            raise ValueError("values must rise, and probabilities must not fall and must be in [0, 1]")

    def probability(self, value: float) -> float:
        """In [0, 1], never falling with the value; 0 for nan."""
        x, p = self.values, self.probabilities
        if isnan(value):
            return 0.0
        at = bisect_right(x, value)
        if at in (0, len(x)):
            return p[min(at, len(x) - 1)]
        share = (value - x[at - 1]) / (x[at] - x[at - 1])
        return min(p[at - 1] + share * (p[at] - p[at - 1]), p[at])


@dataclass(frozen=True, slots=True)
class BinnedAcceptance:
    """Accepts by bins of the raw signal: `takes[b]` for values in bin b.

    `edges`, rising, separate the bins; a value on an edge is in the bin above. For what one threshold cannot say, as
    AutoMix's double threshold and POMDP; a level with threshold 0.5 serves it like any calibrator.
    """

    edges: tuple[float, ...]
    takes: tuple[bool, ...]
    kind: ClassVar[str] = "decided"

    def __post_init__(self) -> None:
        rises = all(a < b for a, b in pairwise(self.edges)) and all(map(isfinite, self.edges))
        if not rises or len(self.takes) != len(self.edges) + 1:
            raise ValueError("edges must be finite and rise, and takes have one more")

    def probability(self, value: float) -> float:
        """1 where the answer is taken, otherwise 0; 0 for nan. Not monotone, and no probability of being correct."""
        return 0.0 if isnan(value) else float(self.takes[bisect_right(self.edges, value)])


@dataclass(frozen=True, slots=True)
class ConfidenceCurve:
    """Log-odds at ascending values of a raw signal, linear between, constant beyond; nan counts as the least sure."""

    values: Floats
    log_odds: Floats

    def __call__(self, raw: Floats) -> Floats:
        """Log-odds, of the shape of `raw`."""
        if len(self.values) == 0:
            return np.zeros(np.shape(raw))
        found: Floats = np.interp(np.where(np.isnan(raw), -np.inf, raw), self.values, self.log_odds)
        return found


def fit_curve(raw: Floats, ok: Floats) -> ConfidenceCurve:
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


def fit_logistic(values: Floats, ok: Floats) -> LogisticCalibrator:
    """Platt scaling on raw values [n] and qualities [n] in [0, 1], rows of nan left out.

    Platt's targets keep it from certainty: of k right ones (k + 1) / (k + 2) instead of 1. A signal that points the
    wrong way gets slope 0. Raises InsufficientData, or DependencyError without scikit-learn.
    """
    x, y = _known(values, ok)
    right, wrong = float(y.sum()), float(len(y) - y.sum())
    target = y * (right + 1) / (right + 2) + (1 - y) / (wrong + 2)
    mean, scale = float(x.mean()), float(x.std())
    if scale >= 1e-12:
        weights, bias = fit_soft(((x - mean) / scale)[:, None], target, _PLATT_STRENGTH)
        slope = float(weights[0]) / scale
        if slope > 0:
            return LogisticCalibrator(slope, bias - slope * mean)
    base = float(target.mean())
    return LogisticCalibrator(0.0, float(np.log(base / (1 - base))))


def fit_isotonic(values: Floats, ok: Floats) -> IsotonicCalibrator:
    """Isotonic regression on raw values [n] and qualities [n] in [0, 1], rows of nan left out.

    Its steps are tilted a little, so that a threshold can still separate the values on one step. Raises
    InsufficientData, or DependencyError without scikit-learn.
    """
    x, y = _known(values, ok)
    with needs_extra("fitting a cascade needs scikit-learn", "train"):
        from sklearn.isotonic import IsotonicRegression
    model = IsotonicRegression(y_min=0.0, y_max=1.0).fit(x, y)
    knots, heights = model.X_thresholds_, np.maximum.accumulate(np.clip(model.y_thresholds_, 0.0, 1.0))
    kept = np.append(np.diff(knots) > 0, True)
    knots, heights = knots[kept], heights[kept]
    heights = (1 - _TILT) * heights + _TILT * np.linspace(0.0, 1.0, len(knots))
    return IsotonicCalibrator(tuple(knots.tolist()), tuple(np.minimum.accumulate(heights[::-1])[::-1].tolist()))


def fit_blended(values: Floats, ok: Floats) -> IsotonicCalibrator:
    """The mean of two logistic regressions, on the signal's own log-odds and on its rank, rows of nan left out.

    A signal that points the wrong way gets the constant mean.
    Raises InsufficientData.
    """
    x, y = _known(values, ok)
    curve = fit_curve(x, y)
    knots = np.unique(np.quantile(curve.values, np.linspace(0.0, 1.0, _KNOTS), method="nearest"))
    heights = sigmoid(curve(knots))
    if heights[-1] <= heights[0]:
        return IsotonicCalibrator((float(x.mean()),), (float(y.mean()),))
    return IsotonicCalibrator(tuple(knots.tolist()), tuple(np.maximum.accumulate(heights).tolist()))


FITS: Final[Mapping[str, Callable[[Floats, Floats], Calibrator]]] = {
    "logistic": fit_logistic,
    "isotonic": fit_isotonic,
    "blended": fit_blended,
}


def fit_calibrator(kind: str, values: Floats, ok: Floats) -> Calibrator:
    """A calibrator of that kind. Raises ConfigError for an unknown one, InsufficientData for too few answers."""
    if kind not in FITS:
        raise ConfigError(f"calibrator {kind!r} is not known: give {' or '.join(FITS)}")
    return FITS[kind](values, ok)


def _known(values: Floats, ok: Floats) -> tuple[Floats, Floats]:
    """Rows whose signal is known; infinite ones at the most extreme finite value."""
    if len(values) != len(ok) or (ok.size and (ok.min() < 0 or ok.max() > 1)):
        raise ValueError("one quality in [0, 1] for each value")
    finite = values[np.isfinite(values)]
    known = ~np.isnan(values)
    if len(finite) < FEWEST:
        raise InsufficientData(
            f"a calibration needs at least {FEWEST} answers with a known signal, there are {len(finite)}: collect more"
        )
    return np.clip(values[known], finite.min(), finite.max()), ok[known]
