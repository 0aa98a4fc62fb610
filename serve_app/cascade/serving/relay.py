"""Streams that are begun before it is known whether they are wanted, and answers that pass through unjudged.

Cleaning up that is not cut short when its request is cancelled again.

A caller who leaves is seen twice, by the server and by the request's own watch, and each cancels the request's task:
the second one while what the first ended is being closed. Whoever has several calls to close must close them all.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from serve_app.cascade.serving.response_filter import AsAsked
from serve_app.cascade.serving.run import Ascent, Visit
from serve_app.errors import DeadlineExceeded, JethroError, UpstreamError
from serve_app.pools.base import Pool
from serve_app.strategy import Event
from serve_app.types import Query
from serve_app.wire.answers import whole_answer
from serve_app.wire.frames import Call, Frame, usage_from_openai

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Give what `work` gives, and raise what it raises; a cancellation meanwhile is raised when it has ended."""
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
        task.exception()  # seen, so that the loop does not report it as lost
    raise cancelled


logger = logging.getLogger("jethro.cascade")


class Opening:
    """A pool's stream, begun at once in a task of its own; `aclose` ends it wherever it is.

    `error`: why it failed, if it had by then and nobody had asked for its first frame.
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
        """Cancel what waits and close the stream, and with it the model; gives a first frame that nobody read.

        Whoever waits for it may be cancelled: the stream is closed all the same.
        """
        first, self._first = self._first, None
        if first is not None:
            first.cancel()
        return await to_its_end(self._closed(first))

    async def _closed(self, first: "asyncio.Task[Frame | None] | None") -> Frame | None:
        try:
            return await self._unread(first) if first is not None else None
        finally:
            await self._frames.aclose()

    async def _next(self) -> Frame | None:
        return await anext(self._frames, None)

    async def _unread(self, first: "asyncio.Task[Frame | None]") -> Frame | None:
        """What the cancelled task had, once it has ended: only then can its stream be closed."""
        await asyncio.wait((first,))
        if first.cancelled():
            return None
        error = first.exception()
        if error is None:
            return first.result()
        logger.debug("a stream that was not wanted ended: %r", error)
        self.error = error if isinstance(error, JethroError) else None
        return None


@dataclass(slots=True)
class Passing:
    """An answer on its way from `visit` to the caller who asked `query`; frames held so far go first."""

    ascent: Ascent
    visit: Visit
    query: Query
    call: Call
    stream: bool

    async def from_stream(self, opening: Opening, reason: str) -> AsyncGenerator[Event]:
        """Decision, frames as they come (or all of them as one Answer), and Spent; the visit has its first frame."""
        visit = self.visit
        as_asked = AsAsked(self.query, visit.sent)
        if self.stream:
            yield self.ascent.decision(visit)
            yield as_asked.frame(Frame(b"".join(frame.data for frame in visit.frames)))
        usage = next((frame.usage for frame in reversed(visit.frames) if frame.usage), None)
        while (frame := await opening.next()) is not None:
            usage = frame.usage or usage
            if self.stream:
                yield as_asked.frame(frame)
            else:
                visit.frames.append(frame)
        visit.spent(reason, usage_from_openai(usage))
        if not self.stream:
            frames = [as_asked.frame(frame) for frame in visit.frames]
            answer = whole_answer(frames, self.query, self.call, visit.way.pool.model)
            yield self.ascent.decision(visit)
            yield answer
        yield self.ascent.spent(visit)

    async def from_hold(self) -> AsyncGenerator[Event]:
        """The same of an answer that is there as a whole."""
        visit = self.visit
        as_asked = AsAsked(self.query, visit.sent)
        yield self.ascent.decision(visit)
        if self.stream:
            yield as_asked.frame(Frame(b"".join(frame.data for frame in visit.frames)))
        elif visit.answer is not None:
            yield as_asked.answer(visit.answer)
        else:
            frames = [as_asked.frame(frame) for frame in visit.frames]
            yield whole_answer(frames, self.query, self.call, visit.way.pool.model)
        yield self.ascent.spent(visit)


async def first_frame(visit: Visit, opening: Opening, within_s: float | None) -> None:
    """Wait for a stream's first frame. Raises the pool's error, or DeadlineExceeded."""
    model = visit.way.pool.model
    try:
        async with asyncio.timeout(within_s):
            frame = await opening.next()
    except TimeoutError as e:
        raise DeadlineExceeded(f"{model} had not begun when the time was over") from e
    if frame is None:
        raise UpstreamError(f"{model} ended its stream without an answer")
    visit.frames.append(frame)
