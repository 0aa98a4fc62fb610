"""One keep-alive HTTP/1.1 connection for measuring: raw bytes out, time-stamped events in.

It follows no redirects, decodes no compression and retries nothing: what the server did is what is recorded.
"""

import asyncio
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Self
from urllib.parse import urlsplit

import httptools

from benchmarks.sse import SseParser


@dataclass(slots=True)
class Reply:
    """What came back. `complete` is false if the connection ended first; `status` is 0 if nothing came at all."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    events: list[tuple[float, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    first_byte_s: float | None = None
    end_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where to send: `Address.of("http://127.0.0.1:8000/v1")`."""

    host: str
    port: int
    tls: bool
    path: str

    @classmethod
    def of(cls, url: str) -> Self:
        """From a base URL. Raises ValueError if it is not http or https with a host."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"URL {url!r}: write http://host:port or https://host")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        """A POST of JSON as the bytes that go on the wire."""
        lines = [f"POST {self.path}{path} HTTP/1.1", f"host: {self.host}:{self.port}", "content-type: application/json"]
        lines += [f"content-length: {len(body)}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def get(self, path: str) -> bytes:
        """A GET as the bytes that go on the wire."""
        return f"GET {self.path}{path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n\r\n".encode()


class Connection(asyncio.Protocol):
    """Use `open`, then one `exchange` at a time while `usable`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[Reply] | None = None
        self._reply = Reply()
        self._parts: list[bytes] = []
        self.usable = False

    @classmethod
    async def open(cls, address: Address, timeout_s: float = 10.0) -> Self:
        """Connect. Raises OSError or TimeoutError."""
        loop = asyncio.get_running_loop()
        tls: Any = True if address.tls else None
        async with asyncio.timeout(timeout_s):
            _, connection = await loop.create_connection(cls, address.host, address.port, ssl=tls)
        return connection

    async def exchange(self, request: bytes, timeout_s: float) -> Reply:
        """Send, and wait for the whole answer or the end of the connection. Raises TimeoutError; then it is closed."""
        if self._transport is None or not self.usable:
            raise ConnectionError("the connection is closed: open another")
        self._reply, self._sse = Reply(), SseParser()
        self._parser = httptools.HttpResponseParser(self)
        self._is_sse, self._parts = False, []
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._done
        except BaseException:
            self.close()
            raise

    def partial(self) -> Reply:
        """The answer as far as it has come."""
        return self._reply

    def close(self) -> None:
        """Close; idempotent."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        self._transport = transport  # type: ignore[assignment]
        self.usable = True

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came; this is the time that their events get."""
        self._now = perf_counter()
        if self._done is None or self._done.done():
            self.close()
            return
        if self._reply.first_byte_s is None:
            self._reply.first_byte_s = self._now
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone; an open exchange ends incomplete."""
        self.usable = False
        self._finish(perf_counter())

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: one header."""
        self._reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """httptools: status and headers are whole."""
        self._reply.status = self._parser.get_status_code()
        self._is_sse = self._reply.headers.get("content-type", "").startswith("text/event-stream")

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        if self._is_sse:
            self._reply.events += [(self._now, event) for event in self._sse.feed(data)]
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        """httptools: the answer is whole."""
        self._reply.complete = True
        self.usable = self.usable and self._parser.should_keep_alive()
        self._finish(self._now)

    def _finish(self, now: float) -> None:
        if self._done is not None and not self._done.done():
            self._reply.end_s = now
            self._reply.body = b"".join(self._parts)
            self._done.set_result(self._reply)
