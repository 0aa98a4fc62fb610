"""Scores for several Gateways: heavy routers by source and version, loaded on first use, a few at a time."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from serve_app.config.tree import Config
from serve_app.errors import JethroError
from serve_app.routing.artefact import class_of, read_card
from serve_app.routing.base import Placement
from serve_app.routing.default import default_source
from serve_app.routing.reference import split_reference
from serve_app.routing.registry import KINDS, RANDOM, Registry
from serve_app.routing.serving.loading import RouterFactory
from serve_app.routing.serving.served import ServedRouter
from serve_app.types import Message, Query

_LOADED: Final = 4
"""Routers in memory at once; during a swap the old version still scores for requests that began with it."""

logger = logging.getLogger("jethro.routing")


class ScoringService:
    """The work of a Scorer replica. Texts are those of `Query.text`."""

    def __init__(self, registry: Registry, factory: RouterFactory) -> None:
        self._registry = registry
        self._factory = factory
        self._loaded: OrderedDict[tuple[str, str], ServedRouter] = OrderedDict()
        self._loading: dict[tuple[str, str], asyncio.Task[ServedRouter]] = {}

    async def start(self, config: Config) -> None:
        """Load the default router, if it is placed here, so that a new replica answers at once.

        A router that fails to load is logged: the Gateways refuse and report it as well.
        """
        source = default_source(config.routing, self._registry, config.routed_models)
        try:
            name, version = split_reference(source)
            if name in self._registry.names() and placement_of(self._registry, source) in config.scorer.placements:
                await self.prepare(name, version or self._registry.current(name))
        except JethroError as e:
            logger.error("router %s cannot be loaded: %s", source, e)

    async def score(self, source: str, version: str, text: str) -> float:
        """The strong win rate. Raises ScoringFailed, or ConfigError for a router that fails to load."""
        return await (await self._router(source, version)).score(Query((Message("user", text),)))

    async def explain(self, source: str, version: str, text: str) -> Mapping[str, float]:
        """Feature contributions to its score."""
        return dict(await (await self._router(source, version)).explain(Query((Message("user", text),))))

    async def prepare(self, source: str, version: str) -> None:
        """Load a router and score once. Raises ConfigError if that fails."""
        await self._router(source, version)

    async def aclose(self) -> None:
        """End the scoring thread."""
        await asyncio.to_thread(self._factory.close)

    async def _router(self, source: str, version: str) -> ServedRouter:
        key = (source, version)
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        if key not in self._loading:
            self._loading[key] = asyncio.get_running_loop().create_task(self._load(key))
        # shielded: a caller that leaves must not stop the loading that others wait for
        return await asyncio.shield(self._loading[key])

    async def _load(self, key: tuple[str, str]) -> ServedRouter:
        source, version = key
        try:
            served = await asyncio.to_thread(self._factory.load, source, version)
            self._loaded[key] = served
            while len(self._loaded) > _LOADED:
                self._loaded.popitem(last=False)
            return served
        finally:
            del self._loading[key]


def placement_of(registry: Registry, source: str) -> Placement:
    """The placement of the router of a reference; loads no weights.

    Raises ConfigError for an unreadable card.
    """
    source, version = split_reference(source)
    if source == RANDOM:
        return "inline"
    named = source in registry.names()
    folder = registry.path(source, version or registry.current(source)) if named else Path(source)
    return class_of(folder, read_card(folder), KINDS).placement


def required_replicas(config: Config) -> int:
    """Scorer replicas of a config: as many as it says, or one if the default router is placed there."""
    if config.scorer.replicas is not None:
        return config.scorer.replicas
    registry = Registry(Path(config.routing.registry), config.routing.seed)
    return int(
        placement_of(registry, default_source(config.routing, registry, config.routed_models))
        in config.scorer.placements
    )
