"""The supervisor with the real HAProxy and the configuration that Ray Serve writes, in front of small servers."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat

import aiohttp
import pytest

from serve_app.front.settings import PROOF_HEADER
from serve_app.front.supervisor import command
from tests.front.small_servers import TOKEN, Front, until_answered
from tests.integration.serving import free_port


async def test_requests_carry_the_proof_and_the_sockets_are_the_owners(front):
    await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        async with session.get(front.url, headers={PROOF_HEADER: "forged"}) as response:
            assert response.headers.getall("proof") == [TOKEN]
            assert response.headers["unwatched"] == "?1"  # Serve reads no body ahead of the Gateway
        for sent, passed in (
            ("mine-1", "mine-1"),
            ("a" * 128, "a" * 128),
            ("a" * 129, ""),
            ("two words", ""),
            ("é", ""),
        ):
            async with session.get(front.url, headers={"x-request-id": sent}) as response:
                assert response.headers["id"] == passed
    sockets = [path for path in front.folder.iterdir() if path.is_socket()]
    assert len(sockets) == 2
    for path in sockets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
async def test_a_haproxy_that_dies_or_hangs_is_replaced(front, number):
    supervisor = await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        before = await front.haproxy()
        os.kill(before, number)
        after = before
        while after == before:
            await asyncio.sleep(0.05)
            with contextlib.suppress(OSError, ValueError):
                after = await front.haproxy()
        await until_answered(front, session)
    assert await front.pid() == supervisor.pid


async def test_a_new_configuration_takes_over_and_what_is_open_is_finished(front):
    old = await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        async with session.get(front.url, params={"pieces": "10"}) as response:
            new = await front.start()
            for _ in range(20):  # no connection is refused in between
                async with session.get(front.url) as other:
                    assert other.status == 200
            assert await response.read() == b"piece" * 10
    assert await asyncio.wait_for(old.wait(), 10) == 0
    assert await front.pid() == new.pid


async def test_a_new_manager_finds_the_haproxy_of_a_supervisor_that_was_killed(front):
    old = await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        old.kill()
        await old.wait()
        async with session.get(front.url) as response:
            assert response.status == 200
        await front.start()
        async with session.get(front.url) as response:
            assert response.status == 200


async def supervisor(front: Front) -> int:
    """The pid of the process that looks after HAProxy."""
    pid: int = json.loads(await command(front.socket, "jethro front"))["pid"]
    return pid


async def test_a_supervisor_that_is_killed_is_started_again_and_no_request_notices(front):
    stem = await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        killed = await supervisor(front)
        async with session.get(front.url, params={"pieces": "10"}) as open_since:
            os.kill(killed, signal.SIGKILL)
            async with asyncio.timeout(10):
                while True:
                    async with session.get(front.url) as response:
                        assert response.status == 200
                    with contextlib.suppress(OSError, ValueError):
                        if await supervisor(front) != killed:
                            break
            assert await open_since.read() == b"piece" * 10
    assert await front.pid() == stem.pid


async def test_a_new_manager_that_knows_no_gateway_yet_keeps_those_of_the_one_that_was_killed(front):
    manager = await front.start(manager=True)
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        manager.kill()
        known, front.gateways = front.gateways, {}
        again = await front.start(manager=True)
        async with session.get(front.url) as response:
            assert response.status == 200
        os.kill(await supervisor(front), signal.SIGUSR1)  # as the new manager does when it knows them
        assert await again.wait() == 0
        front.gateways = known


async def test_without_an_application_there_is_nothing_to_keep(front):
    await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        front.gateways = {}
        await front.start()
        async with session.get(front.url) as response:
            assert response.status == 503


async def test_a_supervisor_that_was_stopped_while_another_took_its_place_ends(front):
    await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        stopped = await supervisor(front)
        os.kill(stopped, signal.SIGSTOP)
        await front.start()
        os.kill(stopped, signal.SIGCONT)
        async with asyncio.timeout(10):
            await front.started[0].wait()
        await until_answered(front, session)
    assert await supervisor(front) != stopped


async def said(front: Front, request: bytes, *, half_closed: bool = False) -> tuple[bytes, bytes]:
    """Status line and body of what is answered to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    try:
        writer.write(request)
        if half_closed:
            writer.write_eof()
        head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
        return head.splitlines()[0], body
    finally:
        writer.close()


async def test_a_slow_head_is_cut_off(front):
    await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
    status, _ = await said(front, b"GET / HTTP/1.1\r\nhost: x\r\n")
    assert b" 408 " in status


async def test_a_half_closed_caller_is_told_in_openais_form(front):
    await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
    status, body = await said(front, b"GET /?pieces=0&wait HTTP/1.1\r\nhost: x\r\n\r\n", half_closed=True)
    assert b" 400 " in status and json.loads(body)["error"]["type"] == "invalid_request_error"


def first_bytes(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    with contextlib.suppress(ConnectionError):
        return connection.recv(100)
    return b""


async def test_one_address_cannot_take_all_connections(front):
    await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
    held = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(60)]
    try:
        refused = [c for c in held if not await asyncio.to_thread(first_bytes, c)]  # the others were let in: 408
        assert len(refused) in (10, 11), "the caller's connection before these may still be counted"
    finally:
        for connection in held:
            connection.close()


async def test_the_only_gateway_is_called_though_it_is_too_busy_for_its_checks(front):
    await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        front.checked.clear()
        async with asyncio.timeout(20):
            while b"gateway,DOWN" not in await stats(front):
                async with session.get(front.url) as response:
                    assert response.status == 200
        for _ in range(5):
            async with session.get(front.url) as response:
                assert response.status == 200
        front.checked.set()


async def stats(front: Front) -> bytes:
    """Name and state of each server."""
    lines = (await command(front.socket, "show stat")).splitlines()
    column = lines[0].split(b",").index(b"status")
    return b"\n".join(b",".join((cells[1], cells[column])) for line in lines[1:] if (cells := line.split(b","))[1:])


async def test_without_a_gateway_the_error_is_openais_and_no_proxy_stands_in(front):
    front.gateways = {"gateway": free_port()}
    await front.start()
    await asyncio.sleep(1)
    async with aiohttp.ClientSession() as session, session.get(front.url) as response:
        assert response.status == 503 and response.headers["retry-after"] == "1"
        assert (await response.json())["error"]["code"] == "pool_unavailable"
