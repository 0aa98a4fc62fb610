""""""

import httpx
import pytest

from serve_app.api.app import build_app
from serve_app.config.tree import Config
from serve_app.errors import ConfigError
from serve_app.gateway.services import build_services, pools_ready
from serve_app.observability.access_log import JsonLog, NoLog
from serve_app.pools.base import PoolLoad
from tests.api.fakes import FakePool, config


@pytest.fixture
def pools():
    return {"small": FakePool(), "large": FakePool("large", "lab-large")}


@pytest.fixture
def tree(tmp_path) -> Config:
    return config(
        store={"path": str(tmp_path / "x.sqlite3"), "flush_s": 0.02},
        routing={"router": "random", "threshold": 0.5},
        log={"access": False},
    )


async def test_built_from_a_config_it_answers_and_stores(tree, pools):
    services = build_services(tree, pools)
    await services.start()
    transport = httpx.ASGITransport(build_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://jethro") as http:
        answer = await http.post(
            "/v1/chat/completions", json={"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}
        )
        decision_id = answer.headers["x-jethro-decision-id"]
        assert (await http.post("/v1/feedback", json={"decision_id": decision_id, "score": 1})).status_code == 200
        record = (await http.get(f"/v1/decisions/{decision_id}")).json()
        assert (record["status"], record["prompt_tokens"], record["feedback"][0]["score"]) == ("completed", 5, 1.0)
        assert "jethro_store_queued" in (await http.get("/metrics")).text
    await services.aclose()
    assert [pool.closed for pool in pools.values()] == [True, True]


def test_keys_come_from_the_environment_by_reference(tree, pools, monkeypatch):
    keyed = tree.model_copy(update={"server": config(server={"keys": [{"name": "acme", "env": "ACME_KEY"}]}).server})
    monkeypatch.setenv("ACME_KEY", "k1")
    assert build_services(keyed, pools).keys == {"acme": "k1"}
    monkeypatch.delenv("ACME_KEY")
    with pytest.raises(ConfigError, match="ACME_KEY"):
        build_services(keyed, pools)


def test_two_tenants_with_one_key_are_refused(tree, pools, monkeypatch):
    keys = [{"name": "acme", "env": "A"}, {"name": "umbrella", "env": "B"}]
    keyed = tree.model_copy(update={"server": config(server={"keys": keys}).server})
    monkeypatch.setenv("A", "same")
    monkeypatch.setenv("B", "same")
    with pytest.raises(ConfigError, match="umbrella"):
        build_services(keyed, pools)


def test_the_request_log_can_be_off(tree, pools):
    assert isinstance(build_services(tree, pools).access_log, NoLog)
    logged = tree.model_copy(update={"log": config().log})
    log = build_services(logged, pools, replica="g1").access_log
    assert isinstance(log, JsonLog)
    log.close()


def test_a_pool_that_is_not_built_is_not_ready(tree, pools):
    assert pools_ready(tree, pools).ok
    del pools["large"]
    readiness = pools_ready(tree, pools)
    assert (readiness.ok, readiness.pools["large"]["ok"]) == (False, False)


@pytest.mark.parametrize(("replicas", "answers", "ready"), [(1, True, True), (1, False, False), (0, False, False)])
def test_a_pool_is_ready_while_it_is_known_to_answer(tree, pools, replicas, answers, ready, monkeypatch):
    monkeypatch.setattr(pools["small"], "load", lambda: PoolLoad(replicas, 0, answers=answers))
    assert pools_ready(tree, pools).pools["small"]["ok"] is ready
