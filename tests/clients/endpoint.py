"""The endpoint that the clients call: embedded models, an upstream double, and a record of what was sent.

`small` and `large` are the embedded models, as the profile `lab` has them; the pool `double` is the upstream double,
reached over HTTP as any upstream is. In front of it all, a proxy keeps the bodies that a client sends.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from serve_app.config.engines import EncoderSettings, OpenAISettings
from serve_app.config.load import load
from serve_app.config.pools import PoolConfig
from serve_app.config.tree import Config
from serve_app.engines.app import build_replica_app
from serve_app.engines.base import Engine
from serve_app.engines.factory import build_engine
from serve_app.engines.local_pool import LocalPool
from serve_app.gateway.services import Services, build_services
from serve_app.pools.base import Pool
from serve_app.pools.directory import ReplicaReport
from serve_app.pools.factory import build_pool
from serve_app.types import Price
from tests.api.server import serving
from tests.clients.double import MODEL, running
from tests.clients.double import app as double

KEY = "a-key-of-the-tests"
KEY_ENV = "JETHRO_CLIENTS_KEY"
_HOP = {"host", "connection", "transfer-encoding", "keep-alive"}


@dataclass(frozen=True)
class Sent:
    """A request that a client made, and the status of its answer."""

    path: str
    body: bytes
    status: int


@dataclass
class Recorder:
    """A proxy that keeps what clients send through it."""

    target: str
    sent: list[Sent] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(
            routes=[Route("/{path:path}", self._pass, methods=["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"])],
            lifespan=self._opened,
        )

    @contextlib.asynccontextmanager
    async def _opened(self, app: Starlette) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.target, timeout=120, limits=limits, trust_env=False) as client:
            self._client = client
            yield

    async def _pass(self, request: Request) -> Response:
        body = await request.body()
        headers = [(k, v) for k, v in request.headers.raw if k.decode() not in _HOP]
        url = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        asked = self._client.build_request(request.method, url, headers=headers, content=body)
        answer = await self._client.send(asked, stream=True)
        if request.method == "POST":
            self.sent.append(Sent(request.url.path, body, answer.status_code))
        back = StreamingResponse(answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose))
        back.raw_headers = [(k.lower(), v) for k, v in answer.headers.raw if k.lower().decode() not in _HOP]
        return back


def tree(double_url: str, folder: Path) -> dict[str, Any]:
    """The profile `lab` with a key, a store of its own and the double as a third pool."""
    made = load("lab", env={}).model_dump(mode="json", exclude_unset=True)
    made["pools"]["double"] = {
        "model": MODEL,
        "engine": {"kind": "openai", "urls": [double_url], "guided": True, "tools": True},
    }
    embeds = made["pools"]["embed"]["model"]
    made["server"] = {"keys": [{"name": "clients", "env": KEY_ENV}], "model_aliases": {"embed": embeds}}
    made["store"] = {"path": str(folder / "jethro.sqlite3")}
    made["streams"] = {"enabled": False}
    made["log"] = {"access": False}
    return made


async def services(config: Config) -> Services:
    """The services of a config in this process, without Ray: engines run here, upstreams are called over HTTP."""
    pools: dict[str, Pool] = {}
    for name, pool in config.pools.items():
        if isinstance(pool.engine, OpenAISettings):
            pools[name] = build_pool(name, pool, cluster_secret="", timeout_s=60)
            continue
        engine = build_engine(name, pool)
        await engine.start()
        if isinstance(pool.engine, EncoderSettings):
            pools[name] = await embedding_pool(name, pool, engine)
            continue
        pools[name] = LocalPool(name, engine, Price(**pool.price.model_dump()))
    return build_services(config, pools)


async def embedding_pool(name: str, config: PoolConfig, engine: Engine) -> Pool:
    """A pool over one replica of an encoder, at a port of its own in this loop."""
    app = build_replica_app(engine, secret=KEY)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    _REPLICAS.add(asyncio.ensure_future(server.serve()))
    while not server.started:
        await asyncio.sleep(0.01)
    pool = build_pool(name, config, cluster_secret=KEY, timeout_s=60)
    port = server.servers[0].sockets[0].getsockname()[1]
    pool.directory.update([ReplicaReport(f"http://127.0.0.1:{port}/v1")])
    return pool


_REPLICAS: set[asyncio.Future[None]] = set()
"""Ended with their loop."""


@contextlib.contextmanager
def endpoint(folder: Path) -> Iterator[tuple[str, Recorder]]:
    """The endpoint's URL, without /v1, and the record of what is sent to it."""
    with running(double()) as upstream:
        config = Config.model_validate(tree(f"{upstream}/v1", folder))
        with serving(lambda: services(config)) as url:
            recorder = Recorder(url)
            with running(recorder.app()) as front:
                yield front, recorder


def replayed(sent: Sent, target: str) -> str | None:
    """Why a body that a client sent is refused when it is sent again; None if it is answered."""
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    answer = httpx.post(f"{target}{sent.path}", content=sent.body, headers=headers, timeout=120, trust_env=False)
    return None if answer.status_code == 200 else f"{answer.status_code}: {answer.text[:400]}"


def with_history(sent: Sent) -> bool:
    """Whether a body echoes an answer of ours: a message of the assistant, or an item of a response."""
    try:
        body = orjson.loads(sent.body)
    except orjson.JSONDecodeError:
        return False
    given = body.get("messages") or body.get("input")
    if not isinstance(given, list):
        return False
    return any(m.get("role") == "assistant" or m.get("type") == "function_call" for m in given if isinstance(m, dict))
