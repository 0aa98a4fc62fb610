"""Cuts a request off when its caller goes away or its deadline passes."""

import asyncio
from types import TracebackType
from typing import Final, Literal, Self

from starlette.types import Receive

_WATCH_AFTER_S: Final = 0.005
"""A request that is over sooner needs no watch; a task for each would be a tenth of its cost."""


class CallerGone(Exception):
    """The caller closed the connection; nobody is left to answer."""


class DeadlinePassed(Exception):
    """The deadline passed while the request ran."""


class Interrupt:
    """Async context: its body is cancelled by a disconnect or at a deadline, and ends as CallerGone or DeadlinePassed.

    The request's body must have been read before, since what `receive` gives next is taken as the disconnect. A
    cancellation from elsewhere (the server stops, Ray Serve saw the disconnect first) passes through untouched.
    """

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        self._why: Literal["gone", "deadline"] | None = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[object] = task
        loop = asyncio.get_running_loop()
        self._watch: asyncio.Task[None] | None = None
        self._deadline_s = loop.time() + self._timeout_s
        # One timer at a time: most requests are over before the watch begins, and never need that of the deadline.
        if self._timeout_s > _WATCH_AFTER_S:
            self._timer = loop.call_later(_WATCH_AFTER_S, self._start_watch, loop)
        else:
            self._timer = loop.call_at(self._deadline_s, self._cut, "deadline")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._why is None:
            return
        outer = self._task.uncancel()
        if kind is asyncio.CancelledError and outer == 0:
            raise (CallerGone if self._why == "gone" else DeadlinePassed) from None

    def _start_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_at(self._deadline_s, self._cut, "deadline")
        self._watch = loop.create_task(self._await_disconnect())

    async def _await_disconnect(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._cut("gone")
                return

    def _cut(self, why: Literal["gone", "deadline"]) -> None:
        if self._why is None:
            self._why = why
            self._task.cancel()
