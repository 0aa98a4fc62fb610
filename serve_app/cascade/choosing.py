"""Chains by their held-out figures: the best of several, and when a difference is more than luck."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.recorded import Recorded
from serve_app.routing.target import QUALITY_DROP, Target

Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a chain does to queries it was not fitted on; arrays of shape [n]."""

    models: tuple[str, ...]
    level: NDArray[np.int64]
    quality: Floats
    cost_usd: Floats

    @property
    def strong_share(self) -> float:
        """Share of queries that ask the last model."""
        return float((self.level == len(self.models) - 1).mean())


def surely_above(gain: Floats) -> bool:
    """Whether the mean of paired differences [n] exceeds 0 by more than its standard error."""
    return float(gain.mean()) > float(gain.std()) / sqrt(len(gain))


def first_unless_sure(found: Sequence[tuple[HeldOut, T]], target: Target, recorded: Recorded) -> tuple[HeldOut, T]:
    """Of one chain by several judges the first, unless another is better by more than one standard error.

    The best of several held-out figures is partly the luckiest (the one-standard-error rule of Breiman et al. 1984).
    """
    first, *others = _good(found, target, recorded) if target.name == QUALITY_DROP else found
    for other in others:
        gain = other[0].quality - first[0].quality
        if target.name == QUALITY_DROP:
            gain = first[0].cost_usd - other[0].cost_usd
        if surely_above(gain):
            first = other
    return first


def best_of(found: Sequence[tuple[HeldOut, T]], target: Target, recorded: Recorded) -> tuple[HeldOut, T]:
    """Of several chains: the best quality, then the least cost; for a quality drop the least cost of those within it.

    Held-out figures scatter about that target, and each chain has its own last model: what counts is the best model's
    quality.
    """
    if target.name == QUALITY_DROP:
        return min(_good(found, target, recorded), key=lambda f: f[0].cost_usd.mean())
    return max(found, key=lambda f: (round(float(f[0].quality.mean()), 10), -float(f[0].cost_usd.mean())))


def _good(found: Sequence[tuple[HeldOut, T]], target: Target, recorded: Recorded) -> list[tuple[HeldOut, T]]:
    """Those within a quality drop of the best model, or else the best."""
    least = (1 - target.value) * float(recorded.ok.mean(0).max())
    inside = [f for f in found if f[0].quality.mean() >= least]
    return inside or [max(found, key=lambda f: f[0].quality.mean())]
