"""The routes of adapters, and requests that name one."""

import pytest

from serve_app.adapters import registry as registry_module
from serve_app.adapters.registry import AdapterRegistry
from serve_app.api.middleware import CALLER
from serve_app.gateway.adapters import GatewayAdapters
from serve_app.gateway.services import build_services
from serve_app.types import Capabilities
from tests.api.fakes import FakePool, config
from tests.lora import registry_settings, save_adapter
from tests.models import save_random_model

assert CALLER


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _nothing_ships(tmp_path, monkeypatch):
    """The names of these tests are free."""
    monkeypatch.setattr(registry_module, "shipped_dir", lambda: tmp_path / "shipped")


@pytest.fixture
def parts(tmp_path, model):
    def make(**server):
        engine = {"kind": "transformers", "path": str(model)}
        pools = {
            "small": {"model": "lab-small", "engine": {**engine, "adapters": {}}},
            "large": {"model": "lab-large", "engine": engine},
        }
        settings = registry_settings(tmp_path, sources=[str(tmp_path / "sources")]).model_dump()
        tree = config(
            pools=pools,
            adapters={**settings, "managers": ["ops"] if server else []},
            store={"path": str(tmp_path / "log.sqlite3")},
            routing={"router": "random", "registry": str(tmp_path / "routers")},
            server=server,
        )
        can = Capabilities(adapters=True)
        return build_services(tree, {"small": FakePool(capabilities=can), "large": FakePool("large", "lab-large")})

    AdapterRegistry(registry_settings(tmp_path)).add(save_adapter(tmp_path / "sources" / "sort", model, name="sort"))
    return make


def chat(model):
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


async def test_the_life_of_an_adapter(client, parts, tmp_path, model):
    services = parts()
    api = client(services)
    await services.adapters.look()
    save_adapter(tmp_path / "sources" / "raw", model)
    body = {"source": str(tmp_path / "sources" / "raw"), "name": "tone", "pool": "small", "task": "tone"}
    added = await api.post("/v1/adapters", json=body)
    assert added.status_code == 200, added.text
    assert (added.json()["models"], added.json()["pinned"], added.json()["task"]) == (["lab-small:tone"], False, "tone")
    assert (await api.post("/v1/adapters", json=body)).status_code == 409
    assert (await api.post("/v1/adapters", json={**body, "replace": True})).status_code == 200
    listed = (await api.get("/v1/adapters")).json()
    assert [a["id"] for a in listed["data"]] == ["sort", "tone"]
    assert (await api.patch("/v1/adapters/tone", json={"pinned": True})).json()["pinned"] is True
    assert (await api.get("/v1/adapters/tone")).json()["pinned"] is True
    models = [m["id"] for m in (await api.get("/v1/models")).json()["data"]]
    assert {"lab-small:sort", "lab-small:tone"} <= set(models)
    assert (await api.get("/v1/models/lab-small:tone")).json()["id"] == "lab-small:tone"
    answered = await api.post("/v1/chat/completions", json=chat("lab-small:tone"))
    assert answered.status_code == 200 and answered.headers["x-jethro-model"] == "lab-small:tone"
    assert services.pools["small"].inner.queries[-1].adapter == "tone"
    assert (await api.post("/v1/route", json=chat("lab-small:tone"))).json()["model"] == "lab-small:tone"
    gone = await api.delete("/v1/adapters/tone")
    assert gone.json() == {"id": "tone", "object": "adapter", "deleted": True}
    assert (await api.delete("/v1/adapters/tone")).status_code == 404
    refused = await api.post("/v1/chat/completions", json=chat("lab-small:tone"))
    assert refused.status_code == 404 and refused.json()["error"]["param"] == "model"
    assert "there are lab-small:sort" in refused.json()["error"]["message"]
    await services.aclose()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "source"),
        ({"source": "/etc"}, 400, "adapters.sources"),
        ({"source": "SORT", "name": "../up"}, 400, "use a-z"),
        ({"source": "SORT", "name": "a", "pool": "huge"}, 404, "No pool 'huge'"),
        ({"source": "SORT", "surprise": 1}, 400, "surprise"),
        ({"source": "SORT"}, 409, "there is an adapter"),
    ],
)
async def test_mistakes(client, parts, tmp_path, body, status, said):
    services = parts()
    given = {k: str(tmp_path / "sources" / "sort") if v == "SORT" else v for k, v in body.items()}
    answer = await client(services).post("/v1/adapters", json=given)
    assert answer.status_code == status and said in answer.json()["error"]["message"]
    await services.aclose()


async def test_the_large_pool_serves_none(client, parts):
    services = parts()
    await services.adapters.look()
    answer = await client(services).post("/v1/chat/completions", json=chat("lab-large:sort"))
    assert answer.status_code == 404
    assert "The adapter 'sort' is not one of lab-large: use lab-small:sort" in answer.json()["error"]["message"]
    await services.aclose()


async def test_only_managers_may_change_and_every_key_may_read(client, parts, monkeypatch):
    monkeypatch.setenv("OPS", "o" * 20)
    monkeypatch.setenv("ACME", "a" * 20)
    services = parts(keys=[{"name": "ops", "env": "OPS"}, {"name": "acme", "env": "ACME"}])
    acme, ops = (client(services, authorization=f"Bearer {c * 20}") for c in "ao")
    assert (await client(services).get("/v1/adapters")).status_code == 401
    assert (await acme.get("/v1/adapters")).status_code == 200
    for change in (
        acme.post("/v1/adapters", json={"source": "x/y"}),
        acme.patch("/v1/adapters/sort", json={"pinned": True}),
        acme.delete("/v1/adapters/sort"),
    ):
        answer = await change
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    assert (await ops.patch("/v1/adapters/sort", json={"pinned": True})).status_code == 200
    assert (await ops.delete("/v1/adapters/sort")).status_code == 200
    await services.aclose()


async def test_an_endpoint_without_a_registry(client):
    answer = await client().get("/v1/adapters")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "adapters_disabled"


def test_the_services_have_them(parts):
    assert isinstance(parts().adapters, GatewayAdapters)
