"""A client of one OpenAI-compatible address, of a replica or of another server; its timeouts and back-off.

Bytes in, bytes out: no answer is parsed here. HttpPool retries and chooses between addresses.
"""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import aiohttp
from yarl import URL

from serve_app.errors import JethroError, UpstreamError
from serve_app.pools.event_stream import EventStream
from serve_app.pools.replica_session import ReplicaResponse, ReplicaSession
from serve_app.pools.upstream_errors import error_of_answer, redacted

_KEEP_ALIVE_S = 4.0  # below the 5 s after which uvicorn (and so vLLM) closes idle connections
_DNS_CACHE_S = 10
_MOST_ANSWER_BYTES = 256 * 2**20
_MOST_ERROR_BYTES = 16 * 2**20  # some quote the whole request in their refusal


class BrokenUpstream(UpstreamError):
    """No answer, or an unreadable one; an upstream that answers with an error is alive."""


class SlowUpstream(BrokenUpstream):
    """No first byte in time: a failure of the upstream, unless the caller's deadline has passed."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits for the connection, from the request to the first event (or the head of a whole answer), and between
    pieces.
    """

    connect_s: float = 5.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).

    `retries` are tries after the first. A Retry-After of the upstream is a lower bound on the wait; one longer than
    `longest_retry_after_s` ends the tries: such a wait is left to the caller.
    """

    retries: int = 2
    base_s: float = 0.05
    cap_s: float = 2.0
    longest_retry_after_s: float = 5.0
    rng: random.Random = field(default_factory=random.Random, compare=False)

    def pause_s(self, attempt: int, error: JethroError) -> float | None:
        """Seconds to wait after the failure of try `attempt` (0 is the first); None: give up."""
        if attempt >= self.retries or not error.retryable:
            return None
        wait_s = self.rng.uniform(0.0, min(self.cap_s, self.base_s * 2**attempt))
        if error.retry_after_s is not None:
            if error.retry_after_s > self.longest_retry_after_s:
                return None
            wait_s += error.retry_after_s
        return wait_s


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


Session = aiohttp.ClientSession | ReplicaSession
Response = aiohttp.ClientResponse | ReplicaResponse


class Upstream:
    """One address. `base_url` is the prefix of the paths, such as `http://10.0.0.7:4123/v1`.

    `headers` are sent with every request (the key among them) and appear in no message and no repr.

    Errors of both calls, before the first byte: UpstreamError (no connection, reset, timeout, 5xx, key refused),
    Overloaded (429, with retry_after_s), PoolUnavailable (a replica that drains), RequestError family (4xx with
    OpenAI's error object). The address is attached as a note, for the log, and not part of the message.
    """

    def __init__(
        self,
        base_url: str,
        *,
        session: Session,
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

    async def open_stream(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> EventStream:
        """Send `body` and wait for the first whole event. `path` begins with a slash.

        Until this returns no part of the answer has been used, so a failed call may be retried elsewhere.
        """
        try:
            async with asyncio.timeout(self._timeouts.first_byte_s):
                response = await self._send(path, body, headers)
                try:
                    if response.status >= 400:
                        raise await self._refusal(response)
                    self._expect(response, "text/event-stream")
                    stream = EventStream(response, self._timeouts.idle_s, self.refusal)
                    await stream.prime()
                except BaseException:
                    response.close()
                    raise
                return stream
        except (TimeoutError, aiohttp.ClientError, OSError) as e:
            self._raise_connection(e)

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """Send `body` and return the body of the whole answer."""
        try:
            async with asyncio.timeout(self._timeouts.first_byte_s) as limit:
                response = await self._send(path, body, headers)
                try:
                    if response.status >= 400:
                        raise await self._refusal(response)
                    self._expect(response, "application/json")
                    return await self._read(response, _MOST_ANSWER_BYTES, limit)
                except BaseException:
                    response.close()
                    raise
        except (TimeoutError, aiohttp.ClientError, OSError) as e:
            self._raise_connection(e)

    def failure(self, message: str, kind: type[BrokenUpstream] = BrokenUpstream) -> BrokenUpstream:
        """A BrokenUpstream with the address as a note."""
        error = kind(message)
        error.add_note(f"upstream {self.base_url}")
        return error

    def refusal(self, error: JethroError) -> JethroError:
        """The error with the address as a note and none of our header values in its message."""
        for secret in self._secrets:
            error = redacted(error, secret)
        error.add_note(f"upstream {self.base_url}")
        return error

    async def _send(self, path: str, body: bytes, headers: Mapping[str, str] | None) -> Response:
        url = self._urls.get(path) or self._urls.setdefault(path, URL(self.base_url + path))
        return await self._session.post(
            url,
            data=body,
            headers={**self._headers, **headers} if headers else self._headers,
            timeout=self._http_timeout,
            allow_redirects=False,
        )

    async def _refusal(self, response: Response) -> JethroError:
        """The error of an answer. Without a readable body the status decides."""
        try:
            body = await self._read(response, _MOST_ERROR_BYTES)
        except (UpstreamError, aiohttp.ClientError, OSError):
            body = b""
        return self.refusal(error_of_answer(response.status, response.headers, body))

    async def _read(self, response: Response, most: int, limit: asyncio.Timeout | None = None) -> bytes:
        """The body; each piece extends `limit`, since some send blank lines while the model works."""
        body, now = bytearray(), asyncio.get_running_loop().time
        while True:
            if limit is not None:
                limit.reschedule(now() + self._timeouts.idle_s)
            part = await response.content.readany()
            if not part:
                return bytes(body)
            body += part
            if len(body) > most:
                raise self.failure(f"the upstream's answer is larger than {most} bytes")

    def _expect(self, response: Response, content_type: str) -> None:
        got = response.headers.get("content-type", "")
        if response.status >= 300 or not got.lower().startswith(content_type):
            raise self.failure(
                f"the upstream answered with status {response.status} and {got or 'no content type'} "
                f"where {content_type} was expected"
            )

    def _raise_connection(self, cause: Exception) -> NoReturn:
        if isinstance(cause, aiohttp.ServerTimeoutError):
            raise self.failure(f"the upstream took no connection within {self._timeouts.connect_s:g} s") from cause
        if isinstance(cause, TimeoutError):
            late = f"the upstream did not answer within {self._timeouts.first_byte_s:g} s"
            raise self.failure(late, SlowUpstream) from cause
        if isinstance(cause, aiohttp.ClientConnectorError | ConnectionRefusedError):
            raise self.failure("the upstream cannot be reached") from cause
        raise self.failure("the upstream closed the connection before it answered") from cause
