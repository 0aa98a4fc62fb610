"""Heads over query features: one pool's mean quality, its expected tokens, and the win rate from two quality heads.

Quality is fractional logistic regression (Papke & Wooldridge 1996) with a Gaussian prior on the weights. Its standard
error is Laplace's: the posterior is a Gaussian around its mode, with the inverse Hessian as covariance (MacKay 1992).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.errors import needs_extra
from serve_app.learning.logistic import fit_soft, log_loss

_STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Inverse penalties that are tried, as scikit-learn's C; log loss out of fold chooses."""
_BINS = 20
"""Groups of like predictions in which the standard error is checked against what was observed."""
_FAR = 30.0
"""Log-odds beyond which a probability is 0 or 1 in all digits."""


@dataclass(frozen=True, slots=True)
class QualityHead:
    """Quality = low + (high - low) * sigmoid(x · weights + bias). `covariance` [d + 1, d + 1] is of both, bias last."""

    weights: Floats
    bias: float
    covariance: Floats
    low: float = 0.0
    high: float = 1.0

    def log_odds(self, x: Floats) -> float:
        """The linear predictor of one query, x of shape [d]."""
        return float(np.clip(x @ self.weights + self.bias, -_FAR, _FAR))

    def mean_std(self, x: Floats) -> tuple[float, float]:
        """Mean quality of answers to one query and the standard error of that mean, in the metric's unit.

        The error is that of the estimate (epistemic): single answers vary more. By the delta method.
        """
        p = float(sigmoid(self.log_odds(x)))
        one = np.append(x, 1.0)
        variance = float(one @ self.covariance @ one)
        width = self.high - self.low
        return self.low + width * p, width * p * (1 - p) * max(variance, 0.0) ** 0.5


def fit_head(
    matrix: Floats, quality: Floats, folds: NDArray[np.int64], limits: tuple[float, float] = (0.0, 1.0)
) -> tuple[QualityHead, Floats]:
    """The head of a matrix [n, d] and mean qualities [n] in `limits`, and log-odds of each query out of fold [n].

    The standard errors are widened until they cover what was observed out of fold (see `_widening`).
    Raises DependencyError without scikit-learn.
    """
    low, high = limits
    share = (quality - low) / (high - low)
    tried = [_out_of_fold(matrix, share, folds, strength) for strength in _STRENGTHS]
    best = int(np.argmin([log_loss(found, share) for found in tried]))
    strength, out_of_fold = _STRENGTHS[best], tried[best]
    weights, bias = fit_soft(matrix, share, strength)
    ones = np.concatenate([matrix, np.ones((len(matrix), 1))], axis=1)
    p = sigmoid(matrix @ weights + bias)
    penalty = np.append(np.full(matrix.shape[1], 1.0 / strength), 1e-6)  # the bias is not penalised
    covariance = np.linalg.inv((ones * (p * (1 - p))[:, None]).T @ ones + np.diag(penalty))  # the inverse Hessian
    covariance *= _widening(ones, covariance, out_of_fold, share)
    # single precision halves the file; rounded here, a loaded head gives the same
    rounded = covariance.astype(np.float32).astype(np.float64)
    return QualityHead(weights, bias, rounded, low, high), out_of_fold


def _widening(ones: Floats, covariance: Floats, log_odds: Floats, share: Floats) -> float:
    """Factor, at least 1, for variances to agree with the errors of the mean seen in groups of like predictions.

    Laplace's error ignores the misfit of a linear model. By moments: the squared error of a group's mean, less what
    sampling explains, is compared with the variance that the head states.
    """
    p = sigmoid(log_odds)
    stated = ((ones @ covariance) * ones).sum(1) * (p * (1 - p)) ** 2
    seen = expected = 0.0
    for part in np.array_split(np.argsort(log_odds, kind="stable"), min(_BINS, len(share))):
        error = float(share[part].mean() - p[part].mean())
        sampling = max(float(share[part].var()), float((p[part] * (1 - p[part])).mean()) * 0.1) / len(part)
        seen += error**2 - sampling
        expected += float(np.sqrt(stated[part]).mean()) ** 2
    return max(1.0, seen / expected) if expected > 0 else 1.0


def _out_of_fold(matrix: Floats, share: Floats, folds: NDArray[np.int64], strength: float) -> Floats:
    """Log-odds of each query by a fit on the folds that it is not in, [n]."""
    found = np.empty(len(share))
    for fold in np.unique(folds):
        inside = folds == fold
        weights, bias = fit_soft(matrix[~inside], share[~inside], strength)
        found[inside] = np.clip(matrix[inside] @ weights + bias, -_FAR, _FAR)
    return found


_PENALTY = 30.0
"""Ridge penalty on log tokens; features have unit scale."""


@dataclass(frozen=True, slots=True)
class TokenHead:
    """Prompt tokens = per_query + per_character * characters; completion tokens = smear * e^(x · weights + bias) - 1.

    `most` is the longest answer seen: no estimate exceeds it.
    """

    per_query: float
    per_character: float
    weights: Floats
    bias: float
    smear: float
    most: float

    def prompt_tokens(self, characters: int) -> float:
        """Expected tokens of a conversation of so many characters."""
        return self.per_query + self.per_character * characters

    def completion_tokens(self, x: Floats) -> float:
        """Expected tokens of an answer to a query with features x of shape [d]."""
        expected = self.smear * np.exp(min(float(x @ self.weights) + self.bias, 30.0)) - 1.0
        return float(np.clip(expected, 0.0, self.most))


def fit_tokens(matrix: Floats, characters: Floats, prompt: Floats, completion: Floats) -> TokenHead:
    """From features [n, d], characters [n] and mean tokens [n].

    The retransformation bias of the logarithm is corrected by the mean of e^residual (smearing; Duan 1983). Raises
    DependencyError without scikit-learn.
    """
    with needs_extra("training a router needs scikit-learn", "train"):
        from sklearn.linear_model import Ridge
    per_query, per_character = _line(characters, prompt)
    logs = np.log1p(completion)
    model = Ridge(alpha=_PENALTY).fit(matrix, logs)
    smear = float(np.exp(logs - model.predict(matrix)).mean())
    weights = np.asarray(model.coef_, dtype=np.float64)
    return TokenHead(per_query, per_character, weights, float(model.intercept_), smear, float(completion.max()))


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """Least squares with neither term below zero: what a template adds, and tokens per character."""
    centred = x - x.mean()
    slope = max(0.0, float(centred @ (y - y.mean())) / max(float(centred @ centred), 1e-12))
    start = float(y.mean() - slope * x.mean())
    return (start, slope) if start >= 0 else (0.0, float(x @ y) / max(float(x @ x), 1e-12))


_STRENGTH = 10.0
"""Inverse penalty: there are three weights and all queries to learn them from."""
_STEPS = 64


@dataclass(frozen=True, slots=True)
class WinLink:
    """Logistic regression of the strong win rate on both heads' log-odds and the gap of their probabilities.

    The log-odds alone leave out that a gap counts where both models waver; the gap alone, that at one gap a strong
    win is likelier where the weak model fails more.
    """

    weak: float
    strong: float
    gap: float
    bias: float

    @classmethod
    def fit(cls, weak: Floats, strong: Floats, wins: Floats) -> "WinLink":
        """From log-odds of both heads on queries that they were not fitted on, and strong win rates; all [n]."""
        inputs = np.stack([weak, strong, sigmoid(strong) - sigmoid(weak)], axis=1)
        weights, bias = fit_soft(inputs, wins, _STRENGTH)
        return cls(float(weights[0]), float(weights[1]), float(weights[2]), bias)

    def log_odds(self, weak: float, strong: float) -> float:
        """Log-odds of a strong win from both heads' log-odds."""
        gap = float(sigmoid(strong) - sigmoid(weak))
        return self.bias + self.weak * weak + self.strong * strong + self.gap * gap

    def slopes(self, start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
        """Mean derivatives by the weak and the strong head's log-odds on the straight line from start to end.

        They divide the difference in log-odds completely among the heads' features: integrated gradients
        (Sundararajan et al. 2017, section 3).
        """
        t = (np.arange(_STEPS) + 0.5) / _STEPS
        at = [sigmoid(a + t * (b - a)) for a, b in zip(start, end, strict=True)]
        weak = self.weak - self.gap * float((at[0] * (1 - at[0])).mean())
        strong = self.strong + self.gap * float((at[1] * (1 - at[1])).mean())
        return weak, strong
