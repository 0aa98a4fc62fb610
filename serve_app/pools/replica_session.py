"""A minimal HTTP/1.1 client for replicas: plain TCP, keep-alive connections, one write per request.

It has the small part of aiohttp's session that `Upstream` uses, at about a third of the CPU, because the hop to the
replica is the largest part of a Gateway's work. The parser is httptools', as in uvicorn. Not for other servers: no TLS,
no redirects, no proxies, no compression.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, cast

import aiohttp
import httptools
from yarl import URL

_IDLE_S = 60.0  # well below the time after which a replica closes an idle connection
_MOST_BUFFERED = 256 * 1024
_MOST_IDLE = 1024


class ReplicaSession:
    """Connections by address. Must be used inside one event loop; `close` drops them all."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[_Connection]] = {}
        self._open: set[_Connection] = set()

    async def post(
        self,
        url: URL,
        *,
        data: bytes,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
        allow_redirects: bool = False,
    ) -> "ReplicaResponse":
        """Send a request and wait for the answer's head. Raises OSError when the connection fails or breaks."""
        request = _request(url, headers, data)
        host, port = url.host or "", url.port or 80
        connection = self._take((host, port)) or await self._connect(host, port, timeout.sock_connect)
        response = connection.begin(request)
        try:
            await response.head()
        except BaseException:
            response.close()
            raise
        return response

    async def close(self) -> None:
        """Drop every connection, those in use as well."""
        for connection in list(self._open):
            connection.transport.abort()
        self._idle.clear()

    def release(self, connection: "_Connection") -> None:
        """Keep a connection whose answer was read to its end."""
        idle = self._idle.setdefault(connection.address, [])
        if len(idle) < _MOST_IDLE:
            connection.idle_since = time.monotonic()
            idle.append(connection)
        else:
            connection.transport.abort()

    def lost(self, connection: "_Connection") -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        idle = self._idle.get(connection.address, [])
        if connection in idle:
            idle.remove(connection)
        if not idle:
            self._idle.pop(connection.address, None)

    def _take(self, address: tuple[str, int]) -> "_Connection | None":
        """The connection used last, so that surplus ones time out."""
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.transport.is_closing():
                continue
            if time.monotonic() - connection.idle_since < _IDLE_S:
                return connection
            connection.transport.abort()
        return None

    async def _connect(self, host: str, port: int, connect_s: float | None) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(connect_s):
                _, connection = await loop.create_connection(lambda: _Connection(self, (host, port)), host, port)
        except TimeoutError as e:
            raise aiohttp.ConnectionTimeoutError(f"no connection within {connect_s} s") from e
        self._open.add(connection)
        return connection


class _Connection(asyncio.Protocol):
    """One TCP connection; at most one response at a time."""

    transport: asyncio.Transport

    def __init__(self, session: ReplicaSession, address: tuple[str, int]) -> None:
        self.address = address
        self.idle_since = 0.0
        self._session = session
        self._response: ReplicaResponse | None = None
        self.parser: Any = None

    def begin(self, request: bytes) -> "ReplicaResponse":
        """Send a request; the response fills as bytes arrive."""
        self._response = ReplicaResponse(self)
        self.parser = httptools.HttpResponseParser(self._response)
        self.transport.write(request)
        return self._response

    def end(self, *, reusable: bool) -> None:
        """The response is complete or abandoned."""
        if self._response is None:
            return
        self._response = None
        if reusable and not self.transport.is_closing():
            self._session.release(self)
        else:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transport has the same interface

    def data_received(self, data: bytes) -> None:
        if self._response is None:
            self.transport.abort()  # a replica never speaks first
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as e:
            self._response.broke(ConnectionError(f"not HTTP: {e}"))
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._session.lost(self)
        if self._response is not None:
            self._response.broke(exc or ConnectionResetError("the replica closed the connection"))


class ReplicaResponse:
    """Status, headers (names in lower case) and body. `content` is the response itself, as a reader of the body."""

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._connection: _Connection | None = connection
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._has_head = self._whole = False
        self._paused = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content(self) -> "ReplicaResponse":
        """The body's reader."""
        return self

    async def head(self) -> None:
        """Wait for status and headers."""
        while not self._has_head:
            await self._wait()

    async def readany(self) -> bytes:
        """The bytes of the body that have arrived, at least one; empty at its end. Raises OSError if cut."""
        while not self._pieces:
            if self._whole:
                self.close()
                return b""
            await self._wait()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        if self._paused and self._connection is not None:
            self._paused = False
            self._connection.transport.resume_reading()
        if self._whole:
            self.close()
        return data

    def close(self) -> None:
        """Release the connection if the body is whole, else drop it. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:  # a connection with paused reading would miss its next answer
            connection.end(reusable=self._whole and self._error is None and not self._paused)

    def broke(self, error: BaseException) -> None:
        """The connection is gone."""
        if not self._whole:
            self._error = error
            self._wake()

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._connection is not None:
            self.status = self._connection.parser.get_status_code()
        self._has_head = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(body)
        self._buffered += len(body)
        if self._buffered > _MOST_BUFFERED and not self._paused and self._connection is not None:
            self._paused = True
            self._connection.transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._whole = True
        if self._connection is None or not self._connection.parser.should_keep_alive():
            self._error = ConnectionError("the replica closes the connection")
        self._wake()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None and not self._whole:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _request(url: URL, headers: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of a POST. Raises ValueError for a header that would end its line."""
    lines = [f"POST {url.raw_path_qs} HTTP/1.1\r\nhost: {url.host}:{url.port}\r\ncontent-length: {len(body)}\r\n"]
    for name, value in headers.items():
        if "\n" in value or "\r" in value:
            raise ValueError(f"header {name} holds a line break")
        lines.append(f"{name}: {value}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1") + body
