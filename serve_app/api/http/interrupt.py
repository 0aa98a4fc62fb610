"""Cuts a request short: when its caller leaves, when its deadline passes, or when the endpoint stops."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from starlette.types import Receive

_WATCH_AFTER_S: Final = 0.005
"""A request that ends sooner needs no watch for the disconnect; a task for each would be a tenth of its cost."""


class CallerGone(Exception):
    """The caller closed the connection."""


class DeadlinePassed(Exception):
    """The deadline passed while the request ran."""


class Stopped(Exception):
    """The endpoint stops, and the request was not finished in the time that it had."""


class Interrupt:
    """Async context that cancels its body: on a disconnect (CallerGone), at a deadline (DeadlinePassed), or Stopped.

    `stops`: holds, while the body runs, what is to be called to stop it.

    Read the request's body before: the next message from `receive` counts as the disconnect. A cancellation from
    outside (the server stops, or Ray Serve saw the disconnect first) passes through untouched.
    """

    def __init__(self, receive: Receive, timeout_s: float, stops: set[Callable[[], None]]) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        self._stops = stops
        self._why: type[Exception] | None = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[object] = task
        loop = asyncio.get_running_loop()
        self._watch: asyncio.Task[None] | None = None
        self._deadline_s = loop.time() + self._timeout_s
        # One timer at a time: most requests end before the watch begins, and never need the one of the deadline.
        if self._timeout_s > _WATCH_AFTER_S:
            self._timer = loop.call_later(_WATCH_AFTER_S, self._start_watch, loop)
        else:
            self._timer = loop.call_at(self._deadline_s, self._cut, DeadlinePassed)
        self._stops.add(self._stop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._stops.discard(self._stop)
        if self._watch is not None:
            self._watch.cancel()
        if self._why is None:
            return
        outer = self._task.uncancel()
        if kind is asyncio.CancelledError and outer == 0:
            raise self._why from None

    def _start_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_at(self._deadline_s, self._cut, DeadlinePassed)
        self._watch = loop.create_task(self._await_disconnect())

    async def _await_disconnect(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._cut(CallerGone)
                return

    def _stop(self) -> None:
        self._cut(Stopped)

    def _cut(self, why: type[Exception]) -> None:
        if self._why is None:
            self._why = why
            self._task.cancel()
