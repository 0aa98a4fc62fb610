"""PoolReplica: one Engine behind its own OpenAI-compatible port. A thin shell: the server is engines/app.py."""

import asyncio
import contextlib
import importlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from ray import serve
from ray.experimental import internal_kv

from serve_app.autoscaling.signals import FINISHED, IN_FLIGHT, QUEUED, SERVICE
from serve_app.config.adapters import AdaptersConfig
from serve_app.config.base import LogConfig
from serve_app.config.pools import PoolConfig
from serve_app.deployments.listeners import bind_to_node, listener, node_address
from serve_app.engines.app import build_replica_app
from serve_app.engines.base import Engine
from serve_app.observability.process_log import log_to_stderr
from serve_app.tracing.spans import Tracing

logger = logging.getLogger("jethro.deployments")

_SECRET_KEY = b"jethro:cluster-secret"
EngineFactory = Callable[[str, PoolConfig, AdaptersConfig], Engine]


def cluster_secret() -> str:
    """The secret between Gateways and replicas: made once per Ray cluster and kept in its key-value store.

    It is not an argument of the application, so that redeploying the same config restarts nothing and no dashboard
    shows it.
    """
    internal_kv._internal_kv_put(_SECRET_KEY, secrets.token_urlsafe(32).encode(), overwrite=False)
    value: bytes = internal_kv._internal_kv_get(_SECRET_KEY)
    return value.decode()


class PoolReplica:
    """Runs a pool's engine. Gateways find it through `describe` and talk to its port."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        name: str,
        pool: dict[str, Any],
        engine_factory: str,
        body_bytes: int,
        log: dict[str, Any] | None = None,
        adapters: dict[str, Any] | None = None,
    ) -> None:
        replica, logging_ = serve.get_replica_context().replica_id.unique_id, LogConfig.model_validate(log or {})
        log_to_stderr(logging_.level, replica, content=logging_.content)
        bind_to_node()
        config = PoolConfig.model_validate(pool)
        self._drain_s = config.drain_s
        module, _, function = engine_factory.partition(":")
        factory: EngineFactory = getattr(importlib.import_module(module), function)
        self._engine = factory(name, config, AdaptersConfig.model_validate(adapters or {}))
        await self._engine.start()
        self._app = build_replica_app(
            self._engine,
            secret=cluster_secret(),
            body_bytes=body_bytes,
            max_ongoing=config.max_ongoing_requests,
            max_queued=config.max_queued_requests,
        )
        self._tracing = self._app.tracing = Tracing.from_config(logging_, replica, replica=True)
        bound = listener(node_address())
        host, port = bound.getsockname()[:2]
        self._address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        self._server = _Server(
            uvicorn.Config(
                self._app, loop="none", http="httptools", lifespan="off", log_config=None, access_log=False,
                timeout_keep_alive=120, backlog=2048,
            )
        )  # fmt: skip
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([bound]))
        logger.info("pool %s: replica answers at %s", name, self._address)

    async def describe(self) -> dict[str, Any]:
        """Where the replica answers and how loaded it is: the fields of pools.directory.ReplicaReport."""
        admission = self._app.admission
        return {
            "address": self._address,
            "running": admission.open,
            "waiting": admission.queued,
            "draining": admission.draining,
            "pid": os.getpid(),
            "adapters": list(self._engine.health().adapters),
        }

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Requests here, those of them that wait, and the service time of earlier ones, for the policies."""
        admission = self._app.admission
        figures = {IN_FLIGHT: float(admission.open + admission.queued), QUEUED: float(admission.queued)}
        if admission.finished:
            figures |= {SERVICE: admission.service_s, FINISHED: float(admission.finished)}
        return figures

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        health = self._engine.health()
        if not health.ok:
            raise RuntimeError(f"engine is not healthy: {health.detail}")
        if self._serving.done():
            raise RuntimeError("the replica's HTTP server has stopped")

    async def __del__(self) -> None:
        """Drain: report it to Gateways, finish open requests, then stop."""
        await self._app.drain(self._drain_s)
        self._server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await self._serving
        await self._engine.aclose()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)


class _Server(uvicorn.Server):
    """uvicorn inside a Serve replica, where signals belong to Ray."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
