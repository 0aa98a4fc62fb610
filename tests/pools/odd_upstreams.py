"""Odd answers of upstreams as bytes of HTTP, and a server that plays them, cut as a test likes."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class ByteServer:
    """Answers every request with the pieces, then closes the connection. `pause_s`: between pieces."""

    pieces: Sequence[bytes]
    pause_s: float = 0.0
    url: str = ""
    tries: int = 0
    heads: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            self.tries += 1
            if length := re.search(rb"content-length: *(\d+)", head, re.IGNORECASE):
                await reader.readexactly(int(length[1]))
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(self.pause_s)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def playing(pieces: Sequence[bytes], pause_s: float = 0.0) -> AsyncIterator[ByteServer]:
    """A server of these pieces."""
    server = ByteServer(pieces, pause_s)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()


def cuts(data: bytes) -> dict[str, list[bytes]]:
    """The bytes whole, one by one, and cut after every blank line."""
    step = 1 + len(data) // 8000  # of a large header
    return {
        "whole": [data],
        "bytes": [data[i : i + step] for i in range(0, len(data), step)],
        "events": [piece for piece in re.split(rb"(?<=\n\n)|(?<=\r\r)|(?<=\n\r\n)", data) if piece],
    }


def http(body: bytes, content_type: str | None = "text/event-stream", status: int = 200, **headers: str) -> bytes:
    """A response whose body ends with the connection, so that the cuts are those of the body."""
    lines = [f"HTTP/1.1 {status} X", "Connection: close"]
    lines += [f"Content-Type: {content_type}"] if content_type else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def chunked(body: bytes, ended: bool = True) -> bytes:
    """A chunked response; not `ended`: cut before its last chunk."""
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in re.split(rb"(?<=\n\n)", body) if e)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + pieces + (b"0\r\n\r\n" if ended else b"")


def delta(content: bytes, finish: bytes = b"null", more: bytes = b"") -> bytes:
    """One event with this JSON as content."""
    return b'data: {"id":"u","choices":[{"index":0,"delta":{"content":%b},"finish_reason":%b}]%b}\n\n' % (
        content,
        finish,
        more,
    )


HEL, LO, STOP = delta(b'"Hel"'), delta(b'"lo"'), delta(b'""', b'"stop"')
DONE = b"data: [DONE]\n\n"


def usage(value: bytes) -> bytes:
    """The event of the usage."""
    return b'data: {"id":"u","choices":[],"usage":%b}\n\n' % value


USAGE = usage(b'{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}')
END = STOP + USAGE + DONE
GOOD = HEL + LO + END


def whole(content: bytes = b'"Hello"', more: bytes = b"", inside: bytes = b"") -> bytes:
    """A whole answer."""
    return (
        b'{"id":"u","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":%b},'
        b'"finish_reason":"stop"%b}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}%b}'
    ) % (content, inside, more)
