"""What an ensemble is fitted for: the highest quality within a budget, or a quality at the lowest cost."""

from dataclasses import dataclass
from math import isfinite
from typing import Self

from serve_app.decision.target import COST, QUALITY_DROP, STRONG_SHARE, Target
from serve_app.errors import ConfigError
from serve_app.numbers import plain

_QUALITY = "quality"
_FORMS = "quality=0.9, quality-drop=0.01, strong-share=0.2 or cost=0.0002 (USD a query)"


@dataclass(frozen=True, slots=True)
class Goal:
    """Limits, None where there is none. `quality`: mean quality to reach, then the cheapest plan wins; otherwise the
    best. `quality_drop`: the same, as a relative drop against the strong member. `budget_usd`: mean US dollars a query;
    `strong_share`: share of queries that call the strong member.
    """

    quality: float | None = None
    quality_drop: float | None = None
    budget_usd: float | None = None
    strong_share: float | None = None

    def __post_init__(self) -> None:
        limits = {"quality": 1.0, "quality_drop": 1.0, "budget_usd": float("inf"), "strong_share": 1.0}
        for name, most in limits.items():
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and 0 <= value <= most):
                raise ConfigError(f"{name}: {value:g} is not in [0, {most:g}]; fix it")
        if all(getattr(self, name) is None for name in limits):
            raise ConfigError("an ensemble needs a goal: give --target, --budget-usd or --max-strong-share")
        if self.quality is not None and self.quality_drop is not None:
            raise ConfigError("a quality and a quality drop are two targets: give one")

    @classmethod
    def parse(cls, target: str | None, budget_usd: float | None = None, strong_share: float | None = None) -> Self:
        """From the options of a command. Raises ConfigError naming the forms of a target."""
        found: dict[str, float | None] = {"budget_usd": budget_usd, "strong_share": strong_share}
        if target is not None:
            name, equals, number = target.partition("=")
            if name == _QUALITY and equals:
                try:
                    found["quality"] = float(number)
                except ValueError:
                    raise ConfigError(f"target {target!r}: write {_FORMS}") from None
            else:
                aim = Target.parse(target) if equals and name in (COST, QUALITY_DROP, STRONG_SHARE) else None
                if aim is None:
                    raise ConfigError(f"target {target!r}: write {_FORMS}")
                key = {COST: "budget_usd", QUALITY_DROP: "quality_drop", STRONG_SHARE: "strong_share"}[aim.name]
                if found.get(key) is not None:
                    raise ConfigError(f"target {target!r}: the same limit is given twice; give one")
                found[key] = aim.value
        return cls(**found)

    def least_quality(self, strong: float) -> float | None:
        """The quality to reach, where the strong member alone has `strong`; None if there is none."""
        return (1 - self.quality_drop) * strong if self.quality_drop is not None else self.quality

    def __str__(self) -> str:
        parts = {
            _QUALITY: self.quality,
            QUALITY_DROP: self.quality_drop,
            COST: self.budget_usd,
            STRONG_SHARE: self.strong_share,
        }
        return ", ".join(f"{name}={plain(value)}" for name, value in parts.items() if value is not None)
