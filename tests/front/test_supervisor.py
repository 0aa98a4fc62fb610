"""The supervisor with the real HAProxy and the configuration that Ray Serve writes, in front of small servers."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from serve_app.front.control import drain
from serve_app.front.control import main as control
from serve_app.front.settings import FOLDER, PROOF_HEADER, FrontSettings, bundled_haproxy, private_folder, save
from serve_app.front.supervisor import command
from serve_app.front.sweep import sweep
from tests.integration.serving import free_port

TOKEN = "a-token"
_MANAGER = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


@dataclass
class Front:
    """Files of one endpoint's front, and the address that callers use."""

    folder: Path
    port: int
    gateways: dict[str, int]
    started: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket(self) -> Path:
        return self.folder / "s.sock"

    def write(self) -> Path:
        """Serve's own configuration, as its manager writes it."""
        servers = [ServerConfig(name, "127.0.0.1", port) for name, port in self.gateways.items()]
        fallback = ServerConfig("proxy", "127.0.0.1", 1)
        backend = BackendConfig("http-jethro", "/", servers=servers, fallback_server=fallback, app_name="jethro")
        config = HAProxyConfig(
            socket_path=str(self.socket),
            server_state_base=str(self.folder),
            server_state_file=str(self.folder / "state"),
            http_options=HTTPOptions(host="127.0.0.1", port=self.port),
            has_received_routes=True,
            has_received_servers=True,
            is_head=True,
        )
        backends = {"http-jethro": backend} if self.gateways else {}
        api = HAProxyApi(config, backends, str(self.folder / "serve.cfg"))
        api._generate_config_file_internal()
        return self.folder / "serve.cfg"

    async def start(self, *, manager: bool = False) -> asyncio.subprocess.Process:
        """A supervisor that has taken the public socket. `manager`: started by a process of its own, which is given."""
        command_line = [sys.executable, "-m", "serve_app.front.supervisor", "-db", "-f", str(self.write()), "-dR"]
        if manager:
            command_line = [sys.executable, "-c", _MANAGER, *command_line]
        before = await self.pid()
        process = await asyncio.create_subprocess_exec(*command_line, env=os.environ | {FOLDER: str(self.folder)})
        self.started.append(process)
        while (now := await self.pid()) in (before, None) or (now != process.pid and not manager):
            assert process.returncode is None
            await asyncio.sleep(0.02)
        return process

    async def pid(self) -> int | None:
        """The pid that Serve sees."""
        with contextlib.suppress(OSError):
            info = await command(self.socket, "show info")
            return next(int(line.split()[1]) for line in info.decode().splitlines() if line.startswith("Pid:"))
        return None

    async def haproxy(self) -> int:
        """The pid of HAProxy itself."""
        inner = json.loads(await command(self.socket, "jethro front"))["socket"]
        info = await command(inner, "show info")
        return next(int(line.split()[1]) for line in info.decode().splitlines() if line.startswith("Pid:"))


@pytest.fixture
async def front(tmp_path_factory) -> AsyncIterator[Front]:
    folder = private_folder(tmp_path_factory.mktemp("f"))
    save(FrontSettings(TOKEN, bundled_haproxy(), header_s=1.0, connections=100, share_per_source=0.5), folder)

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/-/healthz":
            return web.Response()
        if "wait" in request.query:
            await asyncio.sleep(1)
        response = web.StreamResponse(
            headers={
                "proof": request.headers.get(PROOF_HEADER, ""),
                "id": ",".join(request.headers.getall("x-request-id", [])),
                "unwatched": ",".join(request.headers.getall("x-request-disconnect-disabled", [])),
            }
        )
        await response.prepare(request)
        for _ in range(int(request.query.get("pieces", 1))):
            await response.write(b"piece")
            await asyncio.sleep(0.2)
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    made = Front(folder, free_port(), {"gateway": port})
    try:
        yield made
    finally:
        sweep(folder)
        for process in made.started:
            await process.wait()
        await runner.cleanup()


async def until_answered(front: Front, session: aiohttp.ClientSession) -> float:
    """Seconds until a request is answered."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    while loop.time() - start < 10:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(front.url) as response:
                if response.status == 200:
                    return loop.time() - start
        await asyncio.sleep(0.02)
    raise AssertionError("no answer in 10 s")


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
    for path in front.folder.rglob("*.sock*"):
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


async def test_draining_finishes_what_is_open_accepts_no_more_and_serve_sees_it_alive(front):
    supervisor = await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        async with session.get(front.url, params={"pieces": "10"}) as response:
            await command(front.socket, "jethro drain")
            await asyncio.sleep(0.2)
            with pytest.raises(aiohttp.ClientConnectionError):
                async with aiohttp.ClientSession() as late:
                    await late.get(front.url)
            assert await response.read() == b"piece" * 10
    while not json.loads(await command(front.socket, "jethro front"))["ended"]:
        await asyncio.sleep(0.05)
    assert await front.pid() == supervisor.pid
    supervisor.terminate()
    assert await supervisor.wait() == 0


async def test_a_draining_front_that_serve_replaces_accepts_nothing_and_waits_for_the_one_before(front):
    first = await front.start()
    # a connection that is kept alive would be held until it is idle for too long, or until its next request
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        await until_answered(front, session)
        async with session.get(front.url, params={"pieces": "30"}) as open_since:
            second = await front.start()  # the Gateways changed
            async with session.get(front.url, params={"pieces": "30"}) as response:
                draining = asyncio.create_task(drain(front.folder, 20))
                await asyncio.sleep(0.3)
                third = await front.start()  # they changed again
                with pytest.raises(aiohttp.ClientConnectionError):
                    async with aiohttp.ClientSession() as late:
                        await late.get(front.url)
                assert not draining.done()
                assert await open_since.read() == b"piece" * 30
                assert await first.wait() == 0 and not draining.done()
                assert await response.read() == b"piece" * 30
    assert await draining and await second.wait() == 0
    assert await front.pid() == third.pid
    third.terminate()
    assert await third.wait() == 0
    assert not [p.name for p in front.folder.iterdir() if p.suffix[1:].isdigit()]


async def test_a_drain_ends_after_its_time_and_says_so(front, capfd):
    await front.start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        await until_answered(front, session)
        async with session.get(front.url, params={"pieces": "10"}) as response:
            assert await asyncio.to_thread(control, [str(front.folder), "0.5", "--after", "0.2"]) == 0
            assert "open after 0.5 s" in capfd.readouterr().err
            assert await asyncio.to_thread(control, [str(front.folder), "20"]) == 0
            assert "open after" not in capfd.readouterr().err
            assert await response.read() == b"piece" * 10


def test_a_drain_where_nothing_was_started_has_nothing_to_do(tmp_path):
    assert control([str(tmp_path / "none"), "5"]) == 0


async def test_a_folder_that_others_can_write_in_is_refused_in_one_sentence(front, capfd):
    front.write()
    front.folder.chmod(0o777)
    command_line = ["-m", "serve_app.front.supervisor", "-db", "-f", str(front.folder / "serve.cfg"), "-dR"]
    refused = await asyncio.create_subprocess_exec(sys.executable, *command_line)
    assert await refused.wait() == 1
    assert capfd.readouterr().err.splitlines() == [
        f"{front.folder}: keys are kept there, so it must be a folder of yours that no other user can write in; "
        "remove it, or choose another"
    ]
    front.folder.chmod(0o755)  # as Serve makes it
    await front.start()
    assert stat.S_IMODE(front.folder.stat().st_mode) == 0o700


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
        assert len(refused) == 10
    finally:
        for connection in held:
            connection.close()


async def test_without_a_gateway_the_error_is_openais_and_no_proxy_stands_in(front):
    front.gateways = {"gateway": free_port()}
    await front.start()
    await asyncio.sleep(1)
    async with aiohttp.ClientSession() as session, session.get(front.url) as response:
        assert response.status == 503 and response.headers["retry-after"] == "1"
        assert (await response.json())["error"]["code"] == "pool_unavailable"
