"""The Learner in this process: one thread that learns, and a loop that only reads what it published."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ParamSpec, TypeVar

from serve_app.cascade.streams.base import Budget, Core, Published, Wanted
from serve_app.cascade.streams.registry import Keeping, StreamRegistry

P = ParamSpec("P")
R = TypeVar("R")


class LocalLearner:
    """A LearnerPort over a registry of its own; to be closed."""

    def __init__(self, keeping: Keeping, core: Core) -> None:
        """Take up the streams, which takes its time. Raises ConfigError if the folder cannot be used."""
        self._registry = StreamRegistry(keeping, core)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learner")

    async def report(self, batch: bytes) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.report, batch)

    async def published(self, known: Mapping[str, str]) -> Mapping[str, Published]:
        """See LearnerPort. Does not wait for what is being learned."""
        told = self._registry.published
        return {n: replace(p, spec=None, policy=None) if known.get(n) == p.tag else p for n, p in told.items()}

    async def create(self, wanted: Wanted) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.create, wanted)

    async def budget(self, name: str, budget: Budget, owner: str | None = None) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.budget, name, budget, owner)

    async def delete(self, name: str, owner: str | None = None) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.delete, name, owner)

    async def aclose(self) -> None:
        """Finish what is being learned, write checkpoints, free the folder."""
        await self._in_thread(self._registry.close)
        self._thread.shutdown()

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))
