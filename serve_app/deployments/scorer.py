"""ScorerReplica: routers too heavy for the Gateway. A thin shell: the work is in routing/serving/scoring_service.py."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.config import Config
from serve_app.deployments.listeners import bind_to_node
from serve_app.errors import ConfigError, replica_reply
from serve_app.observability.process_log import log_to_stderr
from serve_app.routing.registry import Registry
from serve_app.routing.serving.loading import RouterFactory
from serve_app.routing.serving.scoring_service import ScoringService


class ScorerReplica:
    """Loads requested routers and scores with them."""

    async def __init__(self, config: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        tree = Config.model_validate(config)
        log_to_stderr(tree.log.level, serve.get_replica_context().replica_id.unique_id)
        bind_to_node()
        registry = Registry(Path(tree.routing.registry), tree.routing.seed)
        here = {"score_threads": tree.scorer.threads, "score_batch": tree.scorer.batch}
        self._service = ScoringService(registry, RouterFactory(tree.routing.model_copy(update=here), registry))
        await self._service.start(tree)

    async def score(self, source: str, version: str, text: str) -> float:
        """See ScoringService."""
        return await self._service.score(source, version, text)

    async def explain(self, source: str, version: str, text: str) -> dict[str, float]:
        """See ScoringService."""
        return dict(await self._service.explain(source, version, text))

    async def prepare(self, source: str, version: str) -> str | None:
        """Load a router; returns None, or the reason why it cannot be loaded."""
        try:
            await self._service.prepare(source, version)
        except ConfigError as e:
            return str(e)
        return None

    async def __del__(self) -> None:
        """End the scoring thread."""
        await self._service.aclose()


class ScorerHandle:
    """The `RemoteScorer` of a Gateway. Made in the event loop that the handle is used from."""

    def __init__(self, handle: DeploymentHandle, timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()

    async def score(self, source: str, version: str, text: str) -> float:
        """See RemoteScorer."""
        return float(await replica_reply(self._handle.score.remote(source, version, text)))

    async def explain(self, source: str, version: str, text: str) -> Mapping[str, float]:
        """See RemoteScorer."""
        explanation: dict[str, float] = await replica_reply(self._handle.explain.remote(source, version, text))
        return explanation

    def prepare(self, source: str, version: str) -> None:
        """See RemoteScorer: every replica loads the router, one at least must be there."""
        preparing = asyncio.run_coroutine_threadsafe(self._prepare(source, version), self._loop)
        try:
            refused = preparing.result(self._timeout_s)
        except TimeoutError:
            preparing.cancel()
            refused = [f"the Scorer did not load it within {self._timeout_s:g} s (scorer.start_timeout_s)"]
        except Exception as e:
            refused = [f"the Scorer failed: {type(e).__name__}: {e}"]
        if any(refused):
            raise ConfigError(f"router {source} {version}: {next(filter(None, refused))}")

    async def _prepare(self, source: str, version: str) -> list[str | None]:
        first = await replica_reply(self._handle.prepare.remote(source, version))  # waits until there is a replica
        return [first, *await self._handle.broadcast("prepare", source, version).results_async()]
