"""The events of one streamed answer as Frames, checked for errors and for a complete end."""

import asyncio
from collections.abc import Callable
from typing import Self

import aiohttp

from serve_app.errors import JethroError, UpstreamError
from serve_app.pools.replica_session import ReplicaResponse
from serve_app.pools.upstream_errors import error_of_event
from serve_app.wire.frames import EventCutter, Frame

_DONE = b"[DONE]\n\n"
_MOST_EVENT_BYTES = 16 * 2**20
_END_S = 1.0  # longest wait for the end of the body after [DONE]; then the connection is closed, not reused


class EventStream:
    """The events of one answer as Frames, `[DONE]` left out.

    Raises UpstreamError when the connection breaks or goes silent, and the mapped error on an error event; a stream
    that ends without `[DONE]` was cut. `aclose` closes the connection at once, which cancels the model.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse | ReplicaResponse,
        idle_s: float,
        refusal: Callable[[JethroError], JethroError],
    ) -> None:
        self._response = response
        self._content = response.content
        self._refusal = refusal
        self._idle_s = idle_s
        self._cutter = EventCutter()
        self._ready: Frame | None = None
        self._done = False

    async def prime(self) -> None:
        """Wait for the first event, under whatever time limit the caller has set."""
        self._ready = await self._next()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        frame, self._ready = self._ready, None
        if frame is None and not self._done:
            try:
                async with asyncio.timeout(self._idle_s) as limit:
                    frame = await self._next(limit)
            except TimeoutError as e:
                self._response.close()
                raise self._failure(f"the upstream went silent for {self._idle_s:g} s") from e
            except BaseException:
                self._response.close()
                raise
        if frame is None:
            await self._finish()
            raise StopAsyncIteration
        return frame

    async def aclose(self) -> None:
        """Close the connection if the answer is not complete. Idempotent."""
        self._response.close()

    async def _next(self, limit: asyncio.Timeout | None = None) -> Frame | None:
        """The next whole events; None at `[DONE]`."""
        while True:
            try:
                data = await self._content.readany()
            except (aiohttp.ClientError, OSError) as e:
                raise self._failure("the upstream broke off inside the stream") from e
            if not data:
                raise self._failure("the upstream ended the stream before the answer was complete")
            events = self._cutter.feed(data)
            if events:
                if events.endswith(_DONE):
                    self._done = True
                    events = events[: events.rfind(b"data:")]
                return self._checked(Frame(events)) if events else None
            if self._cutter.pending > _MOST_EVENT_BYTES:
                raise self._failure(f"the upstream sent an event of more than {_MOST_EVENT_BYTES} bytes")
            if limit is not None:
                limit.reschedule(asyncio.get_running_loop().time() + self._idle_s)

    def _checked(self, frame: Frame) -> Frame:
        """The frame. Raises the error that one of its events carries."""
        if frame.marked:
            try:
                error = frame.error
            except UpstreamError as e:
                raise self._refusal(e) from e.__cause__
            if error is not None:
                raise self._refusal(error_of_event(error))
        return frame

    def _failure(self, message: str) -> JethroError:
        return self._refusal(UpstreamError(message))

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
