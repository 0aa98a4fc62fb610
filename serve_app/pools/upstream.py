"""A client of one OpenAI-compatible address: a replica of ours or somebody else's server.

Bytes in, bytes out; nothing of an answer is parsed here. It does not retry and does not choose between addresses:
whoever holds several of these does (see `serve_app.pools.retry`).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, Self

import aiohttp
import orjson
from yarl import URL

from serve_app.errors import JethroError, UpstreamError
from serve_app.pools.sse import DONE, EventCutter
from serve_app.pools.upstream_errors import error_of_answer, error_of_event

_KEEP_ALIVE_S = 4.0  # below the 5 s after which uvicorn (and so vLLM) closes idle connections
_DNS_CACHE_S = 10
_MOST_EVENT_BYTES = 16 * 2**20
_MOST_ANSWER_BYTES = 256 * 2**20
_MOST_ERROR_BYTES = 64 * 1024
_END_S = 1.0  # how long after [DONE] the connection may stay open before it is given up instead of kept


@dataclass(frozen=True, slots=True)
class Timeouts:
    """`first_byte_s` counts from sending the request to the first event (or to the answer's head), `idle_s` from one
    piece to the next."""

    connect_s: float = 5.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0


def client_session() -> aiohttp.ClientSession:
    """A session to be shared by all upstreams of a process: no cookies, no proxy, no bound on connections.

    Must be called inside the event loop that will use it; the caller closes it.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S, ttl_dns_cache=_DNS_CACHE_S)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        timeout=aiohttp.ClientTimeout(total=None),
    )


class Upstream:
    """One address. `base_url` stands before the paths, such as `http://10.0.0.7:4123/v1`.

    `headers` go with every request (the key among them); they appear in no message and no repr.

    Errors of both calls, before the first byte: UpstreamError (no connection, reset, timeout, 5xx, key refused),
    Overloaded (429, with retry_after_s), PoolUnavailable (a replica that drains), RequestError family (4xx with
    OpenAI's error object). The address is attached as a note, for the log, and not part of the message.
    """

    def __init__(
        self,
        base_url: str,
        *,
        session: aiohttp.ClientSession,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._session = session
        self._timeouts = timeouts or Timeouts()
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._secrets = [v.removeprefix("Bearer ") for k, v in self._headers.items() if k.lower() != "content-type"]
        self._http_timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect_s)
        self._urls: dict[str, URL] = {}

    def __repr__(self) -> str:
        return f"Upstream({self.base_url!r})"

    async def open_stream(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> "EventStream":
        """Send `body` and wait for the first whole event. `path` begins with a slash.

        Until this returns nothing of the answer has been given away, so a failed call may be tried elsewhere.
        """
        try:
            async with asyncio.timeout(self._timeouts.first_byte_s):
                response = await self._send(path, body, headers)
                try:
                    if response.status >= 400:
                        raise await self._refusal(response)
                    self._expect(response, "text/event-stream")
                    stream = EventStream(response, self, self._timeouts.idle_s)
                    await stream.prime()
                except BaseException:
                    response.close()
                    raise
                return stream
        except TimeoutError as e:
            raise self.failure(f"the upstream sent nothing for {self._timeouts.first_byte_s:g} s") from e
        except (aiohttp.ClientError, OSError) as e:
            self._raise_connection(e)

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """Send `body` and give the body of the whole answer."""
        try:
            async with asyncio.timeout(self._timeouts.first_byte_s) as limit:
                response = await self._send(path, body, headers)
                try:
                    if response.status >= 400:
                        raise await self._refusal(response)
                    self._expect(response, "application/json")
                    limit.reschedule(asyncio.get_running_loop().time() + self._timeouts.idle_s)
                    return await self._read(response, _MOST_ANSWER_BYTES)
                except BaseException:
                    response.close()
                    raise
        except TimeoutError as e:
            raise self.failure("the upstream did not answer in time") from e
        except (aiohttp.ClientError, OSError) as e:
            self._raise_connection(e)

    def failure(self, message: str) -> UpstreamError:
        """An UpstreamError with the address as a note."""
        error = UpstreamError(message)
        error.add_note(f"upstream {self.base_url}")
        return error

    def redacted(self, error: JethroError) -> JethroError:
        """The error with the address as a note and none of our header values in its message."""
        for secret in self._secrets:
            if secret and secret in error.message:
                error.message = error.message.replace(secret, "[hidden]")
                error.args = (error.message,)
        error.add_note(f"upstream {self.base_url}")
        return error

    async def _send(self, path: str, body: bytes, headers: Mapping[str, str] | None) -> aiohttp.ClientResponse:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.base_url + path)
        return await self._session.post(
            url,
            data=body,
            headers={**self._headers, **headers} if headers else self._headers,
            timeout=self._http_timeout,
            allow_redirects=False,
        )

    async def _refusal(self, response: aiohttp.ClientResponse) -> JethroError:
        body = await self._read(response, _MOST_ERROR_BYTES)
        return self.redacted(error_of_answer(response.status, response.headers, body))

    async def _read(self, response: aiohttp.ClientResponse, most: int) -> bytes:
        body = bytearray()
        while part := await response.content.readany():
            body += part
            if len(body) > most:
                raise self.failure(f"the upstream's answer is larger than {most} bytes")
        return bytes(body)

    def _expect(self, response: aiohttp.ClientResponse, content_type: str) -> None:
        got = response.headers.get("content-type", "")
        if response.status >= 300 or not got.lower().startswith(content_type):
            raise self.failure(
                f"the upstream answered with status {response.status} and {got or 'no content type'} "
                f"where {content_type} was expected"
            )

    def _raise_connection(self, cause: Exception) -> NoReturn:
        if isinstance(cause, aiohttp.ClientConnectorError):
            raise self.failure("the upstream cannot be reached") from cause
        raise self.failure("the upstream closed the connection before it answered") from cause


class EventStream:
    """The events of one answer as buffers of whole events (`data: {...}` and a blank line each), `[DONE]` left out.

    Raises UpstreamError when the connection breaks or goes silent, and the mapped error on an error event; a stream
    that ends without `[DONE]` was cut. `aclose` closes the connection at once, which cancels the model.
    """

    def __init__(self, response: aiohttp.ClientResponse, upstream: Upstream, idle_s: float) -> None:
        self._response = response
        self._content = response.content
        self._upstream = upstream
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
            raise self._upstream.failure(f"the upstream went silent for {self._idle_s:g} s") from e
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
                raise self._upstream.failure("the upstream broke off inside the stream") from e
            if not data:
                raise self._upstream.failure("the upstream ended the stream before the answer was complete")
            events = self._cutter.feed(data)
            if events:
                return self._checked(events)
            if self._cutter.pending > _MOST_EVENT_BYTES:
                raise self._upstream.failure(f"the upstream sent an event of more than {_MOST_EVENT_BYTES} bytes")
            if limit is not None:
                limit.reschedule(asyncio.get_running_loop().time() + self._idle_s)

    def _checked(self, events: bytes) -> bytes:
        # A quote inside a JSON string is escaped, so these bytes can only be a key or a whole value.
        if b'"error"' in events:
            self._raise_error_event(events)
        end = events.find(b"[DONE]\n\n", max(0, len(events) - len(DONE)))
        if end >= 0:
            self._done = True
            return events[: events.rfind(b"data:", 0, end)]
        return events

    def _raise_error_event(self, events: bytes) -> None:
        for event in events.split(b"\n\n"):
            if b'"error"' in event:
                try:
                    parsed = orjson.loads(event[5:])
                except orjson.JSONDecodeError as e:
                    raise self._upstream.failure("the upstream sent an event that is not JSON") from e
                if isinstance(parsed, dict) and parsed.get("error"):
                    raise self._upstream.redacted(error_of_event(parsed["error"]))

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
