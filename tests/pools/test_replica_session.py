"""What only the lean client does; what it shares with aiohttp's session is in test_upstream.py."""

import asyncio
import socket

import aiohttp
import pytest
import uvloop
from yarl import URL

from serve_app.errors import UpstreamError
from serve_app.pools.replica_session import ReplicaSession
from serve_app.pools.upstream import Timeouts, Upstream
from tests.pools.upstream_server import END, FakeUpstream, Hold, Reset, answer, fake_upstream, head, piece

LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=5)


async def post(session: ReplicaSession, base_url: str, body: bytes = b"{}", **headers: str):
    return await session.post(URL(f"{base_url}/x"), data=body, headers=headers, timeout=LIMIT)


async def whole(response) -> bytes:
    body = b""
    while part := await response.content.readany():
        body += part
    return body


async def test_an_old_response_does_not_close_the_connection_of_a_new_one():
    session = ReplicaSession()
    async with fake_upstream(answer({"a": 1})) as server:
        old = await post(session, server.base_url)
        assert await whole(old) == b'{"a":1}'
        new = await post(session, server.base_url)
        old.close()
        assert await whole(new) == b'{"a":1}'
    assert server.connections == 1
    await session.close()


async def test_concurrent_requests_take_a_connection_each():
    session = ReplicaSession()
    async with fake_upstream(answer({})) as server:
        responses = await asyncio.gather(*(post(session, server.base_url) for _ in range(5)))
        assert [await whole(r) for r in responses] == [b"{}"] * 5
        assert server.connections == 5
        await whole(await post(session, server.base_url))
        assert server.connections == 5
    await session.close()


async def test_a_header_cannot_end_its_line():
    session = ReplicaSession()
    async with fake_upstream(answer({})) as server:
        with pytest.raises(ValueError, match="x-request-id"):
            await post(session, server.base_url, **{"x-request-id": "a\r\nauthorization: b"})
    await session.close()


async def test_a_reader_that_does_not_read_stops_the_sender():
    session = ReplicaSession()
    big = b"x" * 8_000_000
    async with fake_upstream([head(), piece(big), END]) as server:
        response = await post(session, server.base_url)
        await asyncio.sleep(0.2)
        assert response._buffered < 2_000_000
        assert await whole(response) == big
    await session.close()


async def test_a_long_answer_that_nobody_read_leaves_no_deaf_connection():
    session = ReplicaSession()
    async with fake_upstream([head(), piece(b"x" * 300_000), END], answer({"a": 1})) as server:
        unread = await post(session, server.base_url)
        while not unread._whole:
            await asyncio.sleep(0.001)
        unread.close()
        async with asyncio.timeout(5):
            assert await whole(await post(session, server.base_url)) == b'{"a":1}'
    await session.close()


async def test_nothing_is_kept_of_an_address_that_is_gone():
    session = ReplicaSession()
    async with fake_upstream(answer({}), [Reset]) as server:
        await whole(await post(session, server.base_url))
        with pytest.raises(OSError):
            await post(session, server.base_url)
    async with asyncio.timeout(5):
        while session._idle or session._open:
            await asyncio.sleep(0.001)


async def test_an_ipv6_address():
    session = ReplicaSession()
    try:
        server = await asyncio.start_server(FakeUpstream([answer({"a": 1})]).serve, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    port = server.sockets[0].getsockname()[1]
    assert await whole(await post(session, f"http://[::1]:{port}/v1")) == b'{"a":1}'
    await session.close()
    server.close()


async def test_no_connection_in_time_is_told_from_no_answer():
    session = ReplicaSession()
    with socket.socket() as deaf:  # its backlog is full, so a further connection is never taken
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with (
            socket.create_connection(deaf.getsockname()),
            pytest.raises(UpstreamError, match=r"no connection .* 0\.05"),
        ):
            upstream = Upstream(
                f"http://127.0.0.1:{deaf.getsockname()[1]}/v1", session=session, timeouts=Timeouts(connect_s=0.05)
            )
            await upstream.post("/x", b"{}")


async def test_a_cut_body_is_an_error_and_the_connection_is_not_kept():
    session = ReplicaSession()
    async with fake_upstream([head(), piece(b"data: 1\n\n"), Hold]) as server:
        response = await post(session, server.base_url)
        assert await response.content.readany() == b"data: 1\n\n"
        await session.close()
        with pytest.raises(OSError):
            await response.content.readany()


def test_it_runs_on_uvloop_as_in_production():
    async def run() -> bytes:
        session = ReplicaSession()
        async with fake_upstream(answer({"a": 1})) as server:
            body = await whole(await post(session, server.base_url))
        await session.close()
        return body

    assert uvloop.run(run()) == b'{"a":1}'
