"""Adapters of the engine as a whole: found in a registry, mixed in one batch, added and removed while it answers."""

import asyncio
import random

import pytest

from serve_app.adapters.registry import AdapterRegistry
from serve_app.engines.local_pool import LocalPool
from serve_app.engines.transformers import HFEngine
from serve_app.errors import ConfigError, InvalidAdapter, JethroError, ModelNotFound, UnsupportedParameter
from serve_app.types import Message, Query, Sampling
from serve_app.wire.frames import Call
from tests.lora import registry_settings, save_adapter
from tests.models import save_random_model, settings_for

NAMES = ("a", "b", "c", None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def registry(tmp_path, model):
    registry = AdapterRegistry(registry_settings(tmp_path))
    for i, name in enumerate("abc"):
        registry.add(save_adapter(tmp_path / name, model, name=name, seed=i, rank=2 + i))
    return registry


async def started(model, registry, **cache):
    engine = HFEngine("m", settings_for(model, adapters=cache), registry.settings)
    await engine.start()
    return engine


@pytest.fixture
async def engine(model, registry):
    engine = await started(model, registry, max_loaded=2)
    yield engine
    await engine.aclose()


def query(adapter=None, prompt="hello", **sampling) -> Query:
    options = Sampling(**{"max_tokens": 12, "temperature": 0.0, **sampling})
    return Query((Message("user", prompt),), options, adapter=adapter)


async def text(engine, asked) -> str:
    return "".join([chunk.text async for chunk in engine.stream(asked)])


def prompts(count):
    return [f"what is {i} {'+-*'[i % 3]} {i * 7 % 31}?{' please' * (i % 6)}" for i in range(count)]


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_adapters_and_the_base_in_one_batch_say_what_each_says_alone(model, registry, engine):
    asked = [(NAMES[i % 4], prompt, 3 + i % 11) for i, prompt in enumerate(prompts(32))]
    alone = await started(model, registry, max_loaded=2)
    expected = [await text(alone, query(a, p, max_tokens=n)) for a, p, n in asked]
    await alone.aclose()
    among = await asyncio.gather(*(text(engine, query(a, p, max_tokens=n)) for a, p, n in asked))
    assert among == expected
    same = {await text(engine, query(name, max_tokens=20)) for name in NAMES}
    assert len(same) == len(NAMES), "the adapters differ, or the test sees nothing"
    metrics = engine.metrics()
    assert 'jethro_engine_adapters{model="m"} 2.0' in metrics
    assert len(engine.health().adapters) == 2


async def test_without_the_setting_an_adapter_is_refused(model):
    engine = HFEngine("m", settings_for(model))
    await engine.start()
    assert not engine.capabilities.adapters
    with pytest.raises(UnsupportedParameter, match="adapter is not supported by model m"):
        await text(engine, query("a"))
    await engine.aclose()


async def test_unknown_foreign_and_damaged_adapters_harm_nothing_else(engine, registry, tmp_path, model):
    assert engine.capabilities.adapters
    with pytest.raises(ModelNotFound, match="'nobody' does not exist: this model has a, b, c"):
        await text(engine, query("nobody"))
    with pytest.raises(ModelNotFound):
        await text(engine, query("../a"))
    other = save_random_model(tmp_path / "other", seed=1)
    registry.add(save_adapter(tmp_path / "foreign", other, name="foreign"))
    with pytest.raises(InvalidAdapter, match="belongs to"):
        await text(engine, query("foreign"))
    broken = registry.add(save_adapter(tmp_path / "broken", model, name="broken"))
    (broken.folder / "adapter_model.safetensors").write_bytes(b"\x07" * 100)
    with pytest.raises(JethroError) as caught:
        await text(engine, query("broken"))
    assert caught.value.status == 400 and not caught.value.retryable
    assert await text(engine, query("a")) != await text(engine, query())


async def test_an_adapter_that_is_added_serves_at_once_and_a_removed_one_no_more(engine, registry, tmp_path, model):
    with pytest.raises(ModelNotFound):
        await text(engine, query("d"))
    registry.add(save_adapter(tmp_path / "d", model, name="d", seed=9))
    assert await text(engine, query("d")) != await text(engine, query())
    open_one = asyncio.create_task(text(engine, query("d", max_tokens=300)))
    await until(lambda: engine.health().running == 1)
    registry.remove("d")
    await until(lambda: "d" not in engine.health().adapters)
    with pytest.raises(ModelNotFound, match="'d' does not exist"):
        await text(engine, query("d"))
    assert await open_one, "the open request finished"


async def test_a_replaced_adapter_answers_anew(engine, registry, tmp_path, model):
    before = await text(engine, query("a"))
    registry.add(save_adapter(tmp_path / "new", model, name="a", seed=77), replacing=True)
    async with asyncio.timeout(10):
        while await text(engine, query("a")) == before:
            await asyncio.sleep(0.02)


async def test_pinned_adapters_are_there_before_the_first_request(model, registry):
    engine = await started(model, registry, max_loaded=2, pinned=["b"])
    await until(lambda: engine.health().adapters == ("b",))
    await engine.aclose()


async def test_one_that_is_too_large_for_the_memory(model, registry, tmp_path):
    registry = AdapterRegistry(registry_settings(tmp_path, max_rank=160))
    big = registry.add(save_adapter(tmp_path / "big", model, name="big", rank=160, targets=("_proj",)))
    assert big.files.parameters * 4 > 2**20
    engine = await started(model, registry, max_loaded=2, memory_mib=1)
    with pytest.raises(InvalidAdapter, match=r"engine\.adapters\.memory_mib is 1: raise it"):
        await text(engine, query("big"))
    await engine.aclose()


async def test_a_base_whose_weights_cannot_be_found_is_said_at_the_start(model, registry, monkeypatch):
    monkeypatch.setattr("serve_app.engines.transformers.engine.known_base", _no_base)
    engine = HFEngine("m", settings_for(model, adapters={}), registry.settings)
    with pytest.raises(ConfigError, match=r"engine\.adapters: no weights"):
        await engine.start()
    await engine.aclose()


def _no_base(name):
    raise InvalidAdapter("no weights")


async def test_the_pool_of_this_process_names_model_and_adapter(engine):
    pool = LocalPool("small", engine)
    answer = await pool.complete(query("a"), Call("id", 1, "request"))
    assert answer.usage.completion_tokens > 0


@pytest.mark.slow
async def test_changes_under_load_fail_nobody_else(engine, registry, tmp_path, model):
    """One adapter comes and goes while others and the base are requested."""
    source = save_adapter(tmp_path / "guest", model, name="guest", seed=5)
    expected = {name: await text(engine, query(name, max_tokens=6)) for name in NAMES}
    rng, wrong, guests = random.Random(4), [], 0
    stop = False

    async def one():
        nonlocal guests
        while not stop:
            name = rng.choice((*NAMES, "guest"))
            try:
                said = await text(engine, query(name, max_tokens=6))
            except ModelNotFound:
                if name != "guest":
                    wrong.append(name)
                await asyncio.sleep(0.005)
                continue
            if name == "guest":
                guests += 1
            elif said != expected[name]:
                wrong.append((name, said))

    async def change():
        for _ in range(10):
            before = guests
            await asyncio.to_thread(registry.add, source)
            await until(lambda before=before: guests > before)
            await asyncio.to_thread(registry.remove, "guest")
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(one()) for _ in range(8)]
    await change()
    stop = True
    await asyncio.gather(*tasks)
    assert wrong == [] and guests >= 10
