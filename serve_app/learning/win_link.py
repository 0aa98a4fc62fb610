"""From two heads to one score: P(strong better than weak), calibrated on predictions out of fold."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.learning.quality_head import fit_weights, sigmoid

Floats = NDArray[np.float64]

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
        weights, bias = fit_weights(inputs, wins, _STRENGTH)
        return cls(float(weights[0]), float(weights[1]), float(weights[2]), bias)

    def log_odds(self, weak: float, strong: float) -> float:
        """Log-odds of a strong win from both heads' log-odds."""
        gap = float(sigmoid(strong) - sigmoid(weak))
        return self.bias + self.weak * weak + self.strong * strong + self.gap * gap

    def slopes(self, start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
        """Mean derivatives by the weak and the strong head's log-odds on the straight way from start to end.

        They share out the difference in log-odds among what moved the heads, whole: integrated gradients
        (Sundararajan et al. 2017, section 3).
        """
        t = (np.arange(_STEPS) + 0.5) / _STEPS
        at = [sigmoid(a + t * (b - a)) for a, b in zip(start, end, strict=True)]
        weak = self.weak - self.gap * float((at[0] * (1 - at[0])).mean())
        strong = self.strong + self.gap * float((at[1] * (1 - at[1])).mean())
        return weak, strong
