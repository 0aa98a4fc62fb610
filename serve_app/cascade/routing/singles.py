"""What needs no estimate: each model alone, and mixtures of two of them. A policy that does worse is not worth it."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.mixing import Mixture
from serve_app.cascade.routing.walk import always
from serve_app.errors import ConfigError

Floats = NDArray[np.float64]
GUARD = 0.5
"""Policies fitted on one half of train rows and held against single models on the other: with less more of them fall
below, with more good ones are lost."""


@dataclass(frozen=True, slots=True)
class SingleMix:
    """The best of single models and mixtures of two at a mean cost of `budget_usd`: `cheap`, or `dear` with `share`."""

    cheap: int
    dear: int
    share: float
    quality: float
    cost_usd: float

    def mixture(self) -> Mixture:
        """As a policy that asks for nobody's estimate."""
        return Mixture(always(self.cheap), always(self.dear), self.share)


def best_model(ok: Floats, cost_usd: Floats, at_most_usd: float) -> int | None:
    """The best model of at most this mean cost, from qualities and costs [n, K]; None if there is none."""
    inside = np.flatnonzero(cost_usd.mean(0) <= at_most_usd * (1 + 1e-9))
    return int(inside[ok[:, inside].mean(0).argmax()]) if len(inside) else None


def best_single(ok: Floats, cost_usd: Floats, at_most_usd: float) -> float:
    """Its quality; 0 if there is none."""
    best = best_model(ok, cost_usd, at_most_usd)
    return 0.0 if best is None else float(ok[:, best].mean())


def pays(quality: Floats, ok: Floats, cost_usd: Floats, spent_usd: float) -> bool:
    """Whether qualities [n] at a mean cost of `spent_usd` are worth more than the best model of at most that cost.

    The gain must be at least `GUARD` of its standard error: figures that a policy was chosen by flatter it.
    """
    best = best_model(ok, cost_usd, spent_usd)
    if best is None:
        return True
    gain = quality - ok[:, best]
    return float(gain.mean()) >= GUARD * float(gain.std()) / sqrt(len(gain))


def best_single_mix(ok: Floats, cost_usd: Floats, budget_usd: float) -> SingleMix:
    """From qualities and costs [n, K]: the point of the upper hull at the budget, or its top where that costs less.

    Raises ConfigError for a budget below the cheapest model.
    """
    quality, cost = ok.mean(0), cost_usd.mean(0)
    inside = np.flatnonzero(cost <= budget_usd * (1 + 1e-9))
    if len(inside) == 0:
        raise ConfigError(
            f"a budget of {budget_usd:.3g} USD a query cannot be kept: the cheapest model costs {cost.min():.3g}; "
            "raise it"
        )
    best = max(inside.tolist(), key=lambda m: (quality[m], -cost[m]))
    found = SingleMix(best, best, 0.0, float(quality[best]), float(cost[best]))
    for cheap in inside.tolist():
        for dear in np.flatnonzero(cost > budget_usd * (1 + 1e-9)).tolist():
            share = float((budget_usd - cost[cheap]) / (cost[dear] - cost[cheap]))
            mixed = float((1 - share) * quality[cheap] + share * quality[dear])
            if mixed > found.quality:
                found = SingleMix(cheap, dear, share, mixed, budget_usd)
    return found
