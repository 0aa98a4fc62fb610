"""Expected tokens of one pool's answers: read ones by the length of the text, written ones from the features."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import DependencyError

Floats = NDArray[np.float64]

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

    The mean of what a logarithm predicts is mended by the mean of e^residual (smearing; Duan 1983). Raises
    DependencyError without scikit-learn.
    """
    try:
        from sklearn.linear_model import Ridge
    except ImportError:
        raise DependencyError('training a router needs scikit-learn: pip install "jethro[train]"') from None
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
    if start < 0:
        return 0.0, float(x @ y) / max(float(x @ x), 1e-12)
    return start, slope
