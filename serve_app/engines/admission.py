"""Who may be open in a replica: a bound on open requests, a bounded queue before it, and a drain that ends both.

One event loop, no locks. A slot that is freed goes to the longest waiting request.
"""

import asyncio
from collections import deque

from serve_app.errors import Overloaded, PoolUnavailable

_NEWEST = 0.05
"""Weight of the newest request in the mean time of service."""


class Draining(PoolUnavailable):
    """The replica is stopping; another replica can take the request."""

    default_code = "draining"


class Admission:
    """`await enter()` before the work, `leave()` after it, always both.

    At most `max_open` requests are open and `max_queued` wait; `retry_after_s` is the Retry-After of refused ones.
    """

    def __init__(self, *, max_open: int, max_queued: int, retry_after_s: float) -> None:
        self._max_open, self._max_queued, self._retry_after_s = max_open, max_queued, retry_after_s
        self._queue: deque[asyncio.Future[None]] = deque()
        self._idle: asyncio.Event | None = None
        self.open = 0
        self.finished = 0
        self.service_s = 0.0
        """Mean seconds that a request held its place, of about the last twenty that ended."""

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def draining(self) -> bool:
        """Whether new requests are refused for good."""
        return self._idle is not None

    async def enter(self) -> None:
        """Takes a place, waiting for one if all are taken. Raises Overloaded, or Draining after `drain`."""
        if self._idle is not None:
            raise Draining("this replica is stopping; try again", retry_after_s=self._retry_after_s)
        if self.open < self._max_open:
            self.open += 1
            return
        if len(self._queue) >= self._max_queued:
            raise Overloaded(
                f"the model is busy: {self.open} requests open and {len(self._queue)} waiting; try again later",
                retry_after_s=self._retry_after_s,
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            else:
                if place in self._queue:  # unless `leave` has already removed it
                    self._queue.remove(place)
                self._note_idle()
            raise

    def note(self, held_s: float) -> None:
        """Record how long a request held its place."""
        self.finished += 1
        self.service_s += max(1 / self.finished, _NEWEST) * (held_s - self.service_s)

    def leave(self) -> None:
        """Frees the place, or passes it to the longest waiting request."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.open -= 1
        self._note_idle()

    async def drain(self, deadline_s: float) -> bool:
        """Refuses new requests and waits until the admitted ones are done, at most `deadline_s`; True if they are."""
        if self._idle is None:
            self._idle = asyncio.Event()
        self._note_idle()
        try:
            async with asyncio.timeout(deadline_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _note_idle(self) -> None:
        if self._idle is not None and self.open == 0 and not self._queue:
            self._idle.set()
