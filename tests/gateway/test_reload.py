""""""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from serve_app.config.tree import Config
from serve_app.gateway.catalogue import Catalogue
from serve_app.gateway.reload import Reloader
from serve_app.routing.registry import Registry
from serve_app.routing.serving.loading import Loader
from serve_app.strategy import Context
from serve_app.types import Decision
from tests.routing.artefacts import HELD, config, pools, register
from tests.routing.fakes import CALL, query


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@asynccontextmanager
async def following(tree: Config, clock: Clock | None = None) -> AsyncIterator[tuple[Catalogue, Reloader]]:
    loader = Loader.from_config(tree)
    catalogue = Catalogue(tree, pools(), loader.load())
    reloader = Reloader(loader, catalogue, tree.routing.reload_s, clock or Clock())
    yield catalogue, reloader
    await reloader.aclose()


async def test_another_version_serves_from_the_next_request_on(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    first, second = register(registry, 1), register(registry, 2)
    async with following(config(tmp_path, router="mine")) as (catalogue, reloader):
        old, old_form = catalogue.resolve("jethro"), catalogue.resolve("router-mine-0.5")
        assert not await reloader.look() and not await reloader.look()
        registry.use("mine", second)
        assert await reloader.look() and not await reloader.look()
        new = catalogue.resolve("jethro")
        assert (await old.decide(query(), "d")).policy_version.startswith(f"{first}@")
        assert (await new.decide(query(), "d")).policy_version.startswith(f"{second}@")
        form = catalogue.resolve("router-mine-0.5")
        assert form is not old_form and (await form.decide(query(), "d")).policy_version == f"{second}@0.5"
        assert reloader.swaps == {"mine": 1} and reloader.refusals == {}


async def test_an_answer_that_has_begun_ends_with_the_version_it_began_with(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    first, second = register(registry, 1), register(registry, 2)
    async with following(config(tmp_path, router="mine")) as (catalogue, reloader):
        run = catalogue.resolve("jethro").run(query(), Context(CALL, True))
        registry.use("mine", second)
        await reloader.look()
        told = [event async for event in run]
        assert isinstance(told[0], Decision) and told[0].policy_version.startswith(f"{first}@") and len(told) == 5


async def test_it_follows_by_itself_until_closed(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry, 1)
    second = register(registry, 2)
    async with following(config(tmp_path, router="mine", reload_s=0.01)) as (catalogue, reloader):
        reloader.start()
        reloader.start()
        registry.use("mine", second)
        async with asyncio.timeout(20):
            while catalogue.routers.routers["mine"].version != second:
                await asyncio.sleep(0.01)


async def test_a_registry_that_cannot_be_read_does_not_end_the_following(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(tmp_path)
    register(registry, 1)
    second = register(registry, 2)
    async with following(config(tmp_path, router="mine", reload_s=0.01)) as (catalogue, reloader):
        (tmp_path / "mine" / "current").write_bytes(b"\xff")
        reloader.start()
        async with asyncio.timeout(20):
            while "followed" not in caplog.text:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert caplog.text.count("followed") == 1
            registry.use("mine", second)
            while catalogue.routers.routers["mine"].version != second:
                await asyncio.sleep(0.01)


async def test_a_refused_version_is_counted_and_tried_again_later(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry, 1)
    second = register(registry, 2)
    card = registry.path("mine", second) / "router.json"
    whole = card.read_text("utf-8")
    clock = Clock()
    async with following(config(tmp_path, router="mine"), clock) as (catalogue, reloader):
        registry.use("mine", second)
        card.write_text("{", "utf-8")
        assert not await reloader.look() and not await reloader.look()
        assert reloader.refusals == {"mine": 1}
        (figures,) = (f for f in reloader.figures() if f.name == "mine")
        assert figures.refused is not None and "cannot be read" in figures.refused and figures.default
        clock.now_s = 29.0
        card.write_text(whole, "utf-8")
        assert not await reloader.look()
        clock.now_s = 31.0
        assert await reloader.look() and catalogue.routers.refused == {}


async def test_names_come_and_go_and_the_default_may_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(tmp_path)
    async with following(config(tmp_path)) as (catalogue, reloader):
        register(registry, 1)
        assert await reloader.look() and "mine" in catalogue.routers.routers
        registry.use_default("mine")
        assert await reloader.look() and catalogue.routers.default == "mine"
        assert "mine instead of random" in caplog.text
        assert any(m.id.startswith("router-mine-") for m in catalogue.models())


async def test_many_swaps_while_deciding_name_versions_that_existed(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    versions = [register(registry, 1), register(registry, 2)]
    async with following(config(tmp_path, router="mine")) as (catalogue, reloader):
        seen: list[str] = []
        over = asyncio.Event()

        async def decide() -> None:
            while not over.is_set():
                strategy = catalogue.resolve("jethro")
                seen.extend([(await strategy.decide(asked, "d")).policy_version for asked in HELD.queries])
                await asyncio.sleep(0.001)  # callers come over sockets: the loop rests, and the loading thread runs

        deciding = [asyncio.ensure_future(decide()) for _ in range(2)]
        for turn in range(4):
            registry.use("mine", versions[(turn + 1) % 2])
            assert await reloader.look()
        over.set()
        await asyncio.gather(*deciding)
        assert {name.partition("@")[0] for name in seen} == set(versions) and reloader.swaps == {"mine": 4}


async def test_feedback_meets_the_watch_of_the_version_that_decided(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    version = register(registry, 1)
    async with following(config(tmp_path, router="mine")) as (_, reloader):
        told: dict[str, object] = {
            "router": "mine", "policy_version": f"{version}@0.5", "pool": "small", "expected": {"small": {"quality": 1}}
        }  # fmt: skip
        for _ in range(120):
            reloader.observe_feedback(told, 0.0)
        for other in ({"policy_version": "older@0.5"}, {"router": "gone"}, {"expected": {}}, {"router": None}):
            reloader.observe_feedback({**told, **other}, 1.0)
        reloader.digest()
        (figures,) = (f for f in reloader.figures() if f.name == "mine")
        assert figures.drift["quality_small"]["statistic"] == 1.0 and figures.drift["quality_small"]["queries"] == 120
        assert json.dumps(figures.drift)
        assert next(f for f in reloader.figures() if f.name == "random").drift == {}
