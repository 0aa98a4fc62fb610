"""Bodies that are not valid HTTP: what came before is read, at once, however TCP cut it."""

import asyncio
from time import monotonic

import aiohttp
import pytest

from serve_app.pools.client_session import client_session
from tests.pools.odd_upstreams import GOOD, HEL, LO, chunked, http
from tests.pools.outcomes import check, same_for_all_cuts
from tests.pools.test_odd_upstreams import CUT, EARLY, ODD

BROKE = "the upstream broke off inside the stream"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (chunked(HEL, ended=False) + b"zz\r\n", CUT | {"error": BROKE}),
        (chunked(HEL, ended=False) + b"5\r\nhello world\r\n", CUT | {"error": BROKE}),
        (chunked(b"", ended=False) + b"zz\r\n", ODD | {"error": BROKE}),
        (http(GOOD, Content_Length=str(len(HEL))), CUT | {"error": EARLY}),
        (http(LO + GOOD, Content_Length="abc"), ODD),
    ],
)
async def test_what_came_before_an_error_is_read_at_once(raw, expected):
    start_s = monotonic()
    check(await same_for_all_cuts(raw, True), expected)
    assert monotonic() - start_s < 20, "one timeout of the pool"


async def test_the_second_answer_of_a_connection_is_read_like_the_first():
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(chunked(HEL, ended=False) + b"zz\r\n")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with client_session() as session:
        async with session.get(url) as first:
            assert await first.read() == b"ok"
        async with session.get(url) as second:
            assert await second.content.readexactly(len(HEL)) == HEL
            with pytest.raises(aiohttp.ClientPayloadError):
                await second.read()
    assert len(connections) == 1
    connections[0].close()
    server.close()
