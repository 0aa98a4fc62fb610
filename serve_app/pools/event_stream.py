"""The events of one streamed answer, checked for errors and for its true end, without parsing each event."""

import asyncio
from collections.abc import Callable
from typing import Self

import aiohttp
import orjson

from serve_app.errors import JethroError, UpstreamError
from serve_app.pools.replica_session import ReplicaResponse
from serve_app.pools.upstream_errors import error_of_event
from serve_app.wire.sse import EventCutter

_DONE = b"[DONE]\n\n"
_MOST_EVENT_BYTES = 16 * 2**20
_END_S = 1.0  # how long after [DONE] the connection may stay open before it is given up instead of kept


class EventStream:
    """The events of one answer as buffers of whole events (`data: {...}` and a blank line each), `[DONE]` left out.

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
        self._ready = b""
        self._done = False

    async def prime(self) -> None:
        """Wait for the first event, under whatever time limit the caller has set."""
        self._ready = await self._next()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._ready:
            ready, self._ready = self._ready, b""
            return ready
        if self._done:
            await self._finish()
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._idle_s) as limit:
                ready = await self._next(limit)
        except TimeoutError as e:
            self._response.close()
            raise self._failure(f"the upstream went silent for {self._idle_s:g} s") from e
        except BaseException:
            self._response.close()
            raise
        if not ready:
            await self._finish()
            raise StopAsyncIteration
        return ready

    async def aclose(self) -> None:
        """Close the connection if the answer is not complete. Idempotent."""
        self._response.close()

    async def _next(self, limit: asyncio.Timeout | None = None) -> bytes:
        """The next whole events; empty at `[DONE]`."""
        while True:
            try:
                data = await self._content.readany()
            except (aiohttp.ClientError, OSError) as e:
                raise self._failure("the upstream broke off inside the stream") from e
            if not data:
                raise self._failure("the upstream ended the stream before the answer was complete")
            events = self._cutter.feed(data)
            if events:
                return self._checked(events)
            if self._cutter.pending > _MOST_EVENT_BYTES:
                raise self._failure(f"the upstream sent an event of more than {_MOST_EVENT_BYTES} bytes")
            if limit is not None:
                limit.reschedule(asyncio.get_running_loop().time() + self._idle_s)

    def _checked(self, events: bytes) -> bytes:
        # A quote inside a JSON string is escaped, so these bytes can only be a key or a whole value.
        if b'"error"' in events:
            self._raise_error_event(events)
        if events.endswith(_DONE):
            self._done = True
            return events[: events.rfind(b"data:")]
        return events

    def _raise_error_event(self, events: bytes) -> None:
        for event in events.split(b"\n\n"):
            if b'"error"' in event:
                try:
                    parsed = orjson.loads(event[5:])
                except orjson.JSONDecodeError as e:
                    raise self._failure("the upstream sent an event that is not JSON") from e
                if isinstance(parsed, dict) and parsed.get("error"):
                    raise self._refusal(error_of_event(parsed["error"]))

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
