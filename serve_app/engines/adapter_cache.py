"""The adapters that one engine holds in memory: loaded on demand, shared by requests, the least recently used one out.

An adapter in use is never evicted. Where every place is in use, requests for further adapters wait in the order in
which they came; for them the least recently used adapters take no new requests, so that a popular set of adapters
cannot keep the others out for ever.

Everything here runs on the event loop; loading itself is the engine's, in a thread or in another process.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Generic, TypeVar

from serve_app.adapters.base_model import BaseModel
from serve_app.adapters.card import AdapterCard
from serve_app.adapters.registry import AdapterRegistry, follow_registry
from serve_app.config.adapters import AdapterCacheConfig
from serve_app.engines.adapter_figures import AdapterFigures
from serve_app.errors import InvalidAdapter, JethroError, ModelNotFound, Overloaded

logger = logging.getLogger("jethro.engines")

T = TypeVar("T")
Key = tuple[str, str]
"""Name and version: a replaced adapter is another one, and both are held while requests use the old one."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class AdapterHost(Generic[T]):
    """How an engine loads adapters. `bytes_of`: memory that one takes; `max_rank`: the engine's own, None: no bound.

    `unload` frees one where dropping the last reference does not.
    """

    load: Callable[[AdapterCard], Awaitable[T]]
    bytes_of: Callable[[AdapterCard], int]
    max_rank: int | None = None
    unload: Callable[[T], Awaitable[None]] | None = None


@dataclass(eq=False)
class _Entry(Generic[T]):
    """One adapter in memory or on its way. `leaving`: it takes no new requests, and goes after its last one."""

    card: AdapterCard
    cost: int
    ready: "asyncio.Future[T]"
    users: int = 0
    leaving: bool = False
    outdated: bool = False
    """Replaced or removed in the registry."""

    @property
    def loaded(self) -> bool:
        return self.ready.done() and not self.ready.cancelled() and self.ready.exception() is None


@dataclass(eq=False)
class _Waiter(Generic[T]):
    card: AdapterCard
    place: "asyncio.Future[_Entry[T]]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class AdapterCache(Generic[T]):
    """The adapters of `registry` that belong to `base`, as `host` loads them. Use it within one event loop."""

    def __init__(
        self,
        registry: AdapterRegistry,
        settings: AdapterCacheConfig,
        base: BaseModel,
        host: AdapterHost[T],
        *,
        figures: AdapterFigures,
        max_waiting: int = 256,
    ) -> None:
        self._registry, self._settings, self._base = registry, settings, base
        self._host, self._figures, self._max_waiting = host, figures, max_waiting
        self._sha256: str | None = None
        self._shapes: Mapping[str, tuple[int, int]] | None = None
        self._entries: OrderedDict[Key, _Entry[T]] = OrderedDict()
        """The least recently used one first."""
        self._waiting: deque[_Waiter[T]] = deque()
        self._known: Mapping[str, AdapterCard] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unloading: set[asyncio.Task[None]] = set()

    def names(self) -> tuple[str, ...]:
        """The adapters in memory that take requests."""
        return tuple(e.card.name for e in self._entries.values() if e.loaded and not e.leaving)

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncGenerator[T]:
        """The adapter of that name, kept in memory within the block.

        Raises ModelNotFound for an unknown name, InvalidAdapter for one that cannot be loaded here, Overloaded if too
        many requests wait for a place.
        """
        entry, value = await self._acquire(name)
        try:
            yield value
        finally:
            self._release(entry)

    async def follow(self) -> None:
        """Look at the registry until cancelled: drop what was removed or replaced, load what is pinned."""
        await follow_registry(self.look, self._registry.settings.reload_s, logger)

    async def look(self) -> None:
        """One look at the registry."""
        self._known = await asyncio.to_thread(self._registry.all)
        if self._known and self._sha256 is None:
            self._sha256 = await asyncio.to_thread(lambda: self._base.sha256)
        for key, entry in list(self._entries.items()):
            current = self._known.get(entry.card.name)
            if current is None or current.version != key[1]:
                entry.leaving = entry.outdated = True
                self._drop_unused(entry)
        self._serve_waiting()
        for name in self._pinned():
            card = self._known[name]
            if (name, card.version) not in self._entries:
                self._begin(self._preload(name))

    async def aclose(self) -> None:
        """End what loads or waits."""
        for waiter in self._waiting:
            waiter.place.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._unloading, return_exceptions=True)

    async def _preload(self, name: str) -> None:
        try:
            async with self.lease(name):
                pass
        except JethroError as e:
            logger.error("the pinned adapter %s is not loaded: %s", name, e)

    def _pinned(self) -> list[str]:
        """Pinned adapters of this base, by the config or in the registry. More than fit are not all kept."""
        fitting = [n for n, card in self._known.items() if card.pinned and self._ours(card)]
        named = [n for n in self._settings.pinned if n in self._known]
        return list(dict.fromkeys([*named, *fitting]))[: self._settings.max_loaded]

    def _ours(self, card: AdapterCard) -> bool:
        return card.about.base_sha256 == self._sha256

    def _kept(self, entry: _Entry[T]) -> bool:
        pinned = entry.card.name in self._settings.pinned or self._known.get(entry.card.name, entry.card).pinned
        return pinned and not entry.outdated

    async def _acquire(self, name: str) -> tuple[_Entry[T], T]:
        """The entry, with this request among its users, and the adapter."""
        while True:
            card = await self._find(name)
            try:
                if (card.name, card.version) not in self._entries:
                    await asyncio.to_thread(self._check, card)
                self._check_fits(card)
                known = self._entries.get((card.name, card.version))
                hit = known is not None and known.loaded and not known.leaving
                entry = await self._take(card)
                try:
                    value = await asyncio.shield(entry.ready)
                except BaseException:
                    self._release(entry)
                    raise
            except InvalidAdapter:
                if not await self._changed(card):
                    raise
            else:
                self._figures.used(hit=hit)
                return entry, value

    async def _find(self, name: str) -> AdapterCard:
        card = self._known.get(name)
        if card is None and (card := await asyncio.to_thread(self._registry.find, name)) is not None:
            self._known = {**self._known, name: card}
        if card is None:
            names = [n for n, c in self._known.items() if self._ours(c)]
            raise ModelNotFound(
                f"the adapter {name[:80]!r} does not exist: this model has {', '.join(names) or 'none'}", param="model"
            )
        return card

    async def _changed(self, card: AdapterCard) -> bool:
        """Whether the adapter was removed or replaced since it was found, and is to be found again."""
        try:
            fresh = await asyncio.to_thread(self._registry.find, card.name)
        except InvalidAdapter:
            return False
        if fresh is not None and fresh.version == card.version:
            return False
        self._known = {n: c for n, c in self._known.items() if n != card.name}
        return True

    def _check(self, card: AdapterCard) -> None:
        """Before it takes another adapter's place; reads files, and hashes the base the first time."""
        if self._shapes is None:
            self._shapes = self._base.shapes()
        self._registry.check(card, self._base, self._shapes)
        most = self._host.max_rank
        if most is not None and card.files.rank > most:
            raise InvalidAdapter(
                f"adapter {card.name!r} has rank {card.files.rank}, and engine.adapters.max_rank is {most}: "
                "raise it, or train the adapter with a lower rank",
                param="model",
            )

    def _check_fits(self, card: AdapterCard) -> None:
        cost, most = self._host.bytes_of(card), self._settings.memory_mib * _MIB
        if cost > most:
            raise InvalidAdapter(
                f"adapter {card.name!r} takes {cost / _MIB:.1f} MiB, and engine.adapters.memory_mib is "
                f"{self._settings.memory_mib}: raise it, or train the adapter with a lower rank",
                param="model",
            )
        kept = [e for e in self._entries.values() if self._kept(e) and e.card.name != card.name]
        if len(kept) + 1 > self._settings.max_loaded or sum(e.cost for e in kept) + cost > most:
            raise InvalidAdapter(
                f"adapter {card.name!r} has no place: {', '.join(e.card.name for e in kept)} are pinned; unpin one, or "
                "raise engine.adapters.max_loaded and memory_mib",
                param="model",
            )

    async def _take(self, card: AdapterCard) -> _Entry[T]:
        """An entry that counts this request among its users; waits in turn for a place."""
        entry = self._entries.get((card.name, card.version))
        if entry is not None and not entry.leaving:
            return self._shared(entry)
        waiter: _Waiter[T] = _Waiter(card)
        self._waiting.append(waiter)
        self._serve_waiting()
        if not waiter.place.done() and len(self._waiting) > self._max_waiting:
            self._waiting.remove(waiter)
            raise Overloaded(
                f"{len(self._waiting)} requests wait for an adapter's place in memory; try again later, or raise "
                "engine.adapters.max_loaded",
                retry_after_s=1,
            )
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.done() and not waiter.place.cancelled():
                self._release(waiter.place.result())
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
                self._serve_waiting()
            raise

    def _try(self, card: AdapterCard) -> _Entry[T] | None:
        """The adapter's entry, its loading begun if it is not in memory; None if there is no room yet."""
        key = card.name, card.version
        entry = self._entries.get(key)
        if entry is None:
            cost = self._host.bytes_of(card)
            if not self._make_room(cost):
                return None
            entry = self._entries[key] = _Entry(card, cost, asyncio.get_running_loop().create_future())
            self._begin(self._fill(entry))
            self._report()
        elif entry.outdated:
            return None  # a removed adapter that was added again as it was: it is loaded afresh
        return self._shared(entry)

    def _shared(self, entry: _Entry[T]) -> _Entry[T]:
        entry.leaving = False
        entry.users += 1
        self._entries.move_to_end((entry.card.name, entry.card.version))
        return entry

    def _make_room(self, cost: int) -> bool:
        """Evict unused adapters until `cost` bytes fit; else have some of those in use leave after their last user."""
        while not self._fits(cost):
            unused = next((e for e in self._entries.values() if not e.users and e.loaded and not self._kept(e)), None)
            if unused is None:
                break
            self._evict(unused)
        if self._fits(cost):
            return True
        leaving = sum(e.leaving for e in self._entries.values())
        if leaving < min(len(self._waiting), max(1, self._settings.max_loaded // 2)):
            victim = next((e for e in self._entries.values() if not e.leaving and not self._kept(e)), None)
            if victim is not None:
                victim.leaving = True
        return False

    def _fits(self, cost: int) -> bool:
        held = sum(e.cost for e in self._entries.values())
        return len(self._entries) < self._settings.max_loaded and held + cost <= self._settings.memory_mib * _MIB

    async def _fill(self, entry: _Entry[T]) -> None:
        began = perf_counter()
        try:
            if self._unloading:
                await asyncio.gather(*self._unloading, return_exceptions=True)
            value = await self._host.load(entry.card)
        except BaseException as e:
            self._figures.failed()
            self._forget(entry)
            failure = e if isinstance(e, Exception) else ModelNotFound("the engine is stopping", param="model")
            entry.ready.set_exception(failure)
            entry.ready.exception()  # its users may all be gone
            if not isinstance(e, JethroError | asyncio.CancelledError):
                logger.exception("adapter %s could not be loaded", entry.card.name)
            self._serve_waiting()
            if not isinstance(e, Exception):
                raise
            return
        self._figures.loaded(perf_counter() - began)
        entry.ready.set_result(value)
        self._drop_unused(entry)
        self._serve_waiting()

    def _release(self, entry: _Entry[T]) -> None:
        entry.users -= 1
        self._drop_unused(entry)
        self._serve_waiting()

    def _drop_unused(self, entry: _Entry[T]) -> None:
        if entry.leaving and not entry.users and entry.loaded:
            self._evict(entry)

    def _evict(self, entry: _Entry[T]) -> None:
        if self._forget(entry):
            self._figures.evicted()
            if self._host.unload is not None:
                self._begin(self._free(self._host.unload, entry.ready.result()), self._unloading)

    async def _free(self, unload: Callable[[T], Awaitable[None]], value: T) -> None:
        try:
            await unload(value)
        except Exception:
            logger.exception("an adapter could not be unloaded")

    def _forget(self, entry: _Entry[T]) -> bool:
        key = entry.card.name, entry.card.version
        if self._entries.get(key) is not entry:
            return False
        del self._entries[key]
        self._report()
        return True

    def _serve_waiting(self) -> None:
        """Give places to those that wait, in their order, until one finds no room; then only what takes none."""
        blocked: deque[_Waiter[T]] = deque()
        while self._waiting:
            waiter = self._waiting[0]
            if not waiter.place.done():
                entry = self._entries.get((waiter.card.name, waiter.card.version))
                if entry is not None and not entry.leaving:
                    waiter.place.set_result(self._shared(entry))
                elif not blocked and (entry := self._try(waiter.card)) is not None:
                    waiter.place.set_result(entry)
                else:
                    blocked.append(waiter)
            self._waiting.popleft()
        self._waiting = blocked

    def _begin(self, work: Coroutine[Any, Any, None], where: "set[asyncio.Task[None]] | None" = None) -> None:
        kept = self._tasks if where is None else where
        task = asyncio.get_running_loop().create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)

    def _report(self) -> None:
        self._figures.holds(len(self._entries), sum(e.cost for e in self._entries.values()))
