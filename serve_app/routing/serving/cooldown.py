"""When to do without what keeps failing: a cooldown after consecutive failures, then one call at a time as a trial."""

from collections.abc import Callable
from time import monotonic
from typing import Final

FAILURES: Final = 5
"""So many consecutive failures start a cooldown."""


class Cooldown:
    """Says of one thing that may be called whether it is left alone now, so that callers do not wait in vain and an
    overloaded thread or Scorer can catch up.

    After FAILURES consecutive failures it cools down for `cooldown_s` seconds. Then one caller may call, as a trial;
    the others follow once a call has succeeded, or one of them, as another trial, after the next cooldown. A failure of
    what began before a cooldown does not prolong it.
    """

    def __init__(self, cooldown_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._cooldown_s, self._clock = cooldown_s, clock
        self._failures = 0
        self._until_s = float("-inf")

    def is_active(self) -> bool:
        """Whether to do without a call now; if not, call, and report how it ended unless it was cancelled."""
        if self._failures < FAILURES:
            return False
        now = self._clock()
        if now < self._until_s:
            return True
        self._until_s = now + self._cooldown_s
        return False

    def failed(self) -> None:
        """A call failed."""
        self._failures += 1
        if self._failures == FAILURES:
            self._until_s = self._clock() + self._cooldown_s

    def succeeded(self) -> None:
        """A call had a result, or failed in a way that made no one wait."""
        self._failures = 0
