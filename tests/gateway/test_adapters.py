"""Which pool serves which adapter, and the names that callers write."""

import asyncio
from contextlib import aclosing

import pytest
from safetensors.torch import load_file

from serve_app.adapters import registry as registry_module
from serve_app.adapters.registry import AdapterRegistry
from serve_app.config.adapters import AdapterCacheConfig, VllmAdaptersConfig
from serve_app.config.tree import Config
from serve_app.errors import InvalidAdapter, ModelNotFound, NotFound, PermissionDenied
from serve_app.gateway.adapters import GatewayAdapters
from serve_app.gateway.catalogue import Catalogue
from serve_app.placement.pool import PlacedPool
from serve_app.pools.directory import Directory, ReplicaReport
from serve_app.pools.factory import build_pool
from serve_app.routing.strategy import DirectStrategy
from serve_app.strategy import Context, Spent
from serve_app.types import Capabilities, Message, Query, Usage
from serve_app.wire.frames import Call
from tests.api.fakes import FakePool
from tests.lora import registry_settings, save_adapter
from tests.models import save_random_model

QUERY = Query((Message("user", "sort 3 1 2"),))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return {name: save_random_model(place / name, seed=i) for i, name in enumerate(("small", "other"))}


@pytest.fixture(autouse=True)
def _nothing_ships(tmp_path, monkeypatch):
    """The names of these tests are free."""
    monkeypatch.setattr(registry_module, "shipped_dir", lambda: tmp_path / "shipped")


def config(models, folder, **adapters) -> Config:
    pools = {
        "small": {"model": "m", "engine": {"kind": "transformers", "path": str(models["small"]), "adapters": {}}},
        "large": {"model": "m:large", "engine": {"kind": "transformers", "path": str(models["small"])}},
        "other": {"model": "o", "engine": {"kind": "transformers", "path": str(models["other"]), "adapters": {}}},
        "far": {"model": "f", "engine": {"kind": "vllm", "path": "/elsewhere/model", "adapters": {}}},
    }
    settings = registry_settings(folder, sources=[str(folder / "sources")], **adapters).model_dump()
    return Config.model_validate({"pools": pools, "adapters": settings, "routing": {"router": "random"}})


def fakes(tree):
    return {n: FakePool(n, p.model, capabilities=Capabilities(adapters=True)) for n, p in tree.pools.items()}


@pytest.fixture
def registry(tmp_path, models):
    registry = AdapterRegistry(registry_settings(tmp_path))
    registry.add(save_adapter(tmp_path / "sources" / "sort", models["small"], name="sort", about={"task": "sorting"}))
    registry.add(save_adapter(tmp_path / "sources" / "tone", models["other"], name="tone"))
    return registry


@pytest.fixture
async def adapters(tmp_path, models, registry):
    tree = config(models, tmp_path)
    made = GatewayAdapters(tree, fakes(tree))
    await made.look()
    return made


async def test_a_model_and_its_adapter(adapters):
    pool, name = adapters.resolve("m:sort")
    assert (pool.name, name) == ("small", "sort")
    assert adapters.resolve("o:tone")[0].name == "other"
    assert {full for full, _, _ in adapters.names()} == {"m:sort", "o:tone"}
    assert adapters.resolve("sort") is None and adapters.resolve("x:sort") is None and adapters.resolve("m") is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("m:nobody", r"The model m has no adapter 'nobody': there are m:sort"),
        ("m:../sort", "has no adapter"),
        ("m:", "has no adapter ''"),
        ("m:tone", "The adapter 'tone' is not one of m: use o:tone"),
        ("m:large:sort", "The adapter 'sort' is not one of m:large: use m:sort"),
    ],
)
async def test_an_adapter_that_is_not_the_pools(adapters, model, message):
    with pytest.raises(ModelNotFound, match=message) as caught:
        adapters.resolve(model)
    assert caught.value.status == 404 and caught.value.param == "model"


async def test_an_adapter_of_an_older_version_of_the_base(adapters, registry, tmp_path):
    model = tmp_path / "changing"
    save_random_model(model, seed=5)
    registry.add(save_adapter(tmp_path / "old", model, name="old"))
    with pytest.raises(ModelNotFound, match=r"'old' belongs to .* request it from a pool that runs its base model"):
        adapters.resolve("m:old")


async def test_where_the_weights_are_not_here_the_replica_decides(adapters):
    assert adapters.resolve("f:sort")[0].name == "far"
    assert not any(full.startswith("f:") for full, _, _ in adapters.names())


async def test_an_adapter_of_another_gateway_is_known_without_waiting(adapters, registry, tmp_path, models):
    registry.add(save_adapter(tmp_path / "sources" / "new", models["small"], name="new"))
    assert adapters.resolve("m:new")[1] == "new"


async def test_the_catalogue_lists_and_resolves_them(tmp_path, models, registry):
    tree = config(models, tmp_path)
    pools = fakes(tree)
    catalogue = Catalogue.from_config(tree, pools)
    with pytest.raises(ModelNotFound):
        catalogue.resolve("m:sort")
    catalogue.adapters = GatewayAdapters(tree, pools)
    await catalogue.adapters.look()
    listed = {entry.id: entry.description for entry in catalogue.models()}
    assert listed["m:sort"] == "the small pool with the adapter sort: sorting"
    strategy = catalogue.resolve("m:sort")
    assert isinstance(strategy, DirectStrategy) and (strategy.pool.name, strategy.adapter) == ("small", "sort")
    decision = await strategy.decide(Query((Message("user", "hi"),)), "1")
    assert (decision.model, decision.pool, decision.reason) == ("m:sort", "small", "the request names m:sort")
    large = catalogue.resolve("m:large")
    assert isinstance(large, DirectStrategy) and large.adapter is None, "a model's own id goes first"


async def test_a_token_with_an_adapter_costs_what_it_computes_more(tmp_path, models, registry):
    tree = config(models, tmp_path)
    pools = fakes(tree)
    made = GatewayAdapters(tree, pools)
    assert pools["small"].price.adapters == {}
    await made.look()
    cards = registry.all()
    base = sum(t.numel() for t in load_file(models["small"] / "model.safetensors").values())
    expected = 1 + cards["sort"].files.parameters / base
    assert pools["small"].price.adapters == {"sort": expected} and expected > 1
    assert pools["large"].price.adapters == {}, "it serves none"
    changed = sum(shape.inputs * shape.outputs for shape in cards["sort"].files.modules.values())
    assert pools["far"].price.adapters["sort"] == 1 + cards["sort"].files.parameters / changed, "no weights are here"
    await made.remove("sort")
    assert pools["small"].price.adapters == {} and pools["other"].price.adapters.keys() == {"tone"}


async def test_the_config_may_set_what_adapters_cost(tmp_path, models, registry):
    tree = config(models, tmp_path).model_dump(mode="json")
    tree["pools"]["small"]["engine"]["adapters"]["price_factor"] = 2.5
    tree = Config.model_validate(tree)
    pools = fakes(tree)
    await GatewayAdapters(tree, pools).look()
    assert pools["small"].price.adapters == {"sort": 2.5}
    usage = Usage(10, 20)
    plain = pools["small"].price.cost_usd(usage)
    assert plain > 0 and pools["small"].price.cost_usd(usage, "sort") == pytest.approx(2.5 * plain)
    assert pools["small"].price.cost_usd(usage, "unknown") == plain


async def test_an_answer_by_an_adapter_reports_its_cost(tmp_path, models, registry):
    tree = config(models, tmp_path)
    pools = fakes(tree)
    catalogue = Catalogue.from_config(tree, pools)
    catalogue.adapters = GatewayAdapters(tree, pools)
    await catalogue.adapters.look()
    costs = {}
    for model in ("m", "m:sort"):
        strategy = catalogue.resolve(model)
        async with aclosing(strategy.run(QUERY, Context(Call("d", "r", 0), stream=False))) as events:
            [spent] = [event async for event in events if isinstance(event, Spent)]
        costs[model] = spent.cost_usd
    assert costs["m:sort"] == pytest.approx(costs["m"] * pools["small"].price.adapters["sort"]) and costs["m"] > 0


async def test_add_pin_and_remove(adapters, tmp_path, models):
    save_adapter(tmp_path / "sources" / "raw", models["small"])
    raw = str(tmp_path / "sources" / "raw")
    with pytest.raises(InvalidAdapter, match="give a name and the base"):
        await adapters.add({"source": raw})
    with pytest.raises(NotFound, match="No pool 'nope'"):
        await adapters.add({"source": raw, "name": "raw", "pool": "nope"})
    added = await adapters.add({"source": raw, "name": "raw", "pool": "small", "pinned": True, "licence": "mit"})
    assert (added["id"], added["models"], added["pinned"], added["licence"]) == ("raw", ["m:raw"], True, "mit")
    assert not (await adapters.pin("raw", False))["pinned"]
    assert [a["id"] for a in await adapters.all()] == ["raw", "sort", "tone"]
    await adapters.remove("raw")
    with pytest.raises(NotFound, match="No adapter 'raw'"):
        await adapters.get("raw")


@pytest.mark.parametrize("source", ["/etc", "{0}", "{0}/sources/../elsewhere", "{0}/sources/link", "\0", "~", "../.."])
async def test_the_api_takes_no_folder_from_elsewhere(adapters, tmp_path, models, source):
    save_adapter(tmp_path / "elsewhere", models["small"], name="x")
    (tmp_path / "sources" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidAdapter, match=r"is in none of adapters\.sources|is no folder") as caught:
        await adapters.add({"source": source.format(tmp_path)})
    assert caught.value.param == "source"


async def test_a_hub_id_without_a_network_is_a_clear_error(adapters, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidAdapter, match=r"someone/lora: cannot be downloaded .* copy the adapter's folder"):
        await adapters.add({"source": "someone/lora", "name": "x", "pool": "small"})


def test_who_may_change_them(tmp_path, models, monkeypatch):
    tree = config(models, tmp_path).model_dump()
    GatewayAdapters(Config.model_validate(tree), fakes(Config.model_validate(tree))).check_may_change(None)
    tree["server"]["keys"] = [{"name": "ops", "env": "OPS"}, {"name": "acme", "env": "ACME"}]
    tree["adapters"]["managers"] = ["ops"]
    closed = Config.model_validate(tree)
    adapters = GatewayAdapters(closed, fakes(closed))
    adapters.check_may_change("ops")
    for tenant in ("acme", None):
        with pytest.raises(PermissionDenied, match=r"name its tenant in adapters\.managers") as caught:
            adapters.check_may_change(tenant)
        assert caught.value.status == 403
    tree["adapters"]["managers"] = ["nobody"]
    with pytest.raises(ValueError, match=r"adapters\.managers: no key is named nobody"):
        Config.model_validate(tree)


async def test_replicas_that_hold_an_adapter_are_counted(tmp_path, models, registry):
    tree = config(models, tmp_path)
    pool = build_pool("small", tree.pools["small"], cluster_secret="s", timeout_s=1)
    assert pool.capabilities.adapters
    assert isinstance(pool.directory, Directory)
    pool.directory.update([ReplicaReport("a", adapters=("sort",)), ReplicaReport("b")])
    for served in (pool, PlacedPool(pool)):
        adapters = GatewayAdapters(tree, {**fakes(tree), "small": served})
        assert (await adapters.get("sort"))["loaded"] == {"small": 1}
    await pool.aclose()


async def test_the_registry_is_followed(tmp_path, models, registry):
    tree = config(models, tmp_path)
    adapters = GatewayAdapters(tree, fakes(tree))
    adapters.start()
    async with asyncio.timeout(10):
        while len(list(adapters.names())) < 2:
            await asyncio.sleep(0.01)
        registry.remove("sort")
        while len(list(adapters.names())) > 1:
            await asyncio.sleep(0.01)
    await adapters.aclose()
    with pytest.raises(ModelNotFound, match="there are none"):
        adapters.resolve("m:sort")


def test_settings_that_contradict_themselves():
    with pytest.raises(ValueError, match="2 adapters are pinned and max_loaded is 1"):
        AdapterCacheConfig(max_loaded=1, pinned=("a", "b"))
    with pytest.raises(ValueError, match="name each pinned adapter once"):
        AdapterCacheConfig(pinned=("a", "a"))
    with pytest.raises(ValueError, match="max_in_batch 4 is above max_loaded 2"):
        VllmAdaptersConfig(max_loaded=2)
