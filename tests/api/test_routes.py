from dataclasses import replace

import pytest

from serve_app.config.tree import StoreConfig
from serve_app.gateway.services import Readiness
from serve_app.store.base import MOST_FEEDBACK, Feedback
from serve_app.store.database import Database
from serve_app.store.sqlite import SqliteStore
from tests.api.fakes import DictStore, FakePool, config, services

ASK = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}


async def test_models(client):
    body = (await client().get("/v1/models")).json()
    assert body["object"] == "list"
    assert [m["id"] for m in body["data"]] == ["jethro", "lab-small", "lab-large"]
    assert body["data"][0].items() >= {"object": "model", "owned_by": "jethro"}.items()


async def test_one_model_whose_id_holds_slashes(client):
    parts = services(small=FakePool(model="org/model-7b"))
    assert (await client(parts).get("/v1/models/org/model-7b")).json()["id"] == "org/model-7b"


async def test_an_unlisted_name_that_works_is_a_model_too(client):
    parts = services()
    parts.catalogue._named["router-x-0.3"] = object()
    parts.catalogue.models = lambda: []
    assert (await client(parts).get("/v1/models/router-x-0.3")).json()["id"] == "router-x-0.3"


async def test_an_unknown_model(client):
    http = client()
    for response in (
        await http.get("/v1/models/none"),
        await http.post("/v1/chat/completions", json={**ASK, "model": "none"}),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
        assert response.json()["error"]["param"] == "model"


async def test_a_decision_without_an_answer(client):
    pool, store = FakePool(), DictStore()
    response = await client(replace(services(small=pool), store=store)).post("/v1/route", json=ASK)
    body = response.json()
    assert (body["pool"], body["score"], body["threshold"], body["router"]) == ("small", 0.02, 0.5, "length")
    assert body["features"] == {"length": 0.02}
    assert pool.queries == []
    assert [(r.status, r.decision.id) for r in store.records.values()] == [("route_only", body["decision_id"])]


async def test_route_does_not_count_as_in_flight(client):
    parts = services()
    await client(parts).post("/v1/route", json=ASK)
    assert b"jethro_requests_in_flight 0.0" in parts.recorder.text()


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model":"jethro"}'])
async def test_a_bad_body_of_any_route_is_a_400(client, body):
    http = client()
    for path in ("/v1/route", "/v1/feedback", "/v1/chat/completions", "/v1/completions"):
        response = await http.post(path, content=body, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_body_over_the_limit_is_a_413_on_every_route(client):
    http = client(services(tree=config(limits={"body_bytes": 10})))

    async def chunks():
        for _ in range(4):
            yield b"12345"

    for path in ("/v1/route", "/v1/feedback", "/v1/chat/completions", "/v1/completions"):
        for content in (b"x" * 11, chunks()):
            response = await http.post(path, content=content, headers={"content-type": "application/json"})
            assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


async def test_feedback_on_an_answer(client):
    store = DictStore()
    http = client(replace(services(), store=store))
    answer = await http.post("/v1/chat/completions", json=ASK)
    decision_id = answer.headers["x-jethro-decision-id"]
    response = await http.post("/v1/feedback", json={"decision_id": decision_id, "score": 1, "comment": "good"})
    assert response.json() == {"decision_id": decision_id, "stored": True}
    assert [(f.score, f.comment) for f in store.judgements] == [(1.0, "good")]
    assert (await http.get(f"/v1/decisions/{decision_id}")).json()["status"] == "completed"


async def test_feedback_that_prefers_an_answer(client):
    store = DictStore()
    http = client(replace(services(), store=store))
    decision_id = (await http.post("/v1/chat/completions", json=ASK)).headers["x-jethro-decision-id"]
    given = {"decision_id": decision_id, "preferred": "large"}
    assert (await http.post("/v1/feedback", json=given)).status_code == 200
    assert store.judgements == [Feedback(decision_id, preferred="large", against="large")]
    for wrong, param in (({"preferred": "huge"}, "preferred"), ({"against": "large"}, "score"), ({}, "score")):
        response = await http.post("/v1/feedback", json={"decision_id": decision_id, **wrong})
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    unknown = await http.post("/v1/feedback", json=given | {"decision_id": "none"})
    assert unknown.status_code == 404
    assert len(store.judgements) == 1


async def test_feedback_on_an_unknown_decision(client):
    response = await client().post("/v1/feedback", json={"decision_id": "none", "score": 1})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


async def test_feedback_on_a_decision_is_bounded(client, tmp_path):
    path = str(tmp_path / "x.sqlite3")
    store = SqliteStore(StoreConfig(path=path, flush_s=0.05))
    await store.start()
    http = client(replace(services(), store=store))
    decision_id = (await http.post("/v1/chat/completions", json=ASK)).headers["x-jethro-decision-id"]
    given = {"decision_id": decision_id, "score": 1}
    statuses = [(await http.post("/v1/feedback", json=given)).status_code for _ in range(MOST_FEEDBACK)]
    refused = await http.post("/v1/feedback", json=given)
    assert set(statuses) == {200} and refused.status_code == 409
    assert refused.json()["error"].items() >= {"code": "too_much_feedback", "param": "decision_id"}.items()
    assert "100 pieces of feedback" in refused.json()["error"]["message"]
    await store.aclose()


async def test_another_tenants_decision_is_looked_up_as_one_that_there_is_not(client, tmp_path, monkeypatch):
    store = SqliteStore(StoreConfig(path=str(tmp_path / "x.sqlite3"), flush_s=0.05))
    await store.start()
    parts = replace(services(keys={"acme": "k1", "umbrella": "k2"}), store=store)
    ours, theirs = client(parts, authorization="Bearer k1"), client(parts, authorization="Bearer k2")
    decision_id = (await ours.post("/v1/chat/completions", json=ASK)).headers["x-jethro-decision-id"]
    assert (await ours.get(f"/v1/decisions/{decision_id}")).status_code == 200
    looked_up, find = [], Database.find
    monkeypatch.setattr(Database, "find", lambda *given: (looked_up.append(given[1:]), find(*given))[1])
    answers = []
    for id_ in (decision_id, "0" * 24):
        answers.append((await theirs.get(f"/v1/decisions/{id_}")).text.replace(id_, "ID"))
        answers.append(
            (await theirs.post("/v1/feedback", json={"decision_id": id_, "score": 0})).text.replace(id_, "ID")
        )
    assert len(set(answers)) == 1 and "No decision" in answers[0]
    assert looked_up == [(decision_id, "umbrella")] * 4 + [("0" * 24, "umbrella")] * 4
    await store.aclose()


async def test_another_tenants_decision_does_not_exist(client):
    store = DictStore()
    parts = replace(services(keys={"acme": "k1", "umbrella": "k2"}), store=store)
    ours, theirs = client(parts, authorization="Bearer k1"), client(parts, authorization="Bearer k2")
    decision_id = (await ours.post("/v1/chat/completions", json=ASK)).headers["x-jethro-decision-id"]
    assert (await ours.get(f"/v1/decisions/{decision_id}")).status_code == 200
    assert (await theirs.get(f"/v1/decisions/{decision_id}")).status_code == 404
    assert (await theirs.post("/v1/feedback", json={"decision_id": decision_id, "score": 0})).status_code == 404
    assert store.judgements == []
    assert (await ours.post("/v1/feedback", json={"decision_id": decision_id, "score": 0})).status_code == 200


async def test_live(client):
    assert (await client().get("/health/live")).json() == {"ok": True}


async def test_ready_says_what_is_missing(client):
    ready = await client().get("/health/ready")
    assert (ready.status_code, ready.json()["ok"], ready.json()["pools"]["small"]["replicas"]) == (200, True, 1)
    nobody = services(small=FakePool(replicas=0), large=FakePool("large", "lab-large", replicas=0))
    response = await client(nobody).get("/health/ready")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert [p["ok"] for p in response.json()["pools"].values()] == [False, False]


async def test_while_another_pool_answers_in_its_place_it_is_degraded(client):
    response = await client(services(large=FakePool("large", "lab-large", replicas=0))).get("/health/ready")
    assert response.status_code == 200 and response.json()["degraded"] is True
    assert [(p["ok"], p["why"]) for p in response.json()["pools"].values()] == [
        (True, None),
        (False, "no replica answers"),
    ]


async def test_a_pool_that_need_not_be_there(client):
    pools = config().model_dump()["pools"]
    tree = config(pools={"large": {**pools["large"], "required": False}})
    parts = services(large=FakePool("large", "lab-large", replicas=0), tree=tree)
    assert (await client(parts).get("/health/ready")).status_code == 200


async def test_readiness_can_be_said_from_outside(client):
    parts = replace(services(), ready=lambda: Readiness(False, pools={"small": {"ok": False, "detail": "stops"}}))
    response = await client(parts).get("/health/ready")
    assert (response.status_code, response.json()["pools"]) == (503, {"small": {"ok": False, "detail": "stops"}})


async def test_metrics_hold_ours_and_what_else_there_is(client):
    async def scrape():
        return "engine_tokens_total 5\n"

    http = client(replace(services(), scrape=scrape))
    await http.post("/v1/chat/completions", json=ASK)
    response = await http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    labels = 'pool="small",reason="score_below",router="length",strategy="route"'
    assert f"jethro_decisions_total{{{labels}}} 1.0" in response.text
    assert response.text.endswith("engine_tokens_total 5\n")


async def test_routers_are_listed_with_version_threshold_and_drift(client):
    body = (await client().get("/v1/routers")).json()
    (router,) = body["data"]
    assert body["object"] == "list" and router["id"] == "length" and router["default"] is True
    assert router["drift"]["scores"] == {"drift": False, "statistic": 0.01, "limit": 0.1, "queries": 200}


async def test_the_policy_is_named_in_header_and_body(client):
    ask = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}
    answer = await client().post("/v1/chat/completions", json=ask)
    assert answer.headers["x-jethro-policy"] == answer.json()["jethro"]["policy_version"] == "length@0.5"
    direct = await client().post("/v1/chat/completions", json={**ask, "model": "lab-small"})
    assert "x-jethro-policy" not in direct.headers


async def test_scores_of_answers_reach_the_watch_over_the_router(client):
    parts = services()
    ask = {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]}
    answer = await client(parts).post("/v1/chat/completions", json=ask)
    decision_id = answer.headers["x-jethro-decision-id"]
    for given in ({"score": 0.25}, {"preferred": "tie", "against": "large"}):
        stored = await client(parts).post("/v1/feedback", json={"decision_id": decision_id, **given})
        assert stored.status_code == 200, stored.text
    ((record, score),) = parts.routers.judgements
    assert record["decision_id"] == decision_id and score == 0.25
