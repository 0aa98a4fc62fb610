"""Several estimates of one thing, weighed by what each adds on queries that it was not fitted on.

Stacked regression with weights that are not negative (Wolpert 1992; Breiman 1996), with a Gaussian prior around
weights given beforehand: few or noisy outcomes move them little. Then a logistic curve from the weighed sum to a
probability (Platt 1999), which keeps the order of the sums: it calibrates, it does not rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import DependencyError

Floats = NDArray[np.float64]

_PRIOR_SD = 0.25
"""Standard deviation of the prior of a weight."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Log-odds of a strong win = slope * sum of weight * estimate, plus bias; weights by expert."""

    weights: Mapping[str, float]
    slope: float
    bias: float

    @classmethod
    def fit(cls, estimates: Mapping[str, Floats], prior: Mapping[str, float], target: Floats, wins: Floats) -> Self:
        """From estimates out of fold by expert, the target that they estimate, and strong win rates; all [n].

        `prior` are the weights where the data say nothing. Raises DependencyError without scikit-learn.
        """
        columns = np.stack([estimates[name] for name in prior], axis=1)
        weights = _weights(columns - columns.mean(0), target - target.mean(), np.array(list(prior.values())))
        slope, bias = _calibrated(columns @ weights, wins)
        return cls(dict(zip(prior, weights.tolist(), strict=True)), slope, bias)

    def log_odds(self, estimates: Mapping[str, float]) -> float:
        """Of one query, from each expert's estimate."""
        return self.bias + self.slope * sum(w * estimates[name] for name, w in self.weights.items())


def _weights(columns: Floats, target: Floats, prior: Floats) -> Floats:
    """The most likely weights that are not negative: least squares, the prior as further rows of the problem."""
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    noise = max(float((target - columns @ prior).std()), 1e-9)
    pull = np.eye(len(prior)) * noise / _PRIOR_SD
    found, _ = nnls(np.concatenate([columns, pull]), np.concatenate([target, pull @ prior]))
    weights: Floats = found
    return weights


def _calibrated(sums: Floats, wins: Floats) -> tuple[float, float]:
    """Slope and bias of the log-odds of winning. The slope is not negative; 0 where nothing can be told apart."""
    prior = (float(wins.sum()) + 0.5) / (len(wins) + 1)
    flat = (0.0, log(prior / (1 - prior)))
    mean, deviation = float(sums.mean()), float(sums.std())
    if deviation < 1e-9 or (wins.min() == wins.max() and wins.min() in (0.0, 1.0)):
        return flat
    slope, bias = _logistic(((sums - mean) / deviation)[:, None], wins)
    return (slope / deviation, bias - slope * mean / deviation) if slope > 0 else flat


def _logistic(column: Floats, wins: Floats) -> tuple[float, float]:
    """Logistic regression on labels in [0, 1]: a label between stands for either class, weighted."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise DependencyError('training a router needs scikit-learn: pip install "jethro[train]"') from None
    some, none = wins > 0, wins < 1
    model = LogisticRegression(C=10.0).fit(
        np.concatenate([column[some], column[none]]),
        np.concatenate([np.ones(some.sum()), np.zeros(none.sum())]),
        sample_weight=np.concatenate([wins[some], 1 - wins[none]]),
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0])
