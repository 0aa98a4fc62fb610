"""How far a training run is, how good it is on each cell, and what that means for the next round."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve_app.lab.tasks import CELLS, LEVELS

SMOOTHING = 0.98
"""Weight of the past in the running accuracy of a cell, per example seen."""

WARM_UP = 0.02
"""Share of the budget in which the learning rate rises to its peak."""

OPENS_AT = 0.7
HELD_BACK = 0.1
"""Accuracy of a difficulty at which the next one is drawn in full, and the least factor before."""


@dataclass(slots=True)
class TrainingProgress:
    """Counters of one run; `accuracy[c]` is the running share of cell c's fresh examples right."""

    rounds: int = 0
    tokens: int = 0
    seconds: float = 0.0
    accuracy: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(CELLS)))

    def observe(self, cells: NDArray[np.int64], right: NDArray[np.bool_]) -> None:
        """Take in whether each example of a batch was answered exactly."""
        for cell, ok in zip(cells, right, strict=True):
            self.accuracy[cell] = SMOOTHING * self.accuracy[cell] + (1 - SMOOTHING) * float(ok)

    def cell_weights(self, floor: float, hardest: int = LEVELS[-1]) -> list[float]:
        """Share of each cell in the next round: its running error, never below the floor.

        A difficulty whose easier neighbour is not yet learned is held back, so that the time goes
        to what can be learned now (a curriculum in the sense of Bengio et al. 2009). Difficulties
        above `hardest` are never drawn.
        """
        levels = self.accuracy.reshape(-1, len(LEVELS))
        gates = np.ones_like(levels)
        gates[:, 1:] = np.clip(levels[:, :-1] / OPENS_AT, HELD_BACK, 1.0)
        weights = floor + gates * (1 - levels)
        weights[:, hardest:] = 0.0
        return [float(weight) for weight in weights.ravel()]


def learning_rate_scale(done: float) -> float:
    """Factor on the peak rate at a share of the budget: linear rise, then linear fall to zero."""
    if done < WARM_UP:
        return max(done / WARM_UP, 0.02)
    return max(0.0, (1 - done) / (1 - WARM_UP))
