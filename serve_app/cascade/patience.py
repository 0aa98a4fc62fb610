"""How long a pool's calls usually take, so that none is begun that could not end before the caller's deadline.

Smoothed mean and deviation as TCP keeps them of round trips (Jacobson 1988; RFC 6298, section 2).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from serve_app.pools.base import Call

_GAIN, _DEVIATION_GAIN, _DEVIATIONS = 1 / 8, 1 / 4, 4
RESERVE_S: Final = 0.05
"""An answer at hand is sent at latest so long before the deadline; parsing and sending it takes a few ms."""


@dataclass(slots=True)
class Patience:
    """Durations of one Gateway's calls by pool; on one event loop. `least_s` is wanted at least, whatever was seen."""

    least_s: float = 1.0
    clock: Callable[[], float] = monotonic
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def took(self, pool: str, seconds: float) -> None:
        """A call ended with an answer."""
        known = self._seen.get(pool)
        if known is None:
            self._seen[pool] = (seconds, seconds / 2)
            return
        mean, deviation = known
        deviation += _DEVIATION_GAIN * (abs(seconds - mean) - deviation)
        self._seen[pool] = (mean + _GAIN * (seconds - mean), deviation)

    def usual_s(self, pool: str) -> float:
        """What a call takes at most, usually; 0 for a pool never asked."""
        mean, deviation = self._seen.get(pool, (0.0, 0.0))
        return mean + _DEVIATIONS * deviation

    def left_s(self, call: Call) -> float | None:
        """Seconds in which an answer must be there; None without a deadline."""
        return None if call.deadline_s is None else call.deadline_s - self.clock() - RESERVE_S

    def allows(self, pool: str, call: Call) -> bool:
        """Whether a call to the pool may be expected to end in time."""
        left = self.left_s(call)
        return left is None or left >= max(self.least_s, self.usual_s(pool))
