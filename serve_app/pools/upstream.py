"""A client of one OpenAI-compatible address, of a replica or of another server; its timeouts and back-off.

Bytes in, bytes out: no answer is parsed here. HttpPool retries and chooses between addresses.
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NoReturn

import aiohttp
from yarl import URL

from serve_app.errors import JethroError, UpstreamError
from serve_app.pools.event_stream import EventStream, extend
from serve_app.pools.replica_session import ReplicaResponse, ReplicaSession
from serve_app.pools.upstream_errors import (
    LostConnection,
    NoConnection,
    OddAnswer,
    SlowUpstream,
    error_of_answer,
    redacted,
)
from serve_app.wire.events import EventReader

_MOST_ANSWER_BYTES = 256 * 2**20
_MOST_ERROR_BYTES = 16 * 2**20  # some quote the whole request in their refusal
_DECODED = ("", "identity", "gzip", "deflate")
_KEY_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
_REDIRECTS = (301, 302, 303, 307, 308)
_PUBLIC_HEADERS = ("content-type", "user-agent", "accept", "accept-encoding")


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


async def replica_answers(session: aiohttp.ClientSession, address: str) -> bool:
    """Whether a replica is well and not draining. Waits for as long as it says nothing."""
    try:
        async with session.get(address.removesuffix("/v1") + "/health", allow_redirects=False) as response:
            return response.status == HTTPStatus.OK
    except (aiohttp.ClientError, OSError):
        return False


Session = aiohttp.ClientSession | ReplicaSession
Response = aiohttp.ClientResponse | ReplicaResponse


class Upstream:
    """One address. `base_url` is the prefix of the paths, such as `http://10.0.0.7:4123/v1`; its query is kept.

    `headers` are sent with every request (the key among them) and appear in no message and no repr. `trusted`: a
    replica of ours. `repairs` counts what had to be repaired in answers.

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
        trusted: bool = False,
        repairs: Counter[str] | None = None,
    ) -> None:
        base, _, query = base_url.partition("?")
        self.base_url = base.rstrip("/")
        self._query = f"?{query}" if query else ""
        self._session = session
        self._timeouts = timeouts or Timeouts()
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._secrets = [
            v.removeprefix("Bearer ") for k, v in self._headers.items() if k.lower() not in _PUBLIC_HEADERS
        ]
        self._trusted, self._repairs = trusted, repairs
        self._http_timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect_s)
        self._urls: dict[str, URL] = {}

    def __repr__(self) -> str:
        return f"Upstream({self.base_url!r})"

    async def open_stream(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        choices: int = 1,
        deadline_s: float | None = None,
    ) -> EventStream:
        """Send `body` and wait for the first whole event. `path` begins with a slash.

        `choices`: how many the answer has. Bytes that are no event yet (comments, blank lines) keep the wait alive up
        to the monotonic `deadline_s`. Until this returns no part of the answer has been used, so a failed call may be
        retried elsewhere.
        """
        latest_s = math.inf if deadline_s is None else deadline_s
        try:
            async with asyncio.timeout(self._first_byte_s(latest_s)) as limit:
                response = await self._send(path, body, headers)
                try:
                    await self._check(response)
                    declared = "event-stream" in response.headers.get("content-type", "").lower()
                    reader = EventReader(trusted=self._trusted and declared, declared=declared, repairs=self._repairs)
                    stream = EventStream(response, reader, self._timeouts.idle_s, self.refusal, choices)
                    try:
                        await stream.prime(limit, latest_s)
                    except OddAnswer as e:
                        raise e if declared or not reader.failure else self._unexpected(response, "events") from None
                except BaseException:
                    response.close()
                    raise
                return stream
        except (TimeoutError, aiohttp.ClientError, OSError) as e:
            self._raise_connection(e)

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None, *, deadline_s: float | None = None
    ) -> bytes:
        """Send `body` and return the body of the whole answer."""
        latest_s = math.inf if deadline_s is None else deadline_s
        try:
            async with asyncio.timeout(self._first_byte_s(latest_s)) as limit:
                response = await self._send(path, body, headers)
                try:
                    await self._check(response)
                    answer = await self._read(response, _MOST_ANSWER_BYTES, limit, latest_s)
                    json = "json" in response.headers.get("content-type", "").lower()
                    if not json and not answer.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
                        raise self._unexpected(response, "JSON")
                    return answer
                except BaseException:
                    response.close()
                    raise
        except (TimeoutError, aiohttp.ClientError, OSError) as e:
            self._raise_connection(e)

    async def get(self, path: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of a GET of `path`, whatever the status. Raises UpstreamError without an answer."""
        assert isinstance(self._session, aiohttp.ClientSession)
        url = URL(self.base_url + path + self._query)
        try:
            async with (
                asyncio.timeout(self._timeouts.first_byte_s),
                self._session.get(
                    url, headers=self._headers, timeout=self._http_timeout, allow_redirects=False
                ) as response,
            ):
                return response.status, response.headers, await self._read(response, _MOST_ERROR_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError) as e:
            self._raise_connection(e)

    async def fault(self, path: str) -> str | None:
        """Why a GET of `path` is not answered, in a few words without the address; None if it is.

        A refusal is an answer: not one of the key, or of a server that is overloaded or away. For other servers than
        replicas.
        """
        assert isinstance(self._session, aiohttp.ClientSession)
        try:
            url = URL(self.base_url + path + self._query)
            async with self._session.get(url, headers=self._headers, allow_redirects=False) as response:
                status = response.status
        except (aiohttp.ClientConnectorError, ConnectionRefusedError):
            return "cannot be reached"
        except (aiohttp.ClientError, OSError):
            return "closes the connection"
        if status in _KEY_REFUSED:
            return f"refuses the key (status {status})"
        if status < HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.NOT_IMPLEMENTED:
            return None
        return f"answers with status {status}"

    def failure(self, message: str, kind: type[UpstreamError] = OddAnswer) -> UpstreamError:
        """An UpstreamError with the address as a note."""
        error = kind(message)
        error.add_note(f"upstream {self.base_url}")
        return error

    def refusal(self, error: JethroError) -> JethroError:
        """The error with the address as a note and none of our header values in its message."""
        for secret in self._secrets:
            error = redacted(error, secret)
        error.add_note(f"upstream {self.base_url}")
        return error

    def _first_byte_s(self, latest_s: float) -> float:
        """Seconds to the first byte."""
        return min(self._timeouts.first_byte_s, latest_s - asyncio.get_running_loop().time())

    async def _send(self, path: str, body: bytes, headers: Mapping[str, str] | None) -> Response:
        url = self._urls.get(path) or self._urls.setdefault(path, URL(self.base_url + path + self._query))
        return await self._session.post(
            url,
            data=body,
            headers={**self._headers, **headers} if headers else self._headers,
            timeout=self._http_timeout,
            allow_redirects=False,
        )

    async def _check(self, response: Response) -> None:
        """Raise for an answer that is none: an error, a redirect, or a body that cannot be decoded."""
        if response.status >= 400:
            raise await self._refusal(response)
        if response.status in _REDIRECTS:
            raise self.failure(
                f"the upstream answered with a redirect (status {response.status}), which is not followed"
            )
        if response.status >= 300:
            raise self.failure(f"the upstream answered with status {response.status}, which is no answer")
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in _DECODED:
            raise self.failure(f"the upstream sent a body compressed by {encoding[:40]}, which was not requested")

    async def _refusal(self, response: Response) -> JethroError:
        """The error of an answer. Without a readable body the status decides."""
        try:
            body = await self._read(response, _MOST_ERROR_BYTES)
        except (UpstreamError, aiohttp.ClientError, OSError):
            body = b""
        return self.refusal(error_of_answer(response.status, response.headers, body))

    async def _read(
        self, response: Response, most: int, limit: asyncio.Timeout | None = None, latest_s: float = math.inf
    ) -> bytes:
        """The body; each piece extends `limit`, since some send blank lines while the model works."""
        body, begun = bytearray(), False
        while True:
            part = await response.content.readany()
            if not part:
                return bytes(body)
            body += part
            begun = begun or not part.isspace()
            if limit is not None:
                extend(limit, self._timeouts.idle_s, latest_s, begun=begun)
            if len(body) > most:
                raise self.failure(f"the upstream's answer is larger than {most} bytes")

    def _unexpected(self, response: Response, expected: str) -> UpstreamError:
        got = response.headers.get("content-type", "") or "no content type"
        return self.failure(
            f"the upstream answered with status {response.status} and {got[:100]} where {expected} was expected"
        )

    def _raise_connection(self, cause: Exception) -> NoReturn:
        if isinstance(cause, aiohttp.ServerTimeoutError):
            late = f"the upstream took no connection within {self._timeouts.connect_s:g} s"
            raise self.failure(late, NoConnection) from cause
        if isinstance(cause, TimeoutError):
            late = f"the upstream did not answer within {self._timeouts.first_byte_s:g} s"
            raise self.failure(late, SlowUpstream) from cause
        if isinstance(cause, aiohttp.ClientConnectorError | ConnectionRefusedError):
            raise self.failure("the upstream cannot be reached", NoConnection) from cause
        if isinstance(cause, aiohttp.ClientHttpProxyError):
            raise self.failure(f"the proxy refused the connection (status {cause.status})") from cause
        if isinstance(cause, aiohttp.ClientResponseError) and "content-encoding" in cause.message:
            raise self.failure("the upstream sent a compressed body, which was not requested") from cause
        if isinstance(cause, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
            raise self.failure("the upstream sent an answer that is cut short or not valid HTTP") from cause
        raise self.failure("the upstream closed the connection before it answered", LostConnection) from cause
