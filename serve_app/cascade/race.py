"""When the next level is begun before the first is judged, and how many tokens that may cost.

A race hides the probe from a query that is replaced, and wastes a prefill where it is not. It is run for borderline
queries only, and only while what races have wasted stays under a share of all tokens.
"""

from dataclasses import dataclass, field
from typing import Final

from serve_app.types import Query

_CHARACTERS_A_TOKEN: Final = 4
"""What a prefill costs before the engine has counted it: about so many characters a token in English text."""
_REMEMBERED: Final = 1_000_000
"""Tokens after which the past counts half: the share follows the traffic."""


@dataclass(slots=True)
class RaceMeter:
    """Tokens of one Gateway's streaming cascade, and those that races wasted; on one event loop."""

    all_tokens: float = 0.0
    wasted_tokens: float = 0.0
    reserved_tokens: float = 0.0
    races: int = 0
    lost: int = 0

    def spent(self, tokens: int) -> None:
        """A query is over that took so many tokens in all."""
        self.all_tokens += tokens
        if self.all_tokens > _REMEMBERED:
            self.all_tokens /= 2
            self.wasted_tokens /= 2

    @property
    def share(self) -> float:
        """Of all tokens, those that races wasted."""
        return self.wasted_tokens / self.all_tokens if self.all_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Race:
    """The rule: a prior in [`low`, `high`] races, while races waste at most `wasted_share` of all tokens."""

    low: float
    high: float
    wasted_share: float
    meter: RaceMeter = field(default_factory=RaceMeter)

    def wanted(self, prior: float | None) -> bool:
        """Whether a query is borderline."""
        return prior is not None and self.low <= prior <= self.high

    def allowed(self, query: Query) -> int:
        """Tokens reserved for a race of this query; 0: it must not run. Give them back by `over`."""
        meter, tokens = self.meter, max(1, len(query.text) // _CHARACTERS_A_TOKEN)
        at_risk = meter.wasted_tokens + meter.reserved_tokens + tokens
        if at_risk > self.wasted_share * meter.all_tokens:
            return 0
        meter.reserved_tokens += tokens
        meter.races += 1
        return tokens

    def over(self, reserved: int, wasted: int) -> None:
        """A race is over; `wasted`: the tokens of the call that was cancelled, 0 if it was the one that answered."""
        self.meter.reserved_tokens -= reserved
        self.meter.wasted_tokens += wasted
        self.meter.lost += wasted > 0
