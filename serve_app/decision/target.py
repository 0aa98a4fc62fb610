"""Targets of a threshold, as an operator writes them: strong-share=0.4, cost=0.0002 or quality-drop=0.01."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Literal, Self

from serve_app.decision.risk import UNIT, Sample, confident_threshold, conformal_threshold
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.errors import ConfigError
from serve_app.numbers import plain

STRONG_SHARE, COST, QUALITY_DROP = "strong-share", "cost", "quality-drop"
_FORMS = "strong-share=0.4, cost=0.0002 (mean USD a query) or quality-drop=0.01"
Method = Literal["expectation", "ltt"]


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A guarantee beyond the calibration data: in expectation, or (ltt) with confidence 1 - `delta`; see `risk`.

    `quality_range` is that of the metric, None for an end that is not bounded.
    """

    method: Method
    delta: float = 0.1
    quality_range: Sequence[float | None] = UNIT

    def __str__(self) -> str:
        return "in expectation" if self.method == "expectation" else f"with confidence {1 - self.delta:g}"

    def threshold(self, calibration: Calibration, max_drop: float) -> float:
        """The threshold that meets the guarantee with the fewest strong calls.

        Raises InsufficientData where the data support none, ConfigError where the metric does not.
        """
        low, high = self.quality_range
        bounds = (-inf if low is None else low, inf if high is None else high)
        sample = Sample(calibration.scores, calibration.weak_quality, calibration.strong_quality, bounds)
        if self.method == "expectation":
            return conformal_threshold(sample, max_drop)
        return confident_threshold(sample, max_drop, self.delta)


@dataclass(frozen=True, slots=True)
class Target:
    """A target's name and value; `value` is a share in [0, 1], a relative drop in [0, 1], or a mean cost in USD."""

    name: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """The target written as NAME=VALUE. Raises ConfigError naming the forms."""
        name, equals, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        known = name in (STRONG_SHARE, COST, QUALITY_DROP)
        if not equals or not known or not isfinite(value) or value < 0 or (name != COST and value > 1):
            raise ConfigError(f"target {text!r}: write {_FORMS}")
        return cls(name, value)

    def __str__(self) -> str:
        return f"{self.name}={plain(self.value)}"

    def threshold(self, calibration: Calibration, guarantee: Guarantee | None = None) -> Threshold:
        """The threshold that reaches the target on the calibration data, or with a guarantee on similar traffic.

        Raises ConfigError where it is out of reach, or for a guarantee of anything but a quality drop.
        """
        if guarantee is not None:
            if self.name != QUALITY_DROP:
                raise ConfigError(f"a guarantee is for a quality drop, not for {self.name}: write quality-drop=0.01")
            value = guarantee.threshold(calibration, self.value)
            return Threshold.of_value(calibration, value, f"drop <= {self.value:g} {guarantee}")
        if self.name == STRONG_SHARE:
            return Threshold.for_share(calibration, self.value)
        if self.name == COST:
            return Threshold.for_cost(calibration, self.value)
        return Threshold.for_drop(calibration, self.value)


def quality_range(about: Any) -> Sequence[float | None]:
    """The metric's range from a dataset's `about` or a card's `data`; [0, 1] by default."""
    low, high = about.get("quality_range", UNIT)
    return low, high
