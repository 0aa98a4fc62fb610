"""Each placement gets its scorer; the Scorer's side of it is ScoringService."""

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
from serve_app.routing.serving.loading import Loader
from serve_app.routing.serving.scoring import AwaitedScorer, InlineScorer, ScoringFailed
from serve_app.routing.serving.scoring_service import ScoringService, placement_of, replicas_wanted
from serve_app.routing.serving.served import Explained, Placing
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
    """The Scorer in this process, as `Remote`."""

    def __init__(self, service: ScoringService, loop: asyncio.AbstractEventLoop) -> None:
        self.service, self.loop = service, loop

    async def score(self, source: str, version: str, text: str) -> float:
        return await self.service.score(source, version, text)

    async def explain(self, source: str, version: str, text: str) -> Mapping[str, float]:
        return await self.service.explain(source, version, text)

    def prepare(self, source: str, version: str) -> None:
        asyncio.run_coroutine_threadsafe(self.service.prepare(source, version), self.loop).result(30)


def placing(registry: Registry) -> Placing:
    return Placing(config(registry.folder).routing, registry)


@asynccontextmanager
async def scorer(registry: Registry) -> AsyncIterator[ScoringService]:
    service = ScoringService(registry, placing(registry))
    yield service
    await service.aclose()


async def test_each_placement_has_its_scorer(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for router in (RandomRouter(5), BatchedRouter(5), HeavyRouter(5)):
        register(registry, name=f"my_{router.name}", router=router)
    place = placing(registry)
    expected = RandomRouter(5).score([query()])[0]
    for name, kind in (("random", InlineScorer), ("fake_batched", AwaitedScorer), ("fake_heavy", AwaitedScorer)):
        served = await asyncio.to_thread(place.load, f"my_{name}")
        assert type(served.scorer) is kind and served.scorer.name == f"my_{name}"
        assert await served.scorer.score(query()) == expected and await served.scorer.explain(query()) == {}
        assert served.watch is not None
    place.close()
    assert (await asyncio.to_thread(placing(registry).load, "random")).watch is None


async def test_heavy_routers_score_in_the_scorer_and_are_not_loaded_here(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    version = register(registry, router=HeavyRouter(5))
    async with scorer(registry) as service:
        place = Placing(config(tmp_path).routing, registry, Local(service, asyncio.get_running_loop()))
        served = await asyncio.to_thread(place.load, "mine")
        assert HeavyRouter.loaded == 1 and served.registered.version == version  # by the service alone
        assert await served.scorer.score(query()) == RandomRouter(5).score([query()])[0]
        assert await served.scorer.explain(query()) == {} and HeavyRouter.loaded == 1
        with pytest.raises(ConfigError, match="Scorer"):
            served.registered.router.score([query()])


async def test_encoder_routers_score_there_too_if_told_so(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry, router=BatchedRouter(5))
    tree = config(tmp_path, router="mine").model_dump()
    tree["scorer"]["encoders"] = True
    told = type(config(tmp_path)).model_validate(tree)
    assert replicas_wanted(told) == 1 and replicas_wanted(config(tmp_path, router="mine")) == 0
    async with scorer(registry) as service:
        loader = Loader.from_config(told, Local(service, asyncio.get_running_loop()))
        served = (await asyncio.to_thread(loader.load)).routers["mine"]
        assert ("mine", served.registered.version) in service._loaded
        assert served.registered.router.placement == "batched"
        assert await served.scorer.score(query()) == RandomRouter(5).score([query()])[0]


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
    served = Placing(config(tmp_path).routing, registry, Away()).load("mine")
    with pytest.raises(ScoringFailed, match="ConnectionError"):
        await served.scorer.score(query())
    assert await served.scorer.explain(query()) == {}


def test_a_router_that_does_not_score_never_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    register(registry, router=HeavyRouter(5))
    monkeypatch.setattr(HeavyRouter, "broken", True)
    with pytest.raises(ConfigError, match=r"mine .*nan"):
        placing(registry).load("mine")


def test_a_loading_error_of_any_kind_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    register(registry, router=HeavyRouter(5))

    def fail(directory: Path) -> None:
        raise KeyError("weights")

    monkeypatch.setattr(HeavyRouter, "load", fail)
    with pytest.raises(ConfigError, match=r"router mine .*\(KeyError"):
        placing(registry).load("mine")


def test_the_scorer_is_started_where_it_is_needed(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry, router=HeavyRouter(5))
    folder = str(registry.path("mine", registry.current("mine")))
    found = [placement_of(registry, source) for source in ("mine", folder, "random", "complexity")]
    assert found == ["scorer", "scorer", "inline", "inline"]
    assert replicas_wanted(config(tmp_path)) == 0 and replicas_wanted(config(tmp_path, router="mine")) == 1
    tree = config(tmp_path, router="mine").model_dump()
    for replicas in (0, 2):
        tree["scorer"]["replicas"] = replicas
        assert replicas_wanted(type(config(tmp_path)).model_validate(tree)) == replicas
    registry.use_default("mine")
    assert replicas_wanted(config(tmp_path)) == 1
    assert Loader.from_config(config(tmp_path)).load().default == "mine"


def test_logged_explanations_are_computed_when_read_short_and_never_raise() -> None:
    class Telling(RandomRouter):
        asked = 0

        def explain(self, query: Query) -> Mapping[str, float]:
            Telling.asked += 1
            if query.text == "broken":
                raise RuntimeError("no")
            return {f"f{i}": 1 / (i + 3) for i in range(30)}

    told = Explained(Telling(), query())
    assert Telling.asked == 0
    assert len(told) == 12 and told["f0"] == 0.3333 and dict(told) and Telling.asked == 1
    assert dict(Explained(Telling(), query("broken"))) == {}
