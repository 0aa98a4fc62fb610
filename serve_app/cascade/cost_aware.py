"""Doubt about an answer per dollar that the next model would cost: long queries are passed on more reluctantly.

Under a mean budget the best queries to pass on are those with the most to gain per dollar, not those with the most to
gain: the threshold is a price (Dekoninck et al. 2025, section 2: quality less lambda times cost; Dantzig's greedy
solution of the knapsack). What the next model would cost is told from the length of the query, before it is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.base import Calibrator, Judged, Needs, Signal
from serve_app.errors import ConfigError

Floats = NDArray[np.float64]
_LEAST: Final = 0.2
"""The cheapest query counts as this part of the mean: a few short ones do not decide all."""


@dataclass(frozen=True, slots=True)
class RelativeCost:
    """Cost of a query in units of the mean: `base` + `per_character` times its length, at least `_LEAST`."""

    base: float
    per_character: float

    def __post_init__(self) -> None:
        if not (isfinite(self.base) and isfinite(self.per_character) and self.per_character >= 0):
            raise ConfigError("cost_aware: base must be finite and per_character finite and at least 0")

    def of(self, characters: int) -> float:
        """Of a query of so many characters."""
        return max(self.base + self.per_character * characters, _LEAST)


@dataclass(frozen=True, slots=True)
class CostAware:
    """Minus the probability of being wrong, by `signal` and `calibrator`, per relative cost of asking further."""

    signal: Signal
    calibrator: Calibrator
    cost: RelativeCost
    name: ClassVar[str] = "cost_aware"

    @property
    def needs(self) -> Needs:
        """What its signal needs."""
        return self.signal.needs

    def value(self, judged: Judged) -> float:
        """At most 0; nan where the signal cannot be told."""
        return self.of_value(self.signal.value(judged), len(judged.query.text))

    def of_value(self, value: float, characters: int) -> float:
        """The same from the signal's value and the query's length."""
        if isnan(value):
            return nan
        return (self.calibrator.probability(value) - 1.0) / self.cost.of(characters)


def fit_relative_cost(prompts: Sequence[str], cost_usd: Floats) -> RelativeCost:
    """By least squares on the length of the prompts; flat where longer queries do not cost more."""
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.float64)
    mean = float(cost_usd.mean())
    if mean <= 0 or lengths.std() < 1e-9:
        return RelativeCost(1.0, 0.0)
    slope = float(np.cov(lengths, cost_usd / mean, ddof=0)[0, 1] / lengths.var())
    return RelativeCost(1.0 - slope * float(lengths.mean()), slope) if slope > 0 else RelativeCost(1.0, 0.0)


def cost_aware_spec(signal: CostAware, inner: dict[str, Any], calibrator: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "name": signal.name,
        "signal": inner,
        "calibrator": dict(calibrator),
        "base": signal.cost.base,
        "per_character": signal.cost.per_character,
    }
