"""Raw signals to probabilities of being right: isotonic, logistic (Platt), blended. Served without scikit-learn.

Platt 1999 (with his smoothed targets); Zadrozny & Elkan 2002 for isotonic regression; blended is the curve of cascade
routing (`routing/confidence`), the best of the three by cross-validation where one raw signal is all there is.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import exp, isfinite, isnan
from typing import Any, ClassVar, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.confidence import fit_confidence
from serve_app.cascade.routing.ridge_logistic import sigmoid
from serve_app.errors import ConfigError, DependencyError, InsufficientData

Floats = NDArray[np.float64]
FEWEST: Final = 20
"""Answers that a calibration takes at least."""
_KNOTS: Final = 200
"""A blended curve is kept at so many quantiles of the signal."""
_TILT: Final = 1e-3
"""How much all steps together rise beyond what isotonic regression says."""


class Fitted(Protocol):
    """A calibrator that can be saved; `kind` names it."""

    kind: ClassVar[str]

    def probability(self, value: float) -> float:
        """In [0, 1]; 0 for nan."""

    def spec(self) -> dict[str, Any]:
        """JSON-ready."""


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

    def spec(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"kind": self.kind, "slope": self.slope, "bias": self.bias}

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """From its spec. Raises KeyError, TypeError or ValueError."""
        return cls(float(spec["slope"]), float(spec["bias"]))


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
            raise ValueError("values must rise, and probabilities must not fall and lie in [0, 1]")

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

    def spec(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"kind": self.kind, "values": list(self.values), "probabilities": list(self.probabilities)}

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """From its spec. Raises KeyError, TypeError or ValueError."""
        return cls(tuple(map(float, spec["values"])), tuple(map(float, spec["probabilities"])))


def fit_logistic(values: Floats, ok: Floats) -> LogisticCalibrator:
    """Platt scaling on raw values [n] and qualities [n] in [0, 1], rows of nan left out.

    Platt's targets keep it from certainty: of k right ones (k + 1) / (k + 2) instead of 1. A signal that turns out to
    point the wrong way gets slope 0: it says nothing. Raises InsufficientData, or DependencyError without scikit-learn.
    """
    x, y = _known(values, ok)
    right, wrong = float(y.sum()), float(len(y) - y.sum())
    target = y * (right + 1) / (right + 2) + (1 - y) / (wrong + 2)
    mean, scale = float(x.mean()), float(x.std())
    base = float(target.mean())
    if scale < 1e-12:
        return LogisticCalibrator(0.0, float(np.log(base / (1 - base))))
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise DependencyError('fitting a cascade needs scikit-learn: pip install "jethro[train]"') from None
    column = np.concatenate([x, x])[:, None]
    labels = np.concatenate([np.ones(len(x)), np.zeros(len(x))])
    model = LogisticRegression(C=1e4, max_iter=1_000)
    model.fit((column - mean) / scale, labels, sample_weight=np.concatenate([target, 1 - target]))
    slope = float(model.coef_[0, 0]) / scale
    if slope <= 0:
        return LogisticCalibrator(0.0, float(np.log(base / (1 - base))))
    return LogisticCalibrator(slope, float(model.intercept_[0]) - slope * mean)


def fit_isotonic(values: Floats, ok: Floats) -> IsotonicCalibrator:
    """Isotonic regression on raw values [n] and qualities [n] in [0, 1], rows of nan left out.

    Its steps are tilted a little, so that a threshold can still tell apart what lies on one step. Raises
    InsufficientData, or DependencyError without scikit-learn.
    """
    x, y = _known(values, ok)
    try:
        from sklearn.isotonic import IsotonicRegression
    except ImportError:
        raise DependencyError('fitting a cascade needs scikit-learn: pip install "jethro[train]"') from None
    model = IsotonicRegression(y_min=0.0, y_max=1.0).fit(x, y)
    knots, heights = model.X_thresholds_, np.maximum.accumulate(np.clip(model.y_thresholds_, 0.0, 1.0))
    kept = np.append(np.diff(knots) > 0, True)
    knots, heights = knots[kept], heights[kept]
    heights = (1 - _TILT) * heights + _TILT * np.linspace(0.0, 1.0, len(knots))
    return IsotonicCalibrator(tuple(knots.tolist()), tuple(np.minimum.accumulate(heights[::-1])[::-1].tolist()))


def fit_blended(values: Floats, ok: Floats) -> IsotonicCalibrator:
    """The mean of two logistic regressions, on the signal's own log-odds and on its rank, rows of nan left out.

    Bears any scale, and a signal that half of the answers have at its top. One that points the wrong way says nothing.
    Raises InsufficientData.
    """
    x, y = _known(values, ok)
    curve = fit_confidence(x, y)
    knots = np.unique(np.quantile(curve.values, np.linspace(0.0, 1.0, _KNOTS), method="nearest"))
    heights = sigmoid(curve(knots))
    if heights[-1] <= heights[0]:
        return IsotonicCalibrator((float(x.mean()),), (float(y.mean()),))
    return IsotonicCalibrator(tuple(knots.tolist()), tuple(np.maximum.accumulate(heights).tolist()))


FITS: Final[Mapping[str, Callable[[Floats, Floats], Fitted]]] = {
    "logistic": fit_logistic,
    "isotonic": fit_isotonic,
    "blended": fit_blended,
}


def fit_calibrator(kind: str, values: Floats, ok: Floats) -> Fitted:
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
            f"a calibration takes at least {FEWEST} answers with a known signal, there are {len(finite)}: collect more"
        )
    return np.clip(values[known], finite.min(), finite.max()), ok[known]
