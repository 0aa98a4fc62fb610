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

FINISH = (1.0, 1.0, 0.0, 0.0, 0.0)
"""Factors on the difficulties in the finish of a weak model: it is to be good at the easy half."""

FINISH_FROM = 0.6
"""Share of the budget after which a weak model's finish begins."""

MASTERY = (0.88, 0.96)
"""Accuracies at which, with mastery, the next difficulty begins to open and is open in full."""


@dataclass(slots=True)
class Progress:
    """Counters of one run; `accuracy[c]` is the running share of cell c's fresh examples right."""

    rounds: int = 0
    tokens: int = 0
    seconds: float = 0.0
    accuracy: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(CELLS)))

    def observe(self, cells: NDArray[np.int64], right: NDArray[np.bool_]) -> None:
        """Take in whether each example of a batch was answered exactly."""
        for cell, ok in zip(cells, right, strict=True):
            self.accuracy[cell] = SMOOTHING * self.accuracy[cell] + (1 - SMOOTHING) * float(ok)

    def finish_weights(self, floor: float) -> list[float]:
        """Share of each cell in the finish of a weak model: easy difficulties, by running error."""
        levels = self.accuracy.reshape(-1, len(LEVELS))
        return [float(weight) for weight in ((floor + 1 - levels) * np.array(FINISH)).ravel()]

    def cell_weights(self, floor: float, mastery: bool = False) -> list[float]:
        """Share of each cell in the next round: its running error, never below the floor.

        A difficulty whose easier neighbour is not yet learned is held back, so that the time goes
        to what can be learned now (a curriculum in the sense of Bengio et al. 2009). With `mastery`
        the third difficulty and those above it open only once the one before is all but perfect, so
        that a model of little capacity is good at something rather than half good at all.
        """
        levels = self.accuracy.reshape(-1, len(LEVELS))
        gates = np.ones_like(levels)
        if mastery:
            gates[:, 2:] = np.clip((levels[:, 1:-1] - MASTERY[0]) / (MASTERY[1] - MASTERY[0]), 0.03, 1.0)
        else:
            gates[:, 1:] = np.clip(levels[:, :-1] / OPENS_AT, HELD_BACK, 1.0)
        return [float(weight) for weight in (floor + gates * (1 - levels)).ravel()]


def learning_rate_scale(done: float) -> float:
    """Factor on the peak rate at a share of the budget: linear rise, then linear fall to zero."""
    if done < WARM_UP:
        return max(done / WARM_UP, 0.02)
    return max(0.0, (1 - done) / (1 - WARM_UP))
