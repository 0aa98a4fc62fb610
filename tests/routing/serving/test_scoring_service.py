"""Routers of each placement, as RouterFactory loads them, and as ScoringService scores with them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.errors import ConfigError
from serve_app.routing.base import Placement
from serve_app.routing.kinds.random import RandomRouter
from serve_app.routing.registry import KINDS, Registry
from serve_app.routing.serving.loading import Loader, RouterFactory
from serve_app.routing.serving.scoring_service import ScoringService, placement_of, required_replicas
from serve_app.routing.serving.served import LazyFeatures, ScoringFailed
from serve_app.types import Query
from tests.routing.artefacts import config, register
from tests.routing.fakes import query


class BatchedRouter(RandomRouter):
    """A random router that asks to be scored in batches."""

    name = "fake_batched"
    placement: Placement = "batched"


class HeavyRouter(RandomRouter):
    """A random router that belongs into the Scorer; `broken` makes every score nan."""

    name = "fake_heavy"
    placement: Placement = "scorer"
    broken = False
    loaded = 0

    def score(self, queries: Any) -> Any:
        return np.full(len(queries), np.nan) if self.broken else super().score(queries)

    @classmethod
    def load(cls, directory: Path) -> "HeavyRouter":
        HeavyRouter.loaded += 1
        return super().load(directory)


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {cls.name: f"{__name__}:{cls.__name__}" for cls in (BatchedRouter, HeavyRouter)}
    monkeypatch.setattr("serve_app.routing.registry.KINDS", {**KINDS, **more})
    monkeypatch.setattr("serve_app.routing.serving.scoring_service.KINDS", {**KINDS, **more})
    monkeypatch.setattr(HeavyRouter, "loaded", 0)


class Local:
    """The Scorer in this process, as `RemoteScorer`."""

    def __init__(self, service: ScoringService, loop: asyncio.AbstractEventLoop) -> None:
        self.service, self.loop = service, loop

    async def score(self, source: str, version: str, text: str) -> float:
        return await self.service.score(source, version, text)

    async def explain(self, source: str, version: str, text: str) -> Mapping[str, float]:
        return await self.service.explain(source, version, text)

    def prepare(self, source: str, version: str) -> None:
        asyncio.run_coroutine_threadsafe(self.service.prepare(source, version), self.loop).result(30)


def factory(registry: Registry) -> RouterFactory:
    return RouterFactory(config(registry.folder).routing, registry)


@asynccontextmanager
async def scorer(registry: Registry) -> AsyncIterator[ScoringService]:
    service = ScoringService(registry, factory(registry))
    yield service
    await service.aclose()


async def test_each_placement_has_its_scorer(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for router in (RandomRouter(5), BatchedRouter(5), HeavyRouter(5)):
        register(registry, name=f"my_{router.name}", router=router)
    place = factory(registry)
    expected = RandomRouter(5).score([query()])[0]
    for name, threaded in (("random", False), ("fake_batched", True), ("fake_heavy", True)):
        before = place._thread.batches
        served = await asyncio.to_thread(place.load, f"my_{name}")
        assert await served.score(query()) == expected and await served.explain(query()) == {}
        assert (place._thread.batches > before) is threaded and served.name == f"my_{name}"
        assert served.watch is not None
    place.close()
    assert (await asyncio.to_thread(factory(registry).load, "random")).watch is None


async def test_heavy_routers_score_in_the_scorer_and_are_not_loaded_here(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    version = register(registry, router=HeavyRouter(5))
    async with scorer(registry) as service:
        place = RouterFactory(config(tmp_path).routing, registry, Local(service, asyncio.get_running_loop()))
        served = await asyncio.to_thread(place.load, "mine")
        assert HeavyRouter.loaded == 1 and served.version == version  # by the service alone
        assert await served.score(query()) == RandomRouter(5).score([query()])[0]
        assert await served.explain(query()) == {} and HeavyRouter.loaded == 1
        with pytest.raises(ConfigError, match="Scorer"):
            served.registered.router.score([query()])


async def test_encoder_routers_score_there_too_if_told_so(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry, router=BatchedRouter(5))
    tree = config(tmp_path, router="mine").model_dump()
    tree["scorer"]["encoders"] = True
    told = type(config(tmp_path)).model_validate(tree)
    assert required_replicas(told) == 1 and required_replicas(config(tmp_path, router="mine")) == 0
    async with scorer(registry) as service:
        loader = Loader.from_config(told, Local(service, asyncio.get_running_loop()))
        served = (await asyncio.to_thread(loader.load)).routers["mine"]
        assert ("mine", served.version) in service._loaded
        assert served.registered.loaded.placement == "batched"
        assert await served.score(query()) == RandomRouter(5).score([query()])[0]


async def test_the_service_loads_once_and_forgets_the_oldest(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    versions = [register(registry, router=HeavyRouter(seed)) for seed in range(6)]
    async with scorer(registry) as service:
        await asyncio.gather(*(service.score("mine", versions[0], f"q{i}") for i in range(20)))
        assert HeavyRouter.loaded == 1
        for version in versions:
            await service.prepare("mine", version)
        assert HeavyRouter.loaded == 6 and len(service._loaded) == 4
        with pytest.raises(ConfigError, match="no version"):
            await service.score("mine", "nope", "q")


async def test_a_replica_starts_with_the_default_router_and_without_a_broken_one(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry, router=HeavyRouter(5))
    async with scorer(registry) as service:
        await service.start(config(tmp_path))
        assert HeavyRouter.loaded == 0
        await service.start(config(tmp_path, router="mine"))
        assert HeavyRouter.loaded == 1
        (registry.path("mine", registry.current("mine")) / "card.json").write_text("{", "utf-8")
        await service.start(config(tmp_path, router="mine"))


async def test_a_scorer_that_is_away_is_no_score(tmp_path: Path) -> None:
    class Away:
        async def score(self, source: str, version: str, text: str) -> float:
            raise ConnectionError("no replica")

        async def explain(self, source: str, version: str, text: str) -> Mapping[str, float]:
            raise ConnectionError("no replica")

        def prepare(self, source: str, version: str) -> None:
            return None

    registry = Registry(tmp_path)
    register(registry, router=HeavyRouter(5))
    served = RouterFactory(config(tmp_path).routing, registry, Away()).load("mine")
    with pytest.raises(ScoringFailed, match="ConnectionError"):
        await served.score(query())
    assert await served.explain(query()) == {}


def test_a_router_that_does_not_score_never_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    register(registry, router=HeavyRouter(5))
    monkeypatch.setattr(HeavyRouter, "broken", True)
    with pytest.raises(ConfigError, match=r"mine .*nan"):
        factory(registry).load("mine")


def test_a_loading_error_of_any_kind_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    register(registry, router=HeavyRouter(5))

    def fail(directory: Path) -> None:
        raise KeyError("weights")

    monkeypatch.setattr(HeavyRouter, "load", fail)
    with pytest.raises(ConfigError, match=r"router mine .*\(KeyError"):
        factory(registry).load("mine")


def test_the_scorer_is_started_where_it_is_needed(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry, router=HeavyRouter(5))
    folder = str(registry.path("mine", registry.current("mine")))
    found = [placement_of(registry, source) for source in ("mine", folder, "random", "complexity")]
    assert found == ["scorer", "scorer", "inline", "inline"]
    assert required_replicas(config(tmp_path)) == 0 and required_replicas(config(tmp_path, router="mine")) == 1
    tree = config(tmp_path, router="mine").model_dump()
    for replicas in (0, 2):
        tree["scorer"]["replicas"] = replicas
        assert required_replicas(type(config(tmp_path)).model_validate(tree)) == replicas
    registry.use_default("mine")
    assert required_replicas(config(tmp_path)) == 1
    assert Loader.from_config(config(tmp_path)).load().default == "mine"


def test_logged_explanations_are_computed_when_read_short_and_never_raise() -> None:
    class Telling(RandomRouter):
        asked = 0

        def explain(self, query: Query) -> Mapping[str, float]:
            Telling.asked += 1
            if query.text == "broken":
                raise RuntimeError("no")
            return {f"f{i}": 1 / (i + 3) for i in range(30)}

    told = LazyFeatures(Telling(), query())
    assert Telling.asked == 0
    assert len(told) == 12 and told["f0"] == 0.3333 and dict(told) and Telling.asked == 1
    assert dict(LazyFeatures(Telling(), query("broken"))) == {}
