"""Streams that begin before it is known whether they are used, and cleanup that a second cancellation cannot cut short.

A caller who disconnects cancels the request's task twice: the server does, and so does the request's own watch, the
second time while the calls that the first one ended are being closed. `run_shielded` closes them all nevertheless.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from serve_app.errors import JethroError
from serve_app.pools.base import Pool
from serve_app.types import Query
from serve_app.wire.frames import Call, Frame

logger = logging.getLogger("jethro.pools")
T = TypeVar("T")


async def run_shielded(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end; a cancellation meanwhile is raised afterwards."""
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as again:
            cancelled = again
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # retrieved, so that the loop does not log it as lost
    raise cancelled


class PendingStream:
    """A pool's stream, begun at once in a task of its own; `aclose` ends it wherever it is.

    `error`: why it failed, if it did before its first frame was requested.
    """

    def __init__(self, pool: Pool, query: Query, call: Call) -> None:
        self.error: JethroError | None = None
        self._frames = pool.stream(query, call)
        self._first: asyncio.Task[Frame | None] | None = asyncio.create_task(self._next())

    async def next(self) -> Frame | None:
        """The next frame; None at the end. Raises what the pool raises."""
        if self._first is None:
            return await self._next()
        first = await self._first
        self._first = None
        return first

    async def aclose(self) -> Frame | None:
        """Close the stream, and with it the call, even if cancelled meanwhile; returns a first frame not yet read."""
        first, self._first = self._first, None
        if first is not None:
            first.cancel()
        return await run_shielded(self._closed(first))

    async def _closed(self, first: "asyncio.Task[Frame | None] | None") -> Frame | None:
        try:
            return await self._unread(first) if first is not None else None
        finally:
            await self._frames.aclose()

    async def _next(self) -> Frame | None:
        return await anext(self._frames, None)

    async def _unread(self, first: "asyncio.Task[Frame | None]") -> Frame | None:
        """The result of the cancelled task, once it has ended: only then can its stream be closed."""
        await asyncio.wait((first,))
        if first.cancelled():
            return None
        error = first.exception()
        if error is None:
            return first.result()
        logger.debug("a stream that was not used ended: %r", error)
        self.error = error if isinstance(error, JethroError) else None
        return None
