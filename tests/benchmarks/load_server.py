"""A scripted HTTP server for the client's tests: what it answers depends on the prompt."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-jethro-pool: small\r\ntransfer-encoding: chunked\r\n\r\n"
)
REFUSED = b'HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{"error":"x"}'


def event(text: str) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}) + b"\n\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}\n\n'
ANSWERS: dict[str, list[bytes]] = {
    "good": [HEAD, chunked(event("4")), chunked(event("2")), chunked(USAGE + b"data: [DONE]\n\n"), b"0\r\n\r\n"],
    "cut": [HEAD, chunked(event("4"))],
    "error": [HEAD, chunked(event("4") + b'data: {"error":{"message":"dead"}}\n\n'), b"0\r\n\r\n"],
    "unfinished": [HEAD, chunked(event("4")), b"0\r\n\r\n"],
    "refused": [REFUSED],
    "lost": [],
    "hang": [HEAD, chunked(event("4"))],
}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            prompt = orjson.loads(await reader.readexactly(length))["messages"][0]["content"]
            for piece in ANSWERS[prompt]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if prompt == "hang":
                await reader.read()
            if prompt in ("cut", "lost"):
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


@asynccontextmanager
async def scripted_server() -> AsyncIterator[str]:
    """URL of a server that answers by ANSWERS."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
