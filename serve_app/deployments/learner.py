"""LearnerReplica: the one owner of all streams. A thin shell: the work is in streams/registry.py."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.config import Config
from serve_app.deployments.listeners import bind_to_node
from serve_app.erasure import Selection
from serve_app.errors import JethroError, replica_reply
from serve_app.observability.process_log import log_to_stderr
from serve_app.streams.base import BudgetChange, OnlineCore, Published, StreamCreate
from serve_app.streams.registry import LocalLearner, RegistryOptions
from serve_app.unrecorded import note_content


class LearnerReplica:
    """Loads the streams of its folder, learns, and publishes."""

    async def __init__(self, config: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        tree = Config.model_validate(config)
        log_to_stderr(tree.log.level, serve.get_replica_context().replica_id.unique_id, content=tree.log.content)
        bind_to_node()
        options = tree.streams
        registry = RegistryOptions(
            Path(options.folder), options.most, options.checkpoint_events, options.most_per_tenant, tree.store.keep_days
        )
        note_content()  # its folder holds texts that it learns from
        self._learner = await asyncio.to_thread(LocalLearner, registry, OnlineCore())

    async def published(self, known: Mapping[str, str]) -> Mapping[str, Published]:
        """See LearnerPort."""
        return await self._learner.published(known)

    async def call(self, name: str, *args: Any) -> JethroError | None:
        """A call of LearnerPort without a result; its error as a value, since Ray would wrap it."""
        try:
            await getattr(self._learner, name)(*args)
        except JethroError as e:
            return e
        return None

    async def __del__(self) -> None:
        """Write checkpoints and free the folder."""
        await self._learner.aclose()


class LearnerHandle:
    """The Learner as Gateways know it (`LearnerPort`)."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def report(self, batch: bytes) -> None:
        """See LearnerPort."""
        await self._call("report", batch)

    async def published(self, known: Mapping[str, str]) -> Mapping[str, Published]:
        """See LearnerPort."""
        published: Mapping[str, Published] = await replica_reply(self._handle.published.remote(known))
        return published

    async def create(self, request: StreamCreate) -> None:
        """See LearnerPort."""
        await self._call("create", request)

    async def budget(self, name: str, budget: BudgetChange, owner: str | None = None) -> None:
        """See LearnerPort."""
        await self._call("budget", name, budget, owner)

    async def delete(self, name: str, owner: str | None = None) -> None:
        """See LearnerPort."""
        await self._call("delete", name, owner)

    async def erase(self, selection: Selection, before_s: float) -> None:
        """See LearnerPort."""
        await self._call("erase", selection, before_s)

    async def _call(self, name: str, *args: Any) -> None:
        error: JethroError | None = await replica_reply(self._handle.call.remote(name, *args))
        if error is not None:
            raise error
