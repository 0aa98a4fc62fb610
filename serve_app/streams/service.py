"""Streams in one Gateway: their names and strategies, changes requested by callers, and their figures."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serve_app.config.strategies import StreamsConfig
from serve_app.erasure import Selection
from serve_app.errors import JethroError, ModelNotFound, NotFound, PoolUnavailable
from serve_app.pools.base import Pool
from serve_app.streams.base import PREFIX, ActiveStream, BudgetChange, Core, LearnerPort, OnlineCore, StreamCreate
from serve_app.streams.event_queue import EventQueue, call_learner
from serve_app.streams.online.base import Episode
from serve_app.streams.policy_sync import PolicySync
from serve_app.streams.spec import check_budget, check_spec
from serve_app.streams.strategy import StreamStrategy

_CHANGE_S: Final = 30.0
"""Longest wait for the Learner to create, change or delete a stream."""
_INLINE: Final = ("logistic",)
"""Levels that take microseconds: they are computed on the event loop."""
_SPEC_FIELDS: Final = (
    *("labels", "instruction", "llm_pool", "mu", "llm_share", "horizon"),
    *("levels", "explore_floor", "audit_share", "objective", "seed"),
)
"""Fields of a spec that the API shows."""
logger = logging.getLogger("jethro.streams")


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream for the metrics; counts are the Learner's, over the stream's life."""

    uid: str
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
        """`source` identifies this process among all that ever ran."""
        self._port, self._pools, self._options, self._coin = port, pools, options, coin
        self._sync = PolicySync(port, core or OnlineCore(), options.poll_s, Path(options.folder))
        self._events = EventQueue(port, source, options.queue)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream-levels")
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Follow the Learner and send it events from now on."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._sync.follow()), loop.create_task(self._events.deliver())]

    async def aclose(self) -> None:
        """Send pending events, then stop. Idempotent."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._events.aclose()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def strategy(self, model: str) -> StreamStrategy:
        """The strategy of a name that begins with the prefix; an unknown stream is reported when it runs."""
        stream, text_chars = model.removeprefix(PREFIX), self._options.text_chars
        return StreamStrategy(stream, self._find, self._pool, self._act, self._events, text_chars)

    def names(self) -> Sequence[str]:
        """Streams that can be queried now."""
        return sorted(self._sync.active)

    def shown(self, model: str, tenant: str | None) -> bool:
        """Whether a tenant may see a model's name: any but that of another tenant's stream."""
        active = self._sync.active.get(model.removeprefix(PREFIX)) if model.startswith(PREFIX) else None
        return active is None or _owns(active.owner, tenant)

    async def create(self, request: StreamCreate) -> dict[str, Any]:
        """Create a stream; see StreamRegistry.create. Raises RequestError for a spec out of bounds."""
        check_spec(request.spec, self._options.labels, tuple(self._pools))
        await self._change(self._port.create(request))
        return self._described(request.spec.name, request.owner)

    async def budget(self, name: str, budget: BudgetChange, owner: str | None) -> dict[str, Any]:
        """Change a budget live. Raises NotFound, RequestError for one out of bounds."""
        check_budget(budget)
        await self._change(self._port.budget(name, budget, owner))
        return self._described(name, owner)

    async def delete(self, name: str, owner: str | None) -> None:
        """Delete a stream and what was learned. Raises NotFound."""
        await self._change(self._port.delete(name, owner))

    async def erase(self, selection: Selection, before_s: float) -> None:
        """Take texts out of the journals of all streams. Raises PoolUnavailable if the Learner does not answer."""
        try:
            await call_learner(self._port.erase(selection, before_s), _CHANGE_S)
        except JethroError:
            raise
        except Exception as e:
            logger.warning("the Learner did not take an erasure: %r", e)
            raise self._away() from e

    async def all(self, owner: str | None) -> list[dict[str, Any]]:
        """All streams of a caller, by name; while the Learner is away, as last known."""
        await self._sync.refresh()
        published = self._sync.published
        return [self._described(name, owner) for name in sorted(published) if _owns(published[name].owner, owner)]

    async def get(self, name: str, owner: str | None) -> dict[str, Any]:
        """One stream. Raises NotFound, or PoolUnavailable if it is unknown and the Learner is away."""
        await self._sync.refresh()
        if name not in self._sync.published and self._sync.away:
            raise self._away()
        return self._described(name, owner)

    def figures(self) -> list[StreamStatus]:
        """Each stream as last known, for the metrics."""
        published = self._sync.published.values()
        return [StreamStatus(p.uid, int(p.figures["version"]), p.figures) for p in published if p.figures]

    @property
    def waiting(self) -> int:
        """Events that the Learner does not have yet."""
        return self._events.waiting

    @property
    def away(self) -> bool:
        """Whether the Learner did not answer when last called."""
        return self._sync.away

    async def _find(self, name: str, tenant: str | None) -> ActiveStream:
        """The current stream; for an unknown one the Learner is queried, since another Gateway may have created it."""
        if (active := self._sync.active.get(name)) is None:
            await self._sync.refresh()
            active = self._sync.active.get(name)
        if active is not None and _owns(active.owner, tenant):
            return active
        if active is None and self._sync.away:
            raise self._away()
        published = self._sync.published.get(name)
        if published is not None and published.error and _owns(published.owner, tenant):
            raise PoolUnavailable(f"The stream {name!r} cannot be read: {published.error}", retry_after_s=30)
        raise ModelNotFound(
            f"The model {PREFIX + name[:60]!r} does not exist: create the stream with POST /v1/streams first.",
            param="model",
        )

    def _pool(self, name: str) -> Pool:
        pool = self._pools.get(name)
        if pool is None:  # it was one when the stream was created
            raise PoolUnavailable(
                f"The stream's LLM pool {name!r} is none of the pools now ({', '.join(self._pools)}): configure it, or "
                "create the stream again with reset.",
                retry_after_s=30,
            )
        return pool

    async def _act(self, stream: ActiveStream, text: str, llm: bool) -> Episode:
        """The policy's act; `llm`: the LLM can be called, so coins are drawn (see StreamPolicy)."""
        coins = [self._coin() for _ in range(1 + len(stream.spec.levels))] if llm else None
        if stream.spec.levels == _INLINE:
            return stream.policy.act(text, coins)
        return await asyncio.get_running_loop().run_in_executor(self._thread, stream.policy.act, text, coins)

    async def _change(self, call: Coroutine[Any, Any, None]) -> None:
        """A change at the Learner, then taken up here. Raises PoolUnavailable if the Learner does not answer."""
        try:
            await call_learner(call, _CHANGE_S)
        except JethroError:
            raise
        except Exception as e:
            logger.warning("the Learner did not take a change: %r", e)
            raise self._away() from e
        await self._sync.refresh_after_change()

    def _described(self, name: str, owner: str | None) -> dict[str, Any]:
        """A stream as the API shows it. Raises NotFound, also for another tenant's."""
        published, active = self._sync.published.get(name), self._sync.active.get(name)
        if published is None or not _owns(published.owner, owner):
            raise NotFound(f"No stream {name[:60]!r}.", param="name")
        shown: dict[str, Any] = {"id": name, "object": "stream", "model": PREFIX + name, "uid": published.uid}
        if active is not None:
            values = ((field, getattr(active.spec, field)) for field in _SPEC_FIELDS)
            shown |= {field: list(value) if isinstance(value, tuple) else value for field, value in values}
        state = "unreadable" if published.error else "learner away" if self._sync.away else "learning"
        return {**shown, "state": state, "error": published.error, "figures": dict(published.figures)}

    def _away(self) -> PoolUnavailable:
        return PoolUnavailable("The Learner does not answer now: try again.", retry_after_s=1)


def _owns(owner: str | None, tenant: str | None) -> bool:
    return owner is None or owner == tenant
