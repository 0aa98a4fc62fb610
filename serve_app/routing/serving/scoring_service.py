"""Scores for several callers: heavy routers by source and version, loaded when first asked for, a few at a time."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from serve_app.config.tree import Config
from serve_app.errors import JethroError
from serve_app.routing.base import Placement
from serve_app.routing.registered import class_of, read_card
from serve_app.routing.registry import KINDS, RANDOM, Registry
from serve_app.routing.serving.loading import default_source
from serve_app.routing.serving.scoring import Scorer
from serve_app.routing.serving.served import Placing
from serve_app.types import Message, Query

_LOADED: Final = 4
"""Routers in memory at once; during a swap the old version still scores for those who began with it."""

logger = logging.getLogger("jethro.routing")


class ScoringService:
    """What a Scorer replica runs. Texts come in as they left `Query.text`."""

    def __init__(self, registry: Registry, placing: Placing) -> None:
        self._registry = registry
        self._placing = placing
        self._loaded: OrderedDict[tuple[str, str], Scorer] = OrderedDict()
        self._loading: dict[tuple[str, str], asyncio.Task[Scorer]] = {}

    async def start(self, config: Config) -> None:
        """Load the router that serves by default, if it belongs here, so that a new replica answers at once.

        A router that cannot be loaded is logged: the Gateways refuse it as well, and say so.
        """
        source = default_source(config.routing, self._registry)
        try:
            if source in self._registry.names() and placement_of(self._registry, source) in config.scorer.placements:
                await self.prepare(source, self._registry.current(source))
        except JethroError as e:
            logger.error("router %s cannot be loaded: %s", source, e)

    async def score(self, source: str, version: str, text: str) -> float:
        """The strong win rate. Raises ScoringFailed, or ConfigError for a router that cannot be loaded."""
        return await (await self._scorer(source, version)).score(Query((Message("user", text),)))

    async def explain(self, source: str, version: str, text: str) -> Mapping[str, float]:
        """What moved it."""
        return dict(await (await self._scorer(source, version)).explain(Query((Message("user", text),))))

    async def prepare(self, source: str, version: str) -> None:
        """Load a router and score once. Raises ConfigError if that cannot be done."""
        await self._scorer(source, version)

    async def aclose(self) -> None:
        """End the scoring thread."""
        await asyncio.to_thread(self._placing.close)

    async def _scorer(self, source: str, version: str) -> Scorer:
        key = (source, version)
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        if key not in self._loading:
            self._loading[key] = asyncio.get_running_loop().create_task(self._load(key))
        # shielded: a caller who gives up must not stop the loading that the others wait for
        return await asyncio.shield(self._loading[key])

    async def _load(self, key: tuple[str, str]) -> Scorer:
        source, version = key
        try:
            served = await asyncio.to_thread(self._placing.load, source, version)
            self._loaded[key] = served.scorer
            while len(self._loaded) > _LOADED:
                self._loaded.popitem(last=False)
            return served.scorer
        finally:
            del self._loading[key]


def placement_of(registry: Registry, source: str) -> Placement:
    """The placement of the router of a name or in a folder; loads no weights.

    Raises ConfigError where its card cannot be read.
    """
    if source == RANDOM:
        return "inline"
    folder = registry.path(source, registry.current(source)) if source in registry.names() else Path(source)
    return class_of(folder, read_card(folder), KINDS).placement


def replicas_wanted(config: Config) -> int:
    """Scorer replicas that the config asks for: as many as it says, or one if the configured router belongs there."""
    if config.scorer.replicas is not None:
        return config.scorer.replicas
    registry = Registry(Path(config.routing.registry), config.routing.seed)
    return int(placement_of(registry, default_source(config.routing, registry)) in config.scorer.placements)
