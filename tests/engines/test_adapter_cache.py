"""The cache alone: its loads are futures of the test, so that every order of events can be made."""

import asyncio
import random

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from serve_app.adapters.registry import AdapterRegistry
from serve_app.config.adapters import AdapterCacheConfig
from serve_app.engines.adapter_cache import AdapterCache, AdapterHost
from serve_app.engines.adapter_figures import AdapterFigures
from serve_app.errors import InvalidAdapter, ModelNotFound, Overloaded
from tests.lora import base_of, registry_settings, save_adapter
from tests.models import save_random_model

NAMES = tuple("abcdef")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def sources(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("sources")
    return {n: save_adapter(place / n, model, name=n, seed=i, rank=2) for i, n in enumerate(NAMES)}


class Bench:
    """A cache whose loads wait for `gate`; `loads` and `gone` are what it did, in order."""

    def __init__(self, folder, model, sources, **settings):
        self.registry = AdapterRegistry(registry_settings(folder, reload_s=0))
        for source in sources.values():
            self.registry.add(source)
        self.loads, self.gone = [], []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error = None
        self.metrics = CollectorRegistry()
        host = AdapterHost(self.load, lambda card: 2**20, settings.pop("max_rank", None), self.unload)
        options = {key: settings.pop(key) for key in ("max_waiting",) if key in settings}
        self.cache = AdapterCache(
            self.registry,
            AdapterCacheConfig(**settings),
            base_of(model),
            host,
            figures=AdapterFigures("m", self.metrics),
            **options,
        )

    async def load(self, card):
        self.loads.append(card.name)
        await self.gate.wait()
        if self.error:
            raise self.error
        return f"{card.name}@{card.version}"

    async def unload(self, value):
        self.gone.append(value.partition("@")[0])

    def figure(self, name):
        text = generate_latest(self.metrics).decode()
        return float(next(line for line in text.splitlines() if line.startswith(f"jethro_engine_{name}{{")).split()[-1])

    async def use(self, name):
        async with self.cache.lease(name) as value:
            return value

    def hold(self, name):
        """A task that keeps a lease until it is cancelled, and an event that says it has it."""
        has = asyncio.Event()

        async def keep():
            async with self.cache.lease(name) as value:
                assert value.startswith(f"{name}@")
                has.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(keep())
        task.has = has
        return task


@pytest.fixture
def bench(tmp_path, model, sources):
    def make(**settings):
        return Bench(tmp_path, model, sources, **settings)

    return make


async def settle():
    for _ in range(20):
        await asyncio.sleep(0.005)


async def queued(bench, count):
    """Until so many requests wait for a place: their adapters are read in a thread first, which takes its time."""
    async with asyncio.timeout(60):
        while len(bench.cache._waiting) < count:
            await asyncio.sleep(0.005)


async def end(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_least_recently_used_one_leaves(bench):
    b = bench(max_loaded=2)
    for name in "abacab":
        assert (await b.use(name)).startswith(f"{name}@")
    assert b.loads == ["a", "b", "c", "b"] and b.gone == ["b", "c"]
    assert set(b.cache.names()) == {"a", "b"}
    assert (b.figure("adapter_hits_total"), b.figure("adapter_misses_total")) == (2, 4)
    assert (b.figure("adapter_loads_total"), b.figure("adapter_evictions_total")) == (4, 2)
    assert (b.figure("adapters"), b.figure("adapter_bytes")) == (2, 2 * 2**20)


async def test_memory_bounds_it_as_well(bench):
    b = bench(max_loaded=5, memory_mib=2)
    for name in "abc":
        await b.use(name)
    assert b.gone == ["a"]


async def test_requests_for_one_adapter_share_its_load(bench):
    b = bench(max_loaded=1)
    b.gate.clear()
    users = [asyncio.create_task(b.use("a")) for _ in range(5)]
    await settle()
    b.gate.set()
    assert len(set(await asyncio.gather(*users))) == 1 and b.loads == ["a"]


async def test_one_in_use_is_never_evicted_and_others_wait_in_turn(bench):
    b = bench(max_loaded=1)
    holder = b.hold("a")
    await holder.has.wait()
    second = b.hold("b")
    await queued(b, 1)
    third = b.hold("c")
    await queued(b, 2)
    assert b.loads == ["a"] and not second.has.is_set() and b.gone == []
    await end(holder)
    await asyncio.wait_for(second.has.wait(), 5)
    assert not third.has.is_set() and b.gone == ["a"]
    await end(second)
    await asyncio.wait_for(third.has.wait(), 5)
    await end(third)


async def test_popular_adapters_do_not_keep_others_out_for_ever(bench):
    b = bench(max_loaded=2)
    stop = False

    async def popular(name):
        while not stop:
            async with b.cache.lease(name):
                await asyncio.sleep(0.002)

    users = [asyncio.create_task(popular(name)) for name in "aabb"]  # each in use at every moment
    await settle()
    assert (await asyncio.wait_for(b.use("c"), 5)).startswith("c@")
    stop = True
    await asyncio.gather(*users)


async def test_a_caller_that_leaves_gives_its_turn_on(bench):
    b = bench(max_loaded=1)
    holder = b.hold("a")
    await holder.has.wait()
    second, third = b.hold("b"), b.hold("c")
    await settle()
    await end(second)
    await end(holder)
    await asyncio.wait_for(third.has.wait(), 5)
    assert "b" not in b.loads
    await end(third)


async def test_a_caller_that_leaves_during_the_load_keeps_no_place(bench):
    b = bench(max_loaded=1)
    b.gate.clear()
    first = b.hold("a")
    await settle()
    await end(first)
    second = asyncio.create_task(b.use("b"))
    await settle()
    b.gate.set()
    assert (await asyncio.wait_for(second, 5)).startswith("b@")


async def test_too_many_that_wait_are_turned_away(bench):
    b = bench(max_loaded=1, max_waiting=1)
    holder = b.hold("a")
    await holder.has.wait()
    waiting = b.hold("b")
    await settle()
    with pytest.raises(Overloaded, match="wait for an adapter's place"):
        await b.use("c")
    await end(waiting, holder)


async def test_a_failed_load_reaches_all_that_share_it_and_frees_the_place(bench):
    b = bench(max_loaded=1)
    b.error = InvalidAdapter("broken")
    results = await asyncio.gather(b.use("a"), b.use("a"), return_exceptions=True)
    assert [str(r) for r in results] == ["broken", "broken"]
    b.error = None
    assert (await b.use("b")).startswith("b@")
    assert b.figure("adapter_failures_total") >= 1 and b.figure("adapters") == 1


async def test_an_unknown_name_lists_what_there_is(bench):
    b = bench(max_loaded=1)
    await b.cache.look()
    with pytest.raises(ModelNotFound, match="'zzz' does not exist: this model has a, b, c, d, e, f"):
        await b.use("zzz")


async def test_pinned_adapters_are_loaded_at_once_and_stay(bench):
    b = bench(max_loaded=2, pinned=("a",))
    await b.cache.look()
    await settle()
    assert b.cache.names() == ("a",)
    for name in "bcd":
        await b.use(name)
    assert "a" in b.cache.names() and "a" not in b.gone
    b.registry.pin("d")
    await b.cache.look()
    await settle()
    assert set(b.cache.names()) == {"a", "d"}
    with pytest.raises(InvalidAdapter, match="has no place: a, d are pinned; unpin one"):
        await b.use("b")
    b.registry.pin("d", False)
    await b.cache.look()
    assert (await b.use("b")).startswith("b@")


async def test_removed_while_in_use_open_requests_finish_and_new_ones_are_refused(bench):
    b = bench(max_loaded=2)
    holder = b.hold("a")
    await holder.has.wait()
    b.registry.remove("a")
    await b.cache.look()
    assert b.gone == [] and b.cache.names() == ()
    with pytest.raises(ModelNotFound, match="'a' does not exist"):
        await b.use("a")
    await end(holder)
    await settle()
    assert b.gone == ["a"]


async def test_a_replaced_adapter_serves_new_requests_next_to_open_ones(bench, tmp_path, model):
    b = bench(max_loaded=2)
    old = await b.use("a")
    holder = b.hold("a")
    await holder.has.wait()
    b.registry.add(save_adapter(tmp_path / "new", model, name="a", seed=99), replacing=True)
    await b.cache.look()
    new = await b.use("a")
    assert new != old and b.gone == []
    await end(holder)
    await settle()
    assert b.gone == ["a"] and b.cache.names() == ("a",)


async def test_an_adapter_of_another_base_takes_nobodys_place(bench, tmp_path):
    b = bench(max_loaded=1)
    await b.use("a")
    other = save_random_model(tmp_path / "other", seed=1)
    b.registry.add(save_adapter(tmp_path / "foreign", other, name="foreign"))
    with pytest.raises(InvalidAdapter, match=r"belongs to .* request it from a pool that runs its base"):
        await b.use("foreign")
    assert b.cache.names() == ("a",) and b.gone == []


async def test_a_rank_that_the_engine_reserves_no_memory_for(bench):
    b = bench(max_loaded=1, max_rank=1)
    with pytest.raises(InvalidAdapter, match=r"has rank 2, and engine\.adapters\.max_rank is 1"):
        await b.use("a")


@pytest.mark.slow
async def test_any_order_of_requests_changes_and_cancellations_ends_well(bench, tmp_path, model, sources):
    """Never more than fit, always the requested adapter, and nobody waits for ever."""
    rng = random.Random(3)
    b = bench(max_loaded=3)
    most = 0

    async def one(name):
        nonlocal most
        try:
            async with b.cache.lease(name) as value:
                assert value.startswith(f"{name}@")
                most = max(most, len(b.cache._entries))
                await asyncio.sleep(rng.random() * 0.01)
        except ModelNotFound:
            assert name == "f"

    async def change():
        for _ in range(15):
            b.registry.remove("f")
            await b.cache.look()
            await asyncio.sleep(0.02)
            b.registry.add(sources["f"])
            await asyncio.sleep(0.02)

    changing = asyncio.create_task(change())
    tasks = []
    for _ in range(400):
        task = asyncio.create_task(one(rng.choice(NAMES)))
        tasks.append(task)
        if rng.random() < 0.2:
            asyncio.get_running_loop().call_later(rng.random() * 0.02, task.cancel)
        await asyncio.sleep(0.001)
    async with asyncio.timeout(60):
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await changing
    assert {type(r) for r in results} <= {type(None), asyncio.CancelledError}
    assert most <= 3 and sum(r is None for r in results) > 200
    await settle()
    assert all(e.users == 0 for e in b.cache._entries.values()) and not b.cache._waiting
