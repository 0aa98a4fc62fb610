"""Streams in one Gateway: their names and strategies, what callers change, and what is told of them."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serve_app.config.strategies import StreamsConfig
from serve_app.errors import JethroError, ModelNotFound, NotFound, PoolUnavailable
from serve_app.pools.base import Pool
from serve_app.streams.base import (
    PREFIX,
    ActiveStream,
    BudgetChange,
    Core,
    LearnerPort,
    OnlineCore,
    Published,
    StreamCreate,
)
from serve_app.streams.event_queue import EventQueue, call_learner
from serve_app.streams.online.base import Episode
from serve_app.streams.policy_sync import PolicySync
from serve_app.streams.spec import Bounds, check_budget, check_spec
from serve_app.streams.strategy import StreamStrategy, Surroundings

_CHANGE_S: Final = 30.0
"""Longest wait for the Learner to make, change or forget a stream."""
_INLINE: Final = ("logistic",)
"""Levels that take microseconds: they are computed where the query is."""
logger = logging.getLogger("jethro.streams")


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream for the metrics; counts are the Learner's, over the stream's life."""

    name: str
    version: int
    figures: Mapping[str, Any]


class Streams:
    """All streams, as one Gateway knows them. To be started in its event loop, and closed."""

    def __init__(
        self,
        port: LearnerPort,
        pools: Mapping[str, Pool],
        options: StreamsConfig,
        source: str,
        core: Core | None = None,
        coin: Callable[[], float] = random.random,
    ) -> None:
        """`source` names this process among all that ever ran."""
        self._port, self._pools, self._options = port, pools, options
        self._following = PolicySync(port, core or OnlineCore(), options.poll_s, Path(options.folder))
        self._outbox = EventQueue(port, source, options.queue)
        self._around = Surroundings(self._found, self._pool, self._act, self._outbox, options.text_chars, coin)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream-levels")
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Follow the Learner and send it events from now on."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._following.follow()), loop.create_task(self._outbox.deliver())]

    async def aclose(self) -> None:
        """Send what waits, then stop. Idempotent."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._outbox.aclose()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def strategy(self, model: str) -> StreamStrategy:
        """The strategy of a name that begins with the prefix; whether there is such a stream shows when it runs."""
        return StreamStrategy(model.removeprefix(PREFIX), self._around)

    def names(self) -> Sequence[str]:
        """Streams that can be asked now."""
        return sorted(self._following.acting)

    def shown(self, model: str, tenant: str | None) -> bool:
        """Whether a tenant may see a model's name: any but that of another tenant's stream."""
        acting = self._following.acting.get(model.removeprefix(PREFIX)) if model.startswith(PREFIX) else None
        return acting is None or _owns(acting.owner, tenant)

    async def create(self, wanted: StreamCreate) -> dict[str, Any]:
        """Make a stream; see StreamRegistry.create. Raises RequestError for a spec out of bounds."""
        check_spec(wanted.spec, Bounds(self._options.labels, tuple(self._pools)))
        await self._change(self._port.create(wanted))
        return self._told(wanted.spec.name, wanted.owner)

    async def budget(self, name: str, budget: BudgetChange, owner: str | None) -> dict[str, Any]:
        """Change a budget live. Raises NotFound, RequestError for one out of bounds."""
        check_budget(budget)
        await self._change(self._port.budget(name, budget, owner))
        return self._told(name, owner)

    async def delete(self, name: str, owner: str | None) -> None:
        """Forget a stream. Raises NotFound."""
        await self._change(self._port.delete(name, owner))

    async def all(self, owner: str | None) -> list[dict[str, Any]]:
        """All streams of a caller, by name; while the Learner is away, as they were last known."""
        await self._following.look()
        told = self._following.told
        return [self._told(name, owner) for name in sorted(told) if _owns(told[name].owner, owner)]

    async def get(self, name: str, owner: str | None) -> dict[str, Any]:
        """One stream. Raises NotFound, or PoolUnavailable if it is unknown and the Learner is away."""
        await self._following.look()
        if name not in self._following.told and self._following.away:
            raise self._away()
        return self._told(name, owner)

    def figures(self) -> list[StreamStatus]:
        """Each stream as last known, for the metrics."""
        told = self._following.told
        return [StreamStatus(name, int(p.figures["version"]), p.figures) for name, p in told.items() if p.figures]

    @property
    def waiting(self) -> int:
        """Events that the Learner does not have yet."""
        return self._outbox.waiting

    @property
    def away(self) -> bool:
        """Whether the Learner did not answer when last asked."""
        return self._following.away

    async def _found(self, name: str, tenant: str | None) -> ActiveStream:
        """The stream as it is now; one that another Gateway has just made is asked for."""
        acting = self._following.acting.get(name)
        if acting is None:
            await self._following.look()
            acting = self._following.acting.get(name)
        if acting is not None and _owns(acting.owner, tenant):
            return acting
        if acting is None and self._following.away:
            raise self._away()
        told = self._following.told.get(name)
        if told is not None and told.error and _owns(told.owner, tenant):
            raise PoolUnavailable(f"The stream {name!r} cannot be read: {told.error}", retry_after_s=30)
        raise ModelNotFound(
            f"The model {PREFIX + name[:60]!r} does not exist: make the stream by POST /v1/streams first.",
            param="model",
        )

    def _pool(self, name: str) -> Pool:
        pool = self._pools.get(name)
        if pool is None:  # it was one when the stream was made
            raise PoolUnavailable(
                f"The stream's LLM pool {name!r} is none of the pools now ({', '.join(self._pools)}): configure it, or "
                "create the stream again with reset.",
                retry_after_s=30,
            )
        return pool

    async def _act(self, acting: ActiveStream, text: str, coins: list[float] | None) -> Episode:
        if acting.spec.levels == _INLINE:
            return acting.policy.act(text, coins)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, acting.policy.act, text, coins)

    async def _change(self, call: Coroutine[Any, Any, None]) -> None:
        """A change at the Learner, taken up here. Raises PoolUnavailable if the Learner does not answer."""
        try:
            await call_learner(call, _CHANGE_S)
        except JethroError:
            raise
        except Exception as e:
            logger.warning("the Learner did not take a change: %r", e)
            raise self._away() from e
        await self._following.changed()

    def _told(self, name: str, owner: str | None) -> dict[str, Any]:
        published = self._following.told.get(name)
        if published is None or not _owns(published.owner, owner):
            raise NotFound(f"No stream {name[:60]!r}.", param="name")
        return describe(name, published, self._following.acting.get(name), away=self._following.away)

    def _away(self) -> PoolUnavailable:
        return PoolUnavailable("The Learner does not answer now: try again.", retry_after_s=1)


def describe(name: str, published: Published, acting: ActiveStream | None, *, away: bool) -> dict[str, Any]:
    """A stream as the API tells of it."""
    told: dict[str, Any] = {"id": name, "object": "stream", "model": PREFIX + name}
    if acting is not None:
        spec = acting.spec
        told |= {
            "labels": list(spec.labels),
            "instruction": spec.instruction,
            "llm_pool": spec.llm_pool,
            "mu": spec.mu,
            "llm_share": spec.llm_share,
            "horizon": spec.horizon,
            "levels": list(spec.levels),
            "explore_floor": spec.explore_floor,
            "audit_share": spec.audit_share,
            "seed": spec.seed,
        }
    state = "unreadable" if published.error else "learner away" if away else "learning"
    return {**told, "state": state, "error": published.error, "figures": dict(published.figures)}


def _owns(owner: str | None, tenant: str | None) -> bool:
    return owner is None or owner == tenant
