"""A fake upstream for tests: a scripted HTTP server on localhost that may break any rule."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson


class Reset:
    """Step: drop the connection with a TCP reset."""


class Hold:
    """Step: say nothing more until the client goes."""


class Pause:
    """Step: say nothing for a twentieth of a second."""


Step = bytes | type[Reset] | type[Hold] | type[Pause]


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


def event(body: object) -> bytes:
    return b"data: " + (body if isinstance(body, bytes) else orjson.dumps(body)) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def head(status: int = 200, content_type: str = "text/event-stream", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", "transfer-encoding: chunked"]
    lines += [f"{k.replace('_', '-')}: {v}" for k, v in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


END = b"0\r\n\r\n"


def stream(*events: bytes) -> list[Step]:
    """A whole streamed answer, one HTTP chunk an event."""
    return [head(), *[piece(e) for e in events], piece(DONE), END]


def answer(body: object, status: int = 200, **headers: str) -> list[Step]:
    return [head(status, "application/json", **headers), piece(orjson.dumps(body)), END]


@dataclass
class FakeUpstream:
    """Answers the i-th request by the i-th script, and further ones by the last."""

    scripts: Sequence[Sequence[Step]]
    base_url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a connection has ended: with a script that holds, when the client goes, wherever the script is."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                for step in self.scripts[min(len(self.requests), len(self.scripts)) - 1]:
                    await self._do(step, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.left.set()
            writer.close()

    async def _do(self, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if step is Reset:
            writer.transport.abort()
            raise ConnectionResetError
        if step is Hold:
            await reader.read()
            raise ConnectionResetError
        if step is Pause:
            await asyncio.sleep(0.05)
            return
        assert isinstance(step, bytes)
        writer.write(step)
        await writer.drain()
        await asyncio.sleep(0)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        raw = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in raw[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(raw[0].split(" ")[1], headers, body)


@asynccontextmanager
async def fake_upstream(*scripts: Sequence[Step]) -> AsyncIterator[FakeUpstream]:
    upstream = FakeUpstream(scripts)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()


def unused_url() -> str:
    """An address where nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}/v1"
