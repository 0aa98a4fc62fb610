"""A real uvicorn in a thread, for what needs sockets: the official client, hanging up, slow readers."""

import asyncio
import contextlib
import inspect
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping

import uvicorn

from serve_app.api.app import build_app
from serve_app.config.pools import PoolConfig
from serve_app.engines.factory import build_engine
from serve_app.engines.local_pool import LocalPool
from serve_app.gateway.services import Services
from tests.api.fakes import services


@contextlib.contextmanager
def serving(make: Callable[[], Services | Awaitable[Services]]) -> Iterator[str]:
    """Serves the services made by `make` (in the server's thread and loop); gives the base URL and stops at the end."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    ready = threading.Event()
    servers: list[uvicorn.Server] = []

    async def run() -> None:
        made = make()
        parts = await made if inspect.isawaitable(made) else made
        await parts.start()
        config = uvicorn.Config(build_app(parts), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        servers.append(uvicorn.Server(config))
        ready.set()
        await servers[0].serve([sock])
        await parts.aclose()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert ready.wait(60)  # models may be loaded before
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        servers[0].should_exit = True
        thread.join(10)
        sock.close()
        assert not thread.is_alive()


async def embedded(keys: Mapping[str, str]) -> Services:
    """Services over the embedded models in this process; `keys`: key by tenant."""
    pools = {}
    for name in ("small", "large"):
        config = {"model": f"jlab-{name}", "engine": {"kind": "transformers", "path": f"lab:{name}"}}
        engine = build_engine(name, PoolConfig.model_validate(config))
        await engine.start()
        pools[name] = LocalPool(name, engine)
    return services(**pools, keys=dict(keys))  # type: ignore[arg-type]
