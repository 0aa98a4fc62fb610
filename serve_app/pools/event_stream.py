"""The events of one streamed answer as Frames, checked for errors and for a complete end."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import aiohttp

from serve_app.errors import JethroError
from serve_app.pools.replica_session import ReplicaResponse
from serve_app.pools.upstream_errors import LostConnection, OddAnswer, error_of_event
from serve_app.wire.events import EventReader
from serve_app.wire.frames import Frame

_MOST_EVENT_BYTES = 16 * 2**20
_PIECE = 8 * 1024
_END_S = 1.0  # longest wait for the end of the body after [DONE]; then the connection is closed, not reused


class IdleLimit:
    """Context that raises TimeoutError in the task that waits in it, after `idle_s` without a `restart`.

    As asyncio.timeout, but with one timer a stream and not one a frame, which would cost more than the frame itself.
    """

    def __init__(self, idle_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_s = idle_s
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._since_s = 0.0
        self._cancelling = 0
        self._expired = False

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        self._since_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._idle_s, self._check)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._expired and task is not None:
            self._expired = False
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def restart(self) -> None:
        """Bytes have arrived."""
        self._since_s = self._loop.time()

    def close(self) -> None:
        """Drop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        if self._task is None:
            return  # the reader is elsewhere: the next wait starts the timer again
        left_s = self._since_s + self._idle_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check)
        else:
            self._expired = True
            self._task.cancel()


class EventStream:
    """The events of one answer as Frames, `[DONE]` left out.

    Frames that came before an error are yielded first. Raises UpstreamError when the connection breaks or goes silent,
    and the mapped error on an error event. A stream that ends without `[DONE]` is complete if the body ended cleanly
    after the finish reasons of all `choices`; otherwise it was cut. `aclose` closes the connection at once, which
    cancels the model.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse | ReplicaResponse,
        reader: EventReader,
        idle_s: float,
        refusal: Callable[[JethroError], JethroError],
        choices: int = 1,
    ) -> None:
        self._response = response
        self._content = response.content
        self._reader = reader
        self._refusal = refusal
        self._idle_s = idle_s
        self._idle = IdleLimit(idle_s)
        self._choices = choices
        self._deadline_s = math.inf
        self._ready: deque[Frame] = deque()
        self._error: JethroError | None = None
        self._full = False

    async def prime(self, limit: asyncio.Timeout | None = None, deadline_s: float = math.inf) -> None:
        """Wait for the first event under the caller's time `limit`; each piece of the body extends it, to `deadline_s`.

        Raises the error that comes before it.
        """
        self._deadline_s = deadline_s
        frame = await self._next(limit)
        if frame is not None:
            self._ready.appendleft(frame)
        elif self._error is not None:
            raise self._error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        if self._ready:
            return self._ready.popleft()
        if self._error is None and not self._reader.done:
            try:
                with self._idle:
                    frame = await self._next(None)
            except TimeoutError as e:
                self._response.close()
                raise self._refusal(OddAnswer(f"the upstream went silent for {self._idle_s:g} s")) from e
            except BaseException:
                self._response.close()
                raise
            if frame is not None:
                return frame
        if self._error is not None:
            self._response.close()
            raise self._error
        await self._finish()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the connection if the answer is not complete. Idempotent."""
        self._idle.close()
        self._response.close()

    async def _next(self, limit: asyncio.Timeout | None) -> Frame | None:
        """The next frame; None at an error or the end. Frames that arrive with it wait in `_ready`."""
        reader = self._reader
        while True:
            try:
                data = await self._piece()
            except (aiohttp.ClientError, OSError) as e:
                data = _unread(self._content)
                self._error = self._refusal(LostConnection("the upstream broke off inside the stream"))
                self._error.__cause__ = e
            frames = reader.feed(data) if data else [] if self._error else reader.end()
            if reader.over:
                self._error = self._reported()
            elif not data and self._error is None:
                if len(reader.finished) >= self._choices:
                    reader.done = True
                else:
                    self._fail("the upstream ended the stream before the answer was complete")
            if frames:
                self._ready += frames[1:]
                return frames[0]
            if self._error is not None or reader.done:
                return None
            if reader.pending > _MOST_EVENT_BYTES:
                self._fail(f"the upstream sent an event of more than {_MOST_EVENT_BYTES} bytes")
                return None
            if limit is None:
                self._idle.restart()
            else:
                extend(limit, self._idle_s, self._deadline_s)

    async def _piece(self) -> bytes:
        """What has arrived. Of another server's at most `_PIECE` bytes, and others have a turn after so many.

        A server that sends far more than is read would else hold up every request of this Gateway.
        """
        if not isinstance(self._content, aiohttp.StreamReader):
            return await self._content.readany()
        if self._full:
            await asyncio.sleep(0)
        data = await self._content.read(_PIECE)
        self._full = len(data) == _PIECE
        return data

    def _reported(self) -> JethroError | None:
        """The error that the body holds."""
        if self._reader.error is not None:
            return self._refusal(error_of_event(self._reader.error))
        return self._refusal(OddAnswer(f"the upstream sent {self._reader.failure}")) if self._reader.failure else None

    def _fail(self, message: str) -> None:
        self._error = self._refusal(OddAnswer(message))

    async def _finish(self) -> None:
        """Read to the end of the body, so that the connection can be used again; close it if the end does not come."""
        try:
            async with asyncio.timeout(_END_S):
                while await self._content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        finally:
            self._response.close()


def extend(limit: asyncio.Timeout, idle_s: float, deadline_s: float, *, begun: bool = False) -> None:
    """Put off the end of `limit`, since bytes have arrived, to `idle_s` from now but not beyond `deadline_s`.

    `begun`: they are of the answer, so that the limit may become shorter too.
    """
    until = min(asyncio.get_running_loop().time() + idle_s, deadline_s)
    if begun or until > (limit.when() or 0.0):
        limit.reschedule(until)


def _unread(content: aiohttp.StreamReader | ReplicaResponse) -> bytes:
    """What had arrived before the connection broke: aiohttp holds it back behind the error."""
    return b"" if isinstance(content, ReplicaResponse) else b"".join(content._buffer)
