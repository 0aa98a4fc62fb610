"""The prior of a prompt: a ridge regression on its sentence vector, left out where it does not help."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.learning.ridge import fit_ridge

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PromptHead:
    """Expected mean quality over models = vector · weights + bias; no weights: the same for every prompt."""

    weights: Floats
    bias: float

    def prior(self, vectors: Floats | None, rows: int) -> Floats:
        """[rows], from vectors [rows, d]; the bias alone where there are no weights."""
        if len(self.weights) == 0:
            return np.full(rows, self.bias)
        if vectors is None:
            raise ValueError("these estimates read a prompt's sentence vector")
        found: Floats = vectors @ self.weights + self.bias
        return found


def fit_prompt_head(vectors: Floats | None, difficulty: Floats) -> tuple[PromptHead, Floats]:
    """The head, and its prediction of each row by a fit on the others [n].

    Without vectors, or where leave-one-out predictions err no less than the mean does, it is the mean.
    """
    mean = float(difficulty.mean())
    plain = PromptHead(np.empty(0), mean), np.full(len(difficulty), mean)
    if vectors is None:
        return plain
    ridge, left_out = fit_ridge(vectors, difficulty)
    mean_left_out = (difficulty.sum() - difficulty) / max(len(difficulty) - 1, 1)
    if ((left_out - difficulty) ** 2).mean() >= ((mean_left_out - difficulty) ** 2).mean():
        return plain
    return PromptHead(ridge.weights, ridge.bias), left_out
