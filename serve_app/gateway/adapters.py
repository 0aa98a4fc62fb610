"""LoRA adapters at the Gateway: which pool serves which, the names callers use, and changes by the API.

Every Gateway and every replica looks at the same registry, so that a change reaches all of them, and those that start
later. The last word on an adapter is a replica's, which has the model's weights: it refuses one of another version.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve_app.adapters import hub
from serve_app.adapters.base_model import find_base, mismatch
from serve_app.adapters.card import AdapterCard
from serve_app.adapters.registry import AdapterRegistry, follow_registry
from serve_app.config.tree import Config
from serve_app.errors import InvalidAdapter, ModelNotFound, NotFound, PermissionDenied, PoolUnavailable
from serve_app.placement.pool import PlacedPool
from serve_app.pools.base import Pool
from serve_app.pools.http import HttpPool

SEPARATOR = ":"
"""Callers write MODEL:ADAPTER."""
_MIB = 1 << 20

logger = logging.getLogger("jethro.gateway")


class GatewayAdapters:
    """The registry of a config, over its pools. `look` and changes read and write files in threads."""

    def __init__(self, config: Config, pools: Mapping[str, Pool]) -> None:
        self._settings, self._keys = config.adapters, config.server.keys
        self._pools = pools
        self._registry = AdapterRegistry(config.adapters)
        caches = {name: getattr(pool.engine, "adapters", None) for name, pool in config.pools.items()}
        self._factors = {name: cache.price_factor for name, cache in caches.items() if cache is not None}
        """By pool that serves adapters, what a token with one costs by the config."""
        self._bases = {name: str(getattr(config.pools[name].engine, "path", "")) for name in self._factors}
        """By the same pools, what the config calls their models."""
        self._paths = {name: str(getattr(pool.engine, "path", "")) for name, pool in config.pools.items()}
        self._hashes: dict[str, str] = {}
        """Of those bases whose weights are on this machine."""
        self._parameters: dict[str, int] = {}
        """Of the same, how many weights they have."""
        self._known: Mapping[str, AdapterCard] = {}
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow the registry from now on."""
        if self._bases and self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow())

    async def aclose(self) -> None:
        """Stop."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def look(self) -> None:
        """Read the registry once."""
        self._know(await asyncio.to_thread(self._read))

    def names(self) -> Iterator[tuple[str, AdapterCard, Pool]]:
        """Every MODEL:ADAPTER that can be requested."""
        for name, card in self._known.items():
            for pool in self._bases:
                if self._belongs(card, pool):
                    yield f"{self._pools[pool].model}{SEPARATOR}{name}", card, self._pools[pool]

    def resolve(self, model: str) -> tuple[Pool, str] | None:
        """The pool and the adapter that a `model` field names; None if it begins with no pool's model.

        Raises ModelNotFound, saying what there is, for an adapter that does not exist or is not that pool's.
        """
        named = [(name, pool) for name, pool in self._pools.items() if model.startswith(pool.model + SEPARATOR)]
        if not named:
            return None
        name, pool = max(named, key=lambda each: len(each[1].model))  # a model's own id may hold the separator
        adapter = model[len(pool.model) + len(SEPARATOR) :]
        card = self._known.get(adapter) or self._added(adapter)
        if card is None:
            ours = [full for full, _, of in self.names() if of is pool]
            raise ModelNotFound(
                f"The model {pool.model} has no adapter {adapter[:80]!r}: there are {', '.join(ours) or 'none'}",
                param="model",
            )
        if name not in self._bases or self._belongs(card, name) is False:
            raise ModelNotFound(self._elsewhere(card, pool), param="model")
        return pool, adapter

    def check_may_change(self, tenant: str | None) -> None:
        """Raises PermissionDenied unless the caller may change adapters."""
        if self._keys and tenant not in self._settings.managers:
            raise PermissionDenied(
                "This key may not change adapters: name its tenant in adapters.managers, or use `jethro adapter` on "
                "the server."
            )

    async def all(self) -> list[dict[str, Any]]:
        """Every adapter of the registry as JSON, with the models that serve it and where it is loaded."""
        await self.look()
        return [self._shown(card) for card in self._known.values()]

    async def get(self, name: str) -> dict[str, Any]:
        """One of them. Raises NotFound."""
        await self.look()
        card = self._known.get(name)
        if card is None:
            why = self._registry.faults.get(name)
            raise NotFound(f"No adapter {name[:80]!r}" + (f": {why}" if why else "."), param="name")
        return self._shown(card)

    async def add(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Add an adapter by the fields of an AdapterRequest. Raises InvalidAdapter, Conflict, NotFound."""
        with _writable(self._settings.registry):
            card = await asyncio.to_thread(self._add, given)
        await self.look()
        return self._shown(card)

    async def pin(self, name: str, pinned: bool) -> dict[str, Any]:
        """Pin or unpin an adapter. Raises ModelNotFound, Conflict."""
        with _writable(self._settings.registry):
            card = await asyncio.to_thread(self._registry.pin, name, pinned)
        await self.look()
        return self._shown(card)

    async def remove(self, name: str) -> None:
        """Remove an adapter; requests that are open finish. Raises ModelNotFound, Conflict."""
        with _writable(self._settings.registry):
            await asyncio.to_thread(self._registry.remove, name)
        await self.look()

    def _add(self, given: Mapping[str, Any]) -> AdapterCard:
        source, pool = str(given["source"]), given.get("pool")
        about = {key: given.get(key) for key in ("task", "licence")}
        if hub.is_hub_id(source):
            folder = hub.download(source, revision=given.get("revision"), max_bytes=self._settings.max_mib * _MIB)
        else:
            folder = self._allowed(source)
        base = None
        if pool is not None:
            base = self._paths.get(pool)
            if not base:
                have = ", ".join(name for name, path in self._paths.items() if path)
                raise NotFound(f"No pool {pool!r} of this endpoint has weights here: there are {have}", param="pool")
        return self._registry.add(
            folder,
            name=given.get("name"),
            base=base,
            replacing=bool(given.get("replace")),
            pinned=bool(given.get("pinned")),
            source=source,
            **about,
        )

    def _allowed(self, source: str) -> Path:
        """The folder, if the API may read it. What is outside is not even looked at."""
        try:
            folder = Path(source).resolve()
        except (OSError, ValueError, RuntimeError) as e:
            raise InvalidAdapter(f"source {source[:200]!r}: is no folder", param="source") from e
        if not any(folder.is_relative_to(Path(allowed).resolve()) for allowed in self._settings.sources):
            raise InvalidAdapter(
                f"source {source[:200]!r}: is in none of adapters.sources ({', '.join(self._settings.sources)}): copy "
                "it there, use a Hugging Face id, or `jethro adapter add` on the server",
                param="source",
            )
        return folder

    def _read(self) -> Mapping[str, AdapterCard]:
        known = self._registry.all()
        for pool, path in self._bases.items() if known else ():
            if pool not in self._hashes and (base := find_base(path)) is not None:
                self._parameters[pool] = base.parameters
                self._hashes[pool] = base.sha256
        return known

    def _know(self, known: Mapping[str, AdapterCard]) -> None:
        """Serve these, at the price that each has in its pool."""
        self._known = known
        for pool, factor in self._factors.items():
            prices = self._pools[pool].price.adapters
            for name, card in known.items():
                if self._belongs(card, pool) is not False:
                    prices[name] = price_factor(card, self._parameters.get(pool)) if factor is None else factor
            for name in prices.keys() - known.keys():
                del prices[name]

    def _belongs(self, card: AdapterCard, pool: str) -> bool | None:
        """Whether an adapter is of a pool's model; None if that is not known here, so that the replica decides."""
        if (sha256 := self._hashes.get(pool)) is not None:
            return card.about.base_sha256 == sha256
        return True if card.about.base == self._bases[pool] else None

    def _added(self, adapter: str) -> AdapterCard | None:
        """An adapter that was added since the last look, by another Gateway or the command line."""
        card = self._registry.find(adapter)
        if card is not None:
            self._know({**self._known, adapter: card})
        return card

    def _elsewhere(self, card: AdapterCard, pool: Pool) -> str:
        ours = [full for full, other, _ in self.names() if other.name == card.name]
        if ours:
            return f"The adapter {card.name!r} is not one of {pool.model}: use {' or '.join(ours)}"
        if pool.name not in self._bases:
            return f"The model {pool.model} serves no adapters: set pools.{pool.name}.engine.adapters"
        about, base = card.about, (self._bases[pool.name], self._hashes.get(pool.name, ""))
        return mismatch(card.name, (about.base, about.base_sha256), base).message

    def _shown(self, card: AdapterCard) -> dict[str, Any]:
        models = [full for full, other, _ in self.names() if other.name == card.name]
        return {**card.to_json(), "models": models, "loaded": self._loaded(card.name)}

    def _loaded(self, adapter: str) -> dict[str, int]:
        """By pool, how many replicas reported that they hold it."""
        found = {}
        for name in self._bases:
            pool = self._pools[name]
            pool = pool.inner if isinstance(pool, PlacedPool) else pool
            if isinstance(pool, HttpPool):
                found[name] = sum(adapter in member.report.adapters for member in pool.directory.members)
        return found

    async def _follow(self) -> None:
        await follow_registry(self.look, self._settings.reload_s, logger)


def price_factor(card: AdapterCard, parameters: int | None) -> float:
    """What a token costs with an adapter as a multiple of one without, by what is computed for it.

    `parameters`: those of the model; where they are not known, those of the modules that the adapter changes, which are
    nearly all of a model that has adapters on all of its layers.
    """
    changed = sum(shape.inputs * shape.outputs for shape in card.files.modules.values())
    return 1.0 + card.files.parameters / (parameters or changed)


@contextmanager
def _writable(registry: str) -> Iterator[None]:
    """Raises PoolUnavailable instead of OSError: the folder cannot be written now, which is no caller's mistake."""
    try:
        yield
    except OSError as e:
        logger.error("the registry of adapters %s cannot be written: %s", registry, e)
        raise PoolUnavailable("The registry of adapters cannot be written; the server's log says why.") from e
