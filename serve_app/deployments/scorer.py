"""ScorerReplica: routers, rankers and fusers too heavy for the Gateway.

A thin shell: the work is in routing/serving/scoring_service.py and ensemble/serving/model_loading.py.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.config import Config
from serve_app.deployments.listeners import bind_to_node
from serve_app.ensemble.base import Fused
from serve_app.ensemble.serving.model_loading import ModelKind, ModelThreads
from serve_app.errors import ConfigError, DependencyError, replica_reply
from serve_app.observability.process_log import log_to_stderr
from serve_app.routing.registry import Registry
from serve_app.routing.serving.loading import RouterFactory, limit_torch_threads
from serve_app.routing.serving.scoring_service import ScoringService
from serve_app.unrecorded import note_content


class ScorerReplica:
    """Loads requested routers, rankers and fusers, and scores, ranks and fuses with them."""

    async def __init__(self, config: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        tree = Config.model_validate(config)
        log_to_stderr(tree.log.level, serve.get_replica_context().replica_id.unique_id, content=tree.log.content)
        bind_to_node()
        registry = Registry(Path(tree.routing.registry), tree.routing.seed)
        here = {"score_threads": tree.scorer.threads, "score_batch": tree.scorer.batch}
        self._service = ScoringService(registry, RouterFactory(tree.routing.model_copy(update=here), registry))
        self._models = ModelThreads(tree.scorer.batch, partial(limit_torch_threads, tree.scorer.threads))
        await self._service.start(tree)
        note_content()

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

    async def rank(
        self, folder: str, version: str, source: str, candidates: list[str], models: list[str]
    ) -> list[float]:
        """See RemoteModels."""
        return await self._models.rank(folder, version, source, candidates, models)

    async def fuse(self, folder: str, version: str, source: str, candidates: list[str]) -> dict[str, Any]:
        """See RemoteModels; as plain values."""
        return asdict(await self._models.fuse(folder, version, source, candidates))

    async def prepare_model(self, kind: ModelKind, folder: str) -> tuple[str | None, str]:
        """Load a ranker or a fuser; returns why it cannot be loaded, or None, and its version."""
        try:
            return None, await asyncio.to_thread(self._models.load, kind, folder)
        except (ConfigError, DependencyError) as e:
            return str(e), ""

    async def __del__(self) -> None:
        """End the threads."""
        await self._service.aclose()
        await asyncio.to_thread(self._models.close)


class ScorerHandle:
    """The `RemoteScorer` and the `RemoteModels` of a Gateway. Made in the event loop that the handle is used from."""

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
        refused = self._prepared("prepare", f"router {source} {version}", source, version)
        if any(refused):
            raise ConfigError(f"router {source} {version}: {next(filter(None, refused))}")

    async def rank(
        self, folder: str, version: str, source: str, candidates: Sequence[str], models: Sequence[str] = ()
    ) -> Sequence[float]:
        """See RemoteModels."""
        reply = self._handle.rank.remote(folder, version, source, list(candidates), list(models))
        scores: list[float] = await replica_reply(reply)
        return scores

    async def fuse(self, folder: str, version: str, source: str, candidates: Sequence[str]) -> Fused:
        """See RemoteModels."""
        body = await replica_reply(self._handle.fuse.remote(folder, version, source, list(candidates)))
        return Fused(body["text"], tuple(body["used"]), body["reason"])

    def prepare_model(self, kind: ModelKind, folder: str) -> str:
        """See RemoteModels: every replica loads it, one at least must be there."""
        loaded = self._prepared("prepare_model", f"{kind} {folder}", kind, folder)
        if refused := next((why for why, _ in loaded if why), None):
            raise ConfigError(refused)
        version: str = loaded[0][1]
        return version

    def _prepared(self, method: str, what: str, *arguments: str) -> list[Any]:
        """The replies of all replicas to a call that loads a model. Raises ConfigError naming `what`."""
        preparing = asyncio.run_coroutine_threadsafe(self._replies(method, *arguments), self._loop)
        try:
            return preparing.result(self._timeout_s)
        except TimeoutError:
            preparing.cancel()
            why = f"the Scorer did not load it within {self._timeout_s:g} s (scorer.start_timeout_s)"
        except Exception as e:
            why = f"the Scorer failed: {type(e).__name__}: {e}"
        raise ConfigError(f"{what}: {why}")

    async def _replies(self, method: str, *arguments: str) -> list[Any]:
        call = getattr(self._handle, method)
        first = await replica_reply(call.remote(*arguments))  # waits until there is a replica
        return [first, *await self._handle.broadcast(method, *arguments).results_async()]
