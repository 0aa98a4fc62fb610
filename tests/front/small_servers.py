"""A front with the real HAProxy and the configuration that Ray Serve writes, before a small server for a Gateway."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

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
    checked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the Gateway answers its checks."""
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
        """The pid that Serve sees; None while nobody answers, or the one that does is being replaced."""
        with contextlib.suppress(OSError):
            info = await command(self.socket, "show info")
            return next((int(line.split()[1]) for line in info.decode().splitlines() if line.startswith("Pid:")), None)
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
    port = free_port()
    made = Front(folder, free_port(), {"gateway": port})
    made.checked.set()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/-/healthz":
            await made.checked.wait()
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
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield made
    finally:
        sweep(folder)
        for process in made.started:
            await process.wait()
        await runner.cleanup()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ft", dir="/tmp"))
    try:
        yield folder
    finally:
        sweep(folder)
        shutil.rmtree(folder)


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
