"""What a threshold is asked to reach, as an operator writes it: strong-share=0.4, cost=0.0002 or quality-drop=0.01."""

from dataclasses import dataclass
from typing import Self

from serve_app.errors import ConfigError
from serve_app.routing.threshold import Calibration, Threshold

STRONG_SHARE, COST, QUALITY_DROP = "strong-share", "cost", "quality-drop"
_FORMS = "strong-share=0.4, cost=0.0002 (mean USD a query) or quality-drop=0.01"


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
            value = float("nan")
        known = name in (STRONG_SHARE, COST, QUALITY_DROP)
        if not equals or not known or not value >= 0 or (name != COST and value > 1):
            raise ConfigError(f"target {text!r}: write {_FORMS}")
        return cls(name, value)

    def __str__(self) -> str:
        return f"{self.name}={self.value:g}"

    def threshold(self, calibration: Calibration) -> Threshold:
        """The threshold that reaches the target on the calibration data. Raises ConfigError where it cannot."""
        if self.name == STRONG_SHARE:
            return Threshold.for_share(calibration, self.value)
        if self.name == COST:
            return Threshold.for_cost(calibration, self.value)
        return Threshold.for_drop(calibration, self.value)
