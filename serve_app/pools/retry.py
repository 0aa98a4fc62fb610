"""How long to wait between tries, and when to stop. Only what failed before its first byte may be tried again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from serve_app.errors import JethroError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).

    `retries` are tries after the first. A Retry-After of the upstream is a lower bound on the wait; one longer than
    `longest_retry_after_s` ends the tries, since the caller can wait better than we.
    """

    retries: int = 2
    base_s: float = 0.05
    cap_s: float = 2.0
    longest_retry_after_s: float = 5.0
    rng: random.Random = field(default_factory=random.Random, compare=False)

    def pause_s(self, attempt: int, error: JethroError, left_s: float | None = None) -> float | None:
        """Seconds to wait after the failure of try `attempt` (0 is the first); None: give up.

        `left_s` is what is left of the caller's deadline; a wait that would outlive it gives up at once.
        """
        if attempt >= self.retries or not error.retryable:
            return None
        wait_s = self.rng.uniform(0.0, min(self.cap_s, self.base_s * 2**attempt))
        if error.retry_after_s is not None:
            if error.retry_after_s > self.longest_retry_after_s:
                return None
            wait_s += error.retry_after_s
        return None if left_s is not None and wait_s >= left_s else wait_s


async def retried(
    attempt: Callable[[int], Awaitable[T]],
    backoff: Backoff,
    *,
    left_s: Callable[[], float | None] = lambda: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """The result of `attempt(i)` for the first i that succeeds. Raises the last error when the back-off gives up."""
    i = 0
    while True:
        try:
            return await attempt(i)
        except JethroError as e:
            pause_s = backoff.pause_s(i, e, left_s())
            if pause_s is None:
                raise
        await sleep(pause_s)
        i += 1
