"""Who may do what under /v1/admin/."""

import pytest

from serve_app.errors import ConfigError
from serve_app.gateway.services import build_services
from tests.api.admin.conftest import ADMIN, CALLER, gateway
from tests.api.fakes import FakePool

READS = (
    "/v1/admin/access",
    "/v1/admin/decisions",
    "/v1/admin/decisions/x",
    "/v1/admin/routers",
    "/v1/admin/routers/complexity/curve",
    "/v1/admin/predict?router=complexity&threshold=0.5",
)
WRITES = ("/v1/admin/routers/complexity/threshold", "/v1/admin/routers/complexity/undo")
KEYS = {"keys": [{"name": "acme", "env": "TEST_CALLER_KEY"}]}


async def statuses(world, key: str | None) -> tuple[set[int], set[int]]:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    world.http.headers.pop("authorization", None)
    reads = {(await world.http.get(path, headers=headers)).status_code for path in READS}
    writes = [await world.http.post(path, json={"threshold": 0.2}, headers=headers) for path in WRITES]
    for response in writes:
        if response.status_code >= 400:
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return reads, {response.status_code for response in writes}


@pytest.mark.parametrize("key", [None, "wrong", CALLER, ADMIN])
async def test_without_any_keys_reads_are_open_and_writes_closed(tmp_path, keyed, key):
    async with gateway(keyed(tmp_path, server={"admin_key_env": None})) as world:
        assert await statuses(world, key) == ({200, 404}, {403})
        refused = (await world.set(0.2)).json()["error"]
        assert refused["code"] == "admin_key_not_configured" and "server.admin_key_env" in refused["message"]
        access = (await world.http.get("/v1/admin/access")).json()
        assert (access["reads"], access["writes"], access["granted"]) == ("open", "closed", False)


@pytest.mark.parametrize(
    ("key", "reads", "writes"),
    [(None, {200, 404}, {401}), ("wrong", {401}, {401}), (ADMIN + "x", {401}, {401}), (ADMIN, {200, 404}, {200})],
)
async def test_without_callers_keys_reads_are_open_to_those_who_send_none(tmp_path, keyed, key, reads, writes):
    async with gateway(keyed(tmp_path)) as world:
        assert await statuses(world, key) == (reads, writes)


@pytest.mark.parametrize("key", [None, "wrong", CALLER, ADMIN])
async def test_with_callers_keys_and_no_operators_all_is_closed(tmp_path, keyed, key):
    async with gateway(keyed(tmp_path, server={"admin_key_env": None, **KEYS})) as world:
        assert await statuses(world, key) == ({403}, {403})


@pytest.mark.parametrize(
    ("key", "reads", "writes"), [(None, {401}, {401}), (CALLER, {401}, {401}), (ADMIN, {200, 404}, {200})]
)
async def test_with_both_only_the_operators_key_opens_its_routes_and_no_others(tmp_path, keyed, key, reads, writes):
    async with gateway(keyed(tmp_path, server=KEYS)) as world:
        assert await statuses(world, key) == (reads, writes)
        await world.ask()  # by a caller
        for path in ("/v1/models", "/v1/decisions", "/metrics"):
            assert (await world.http.get(path, headers={"authorization": f"Bearer {ADMIN}"})).status_code == 401


async def test_a_refusal_changes_nothing_and_names_no_key(tmp_path, keyed, caplog):
    async with gateway(keyed(tmp_path, server=KEYS), key=CALLER) as world:
        before = await world.threshold()
        refused = await world.set(0.9)
        assert refused.headers["www-authenticate"] == "Bearer"
        assert await world.threshold() == before
        assert not (tmp_path / "routers").exists()
        document = (await world.http.get("/openapi.json")).text
    for text in (refused.text, str(refused.headers), caplog.text, document):
        assert ADMIN not in text and CALLER not in text


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"TEST_ADMIN_KEY": CALLER}, "server.admin_key_env: TEST_ADMIN_KEY holds the key of a caller"),
        ({"TEST_ADMIN_KEY": "m"}, "server.admin_key_env: TEST_ADMIN_KEY holds the key of /metrics"),
        ({"TEST_ADMIN_KEY": " "}, "server.admin_key_env: environment variable TEST_ADMIN_KEY is not set"),
    ],
)
def test_the_operators_key_is_its_own(tmp_path, keyed, monkeypatch, env, message):
    for name, value in {"TEST_METRICS_KEY": "m", **env}.items():
        monkeypatch.setenv(name, value)
    config = keyed(tmp_path, server={"metrics_key_env": "TEST_METRICS_KEY", **KEYS})
    assert config.secrets()["TEST_ADMIN_KEY"] == "server.admin_key_env"
    with pytest.raises(ConfigError, match=message) as refused:
        build_services(config, {"small": FakePool(), "large": FakePool("large")})
    assert CALLER not in str(refused.value)
