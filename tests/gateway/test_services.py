""""""

from dataclasses import replace
from time import time

import httpx
import pytest

from serve_app.api.app import build_app
from serve_app.config.tree import Config
from serve_app.errors import ConfigError
from serve_app.gateway.services import build_services, pools_ready
from serve_app.observability.access_log import JsonLog, NoLog
from serve_app.pools.base import PoolLoad
from serve_app.store.base import RequestRecord
from serve_app.types import Decision
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


async def test_a_router_that_does_not_know_the_models_is_told_to_callers(tree, pools):
    """In headers, the `jethro` object, the last event of a stream, the stored decision, and the list of routers."""
    routing = tree.routing.model_copy(update={"router": "complexity", "threshold": None})
    named = {name: pool.model_copy(update={"model": f"lab-{name}"}) for name, pool in tree.pools.items()}
    services = build_services(tree.model_copy(update={"routing": routing, "pools": named}), pools)
    await services.start()
    said = "router complexity was not trained on these models: its score is a guess"
    ask = {"model": "jethro", "messages": [{"role": "user", "content": "what is 2 + 3?"}]}
    transport = httpx.ASGITransport(build_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://jethro") as http:
        answer = await http.post("/v1/chat/completions", json=ask)
        assert answer.headers["x-jethro-warning"] == answer.json()["jethro"]["warning"] == said
        stored = await http.get(f"/v1/decisions/{answer.headers['x-jethro-decision-id']}")
        streamed = await http.post("/v1/chat/completions", json={**ask, "stream": True})
        assert streamed.headers["x-jethro-warning"] == said and f'"warning":"{said}"' in streamed.text
        assert stored.json()["warning"] == (await http.post("/v1/route", json=ask)).json()["warning"] == said
        assert (
            "x-jethro-warning"
            not in (await http.post("/v1/chat/completions", json={**ask, "model": "lab-large"})).headers
        )
        routers = {r["name"]: r for r in (await http.get("/v1/routers")).json()["data"]}
    await services.aclose()
    assert routers["complexity"]["default"] and routers["complexity"]["warning"] == said
    assert routers["complexity"]["models"] == {"weak": "jlab-small", "strong": "jlab-large"}
    assert routers["random"]["warning"] is None and routers["random"]["models"] is None


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
    assert (readiness.ok, readiness.degraded, readiness.pools["large"]["ok"]) == (False, False, False)


@pytest.mark.parametrize(("replicas", "answers", "ready"), [(1, True, True), (1, False, False), (0, False, False)])
def test_a_pool_is_ready_while_it_is_known_to_answer(tree, pools, replicas, answers, ready, monkeypatch):
    monkeypatch.setattr(pools["small"], "load", lambda: PoolLoad(replicas, 0, answers=answers))
    assert pools_ready(tree, pools).pools["small"]["ok"] is ready


DOWN = PoolLoad(1, 0, answers=False, fault="cannot be reached")


@pytest.mark.parametrize("name", ["small", "large"])
def test_one_of_the_two_that_is_down_degrades_and_says_why(tree, pools, name, monkeypatch):
    """Every routed query falls back to the other."""
    monkeypatch.setattr(pools[name], "load", lambda: DOWN)
    found = pools_ready(tree, pools)
    assert (found.ok, found.degraded) == (True, True)
    assert found.pools[name]["why"] == "cannot be reached" and found.pools[name]["ok"] is False


def test_both_down_is_not_ready(tree, pools, monkeypatch):
    for pool in pools.values():
        monkeypatch.setattr(pool, "load", lambda: DOWN)
    found = pools_ready(tree, pools)
    assert (found.ok, found.degraded) == (False, False)


@pytest.mark.parametrize(
    ("lacks", "ready"),
    [({}, True), ({"tools": False}, False), ({"guided": False}, False), ({"max_context_tokens": 10}, False)],
)
def test_a_pool_that_cannot_do_all_of_the_other_is_no_substitute(tree, pools, lacks, ready, monkeypatch):
    pools["large"].capabilities = replace(pools["large"].capabilities, max_context_tokens=100)
    pools["small"].capabilities = replace(pools["large"].capabilities, **lacks)
    monkeypatch.setattr(pools["large"], "load", lambda: DOWN)
    assert pools_ready(tree, pools).ok is ready


@pytest.mark.parametrize(
    ("required", "expected"), [(None, (True, True)), (True, (False, False)), (False, (True, False))]
)
def test_a_pool_counts_as_the_config_says(tree, pools, required, expected, monkeypatch):
    large = tree.pools["large"].model_copy(update={"required": required})
    monkeypatch.setattr(pools["large"], "load", lambda: DOWN)
    found = pools_ready(tree.model_copy(update={"pools": {"small": tree.pools["small"], "large": large}}), pools)
    assert (found.ok, found.degraded) == expected


def test_a_pool_that_has_not_started_yet_is_waited_for(tree, pools, monkeypatch):
    monkeypatch.setattr(pools["large"], "load", lambda: PoolLoad(0, 0, answers=False, started=False))
    assert pools_ready(tree, pools).ok is False


@pytest.mark.parametrize("counted", [True, False])
async def test_requests_are_counted_only_where_metrics_are_on(tmp_path, pools, counted):
    made = build_services(config(store={"path": str(tmp_path / "x.sqlite3")}, log={"metrics": counted}), pools)
    made.settle(RequestRecord("r", "chat", time(), decision=Decision("d", "route", "small", "lab-small", "why")))
    assert (b"jethro_requests_total{" in made.recorder.text()) is counted
    assert bool(made.live.steps()) is counted
    await made.aclose()
