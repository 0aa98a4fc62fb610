"""Events on their way from a Gateway to the Learner: off the callers' path, bounded, resent until it has them."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, TypeVar

from serve_app.errors import replica_reply
from serve_app.streams.base import Event, EventBatch, LearnerPort, batch_to_json
from serve_app.streams.online.base import LabeledEvent

T = TypeVar("T")


async def call_learner(call: Coroutine[Any, Any, T], limit_s: float) -> T:
    """The result of a call of LearnerPort. Raises TimeoutError, or any error of a Learner that is away.

    A call that ends with the Learner's replica does not cancel the calling task (see `replica_reply`).
    """
    async with asyncio.timeout(limit_s):
        return await replica_reply(call)


_BATCH: Final = 256
"""Most events in a batch: a policy is published after each."""
_GATHER_S: Final = 0.05
"""A batch waits so long for more."""
_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0)
_SEND_S: Final = 60.0
"""Longest wait for the Learner to take a batch; learned or not, it may be resent."""
_CHARS: Final = 32_000_000
"""Most characters of text that wait for one stream."""
_LAST_S: Final = 5.0
"""Longest time to send pending events when a Gateway stops."""
logger = logging.getLogger("jethro.streams")


@dataclass(slots=True)
class _Pending:
    """Events of one stream; `sending` is a batch that the Learner may have received: it is resent unchanged."""

    events: deque[Event] = field(default_factory=deque)
    chars: int = 0
    lost: int = 0
    failed: int = 0
    sending: tuple[int, bytes] | None = None
    tries: int = 0
    due_s: float = 0.0

    @property
    def empty(self) -> bool:
        return not (self.events or self.lost or self.failed or self.sending)


@dataclass(eq=False)
class EventQueue:
    """One Gateway's events. `source` is never used again by another process. Call from one event loop.

    `most`: events that may wait for one stream.
    """

    port: LearnerPort
    source: str
    most: int
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = monotonic

    def __post_init__(self) -> None:
        self._seq = 0
        self._waiting: dict[tuple[str, str], _Pending] = {}
        """By stream and uid: a stream that was reset is another one."""
        self._some = asyncio.Event()
        self._trouble = ""

    @property
    def waiting(self) -> int:
        """Events that the Learner does not have yet."""
        return sum(len(w.events) + (w.sending[0] if w.sending else 0) for w in self._waiting.values())

    def put(self, stream: str, uid: str, event: Event) -> bool:
        """Keep an event to be sent; False: there is no room, and it is counted as lost. Never waits."""
        waiting = self._of(stream, uid)
        chars = len(event.text) if isinstance(event, LabeledEvent) else 0
        if len(waiting.events) >= self.most or waiting.chars + chars > _CHARS:
            waiting.lost += 1
            return False
        waiting.events.append(event)
        waiting.chars += chars
        self._some.set()
        return True

    def failed(self, stream: str, uid: str) -> None:
        """Count a failed LLM call."""
        self._of(stream, uid).failed += 1
        self._some.set()

    async def deliver(self) -> None:
        """Send for ever; cancel it to stop."""
        while True:
            await self._some.wait()
            now_s = self.clock()
            if not any(w.due_s <= now_s and len(w.events) >= _BATCH for w in self._waiting.values()):
                await self.pause(_GATHER_S)  # for more, or until a Learner that is away is retried
            await self.send()
            if not self._waiting:
                self._some.clear()

    async def send(self) -> bool:
        """One batch of each stream that has something and is due; False if any of them must be sent again."""
        now_s = self.clock()
        due = [(key, waiting) for key, waiting in self._waiting.items() if waiting.due_s <= now_s]
        return all([await self._send(key, waiting) for key, waiting in due])

    async def aclose(self) -> None:
        """Send pending events, within a short time."""
        for waiting in self._waiting.values():
            waiting.due_s = 0.0
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                while self._waiting and await self.send():
                    pass
        if self.waiting:
            logger.error("%d events of streams were not learned: the Learner is away", self.waiting)

    def _of(self, stream: str, uid: str) -> _Pending:
        return self._waiting.setdefault((stream, uid), _Pending())

    async def _send(self, key: tuple[str, str], waiting: _Pending) -> bool:
        count, line = waiting.sending = waiting.sending or self._batch(key, waiting)
        try:
            await call_learner(self.port.report(line), _SEND_S)
        except Exception as e:
            # any error of a Learner that is away; the batch is kept and resent unchanged
            waiting.due_s = self.clock() + _RETRY_S[min(waiting.tries, len(_RETRY_S) - 1)]
            waiting.tries += 1
            if type(e).__name__ != self._trouble:
                logger.warning("the Learner did not take %d events of stream %s; they are kept: %r", count, key[0], e)
                self._trouble = type(e).__name__
            return False
        waiting.sending, waiting.tries, waiting.due_s, self._trouble = None, 0, 0.0, ""
        if waiting.empty:
            del self._waiting[key]
        return True

    def _batch(self, key: tuple[str, str], waiting: _Pending) -> tuple[int, bytes]:
        events = tuple(waiting.events.popleft() for _ in range(min(_BATCH, len(waiting.events))))
        waiting.chars -= sum(len(e.text) for e in events if isinstance(e, LabeledEvent))
        self._seq += 1
        batch = EventBatch(self.source, self._seq, *key, events, waiting.lost, waiting.failed)
        waiting.lost = waiting.failed = 0
        return len(events), batch_to_json(batch)
