"""Reading and deleting stored decisions over HTTP, on a real store."""

from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest

from serve_app.config.tree import StoreConfig
from serve_app.erasure import Selection
from serve_app.errors import PoolUnavailable
from serve_app.store.sqlite import SqliteStore
from tests.api.fakes import config, services

KEYS = {"acme": "k1", "umbrella": "k2"}


def ask(**changes):
    return {"model": "jethro", "messages": [{"role": "user", "content": "hi"}], **changes}


@pytest.fixture
async def store(tmp_path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(StoreConfig(path=str(tmp_path / "x.sqlite3"), flush_s=0.05))
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
def parts(store):
    return replace(services(keys=KEYS, tree=config(store={"keep_prompts": True})), store=store)


@pytest.fixture
def ours(client, parts):
    return client(parts, authorization="Bearer k1")


@pytest.fixture
def theirs(client, parts):
    return client(parts, authorization="Bearer k2")


async def answered(http, **changes) -> str:
    response = await http.post("/v1/chat/completions", json=ask(**changes))
    assert response.status_code == 200, response.text
    return response.headers["x-jethro-decision-id"]


async def test_a_decision_is_deleted_with_its_feedback_and_by_its_tenant_alone(ours, theirs):
    id_ = await answered(ours)
    assert (await ours.post("/v1/feedback", json={"decision_id": id_, "score": 1})).status_code == 200
    assert (await theirs.delete(f"/v1/decisions/{id_}")).status_code == 404
    assert (await ours.get(f"/v1/decisions/{id_}")).status_code == 200
    response = await ours.delete(f"/v1/decisions/{id_}")
    assert (response.status_code, response.json()) == (200, {"id": id_, "object": "decision", "deleted": True})
    for again in (await ours.get(f"/v1/decisions/{id_}"), await ours.delete(f"/v1/decisions/{id_}")):
        assert again.status_code == 404
    assert (await ours.post("/v1/feedback", json={"decision_id": id_, "score": 1})).status_code == 404


@pytest.mark.parametrize("named", [{"user": "u/1@x"}, {"safety_identifier": "u/1@x"}])
async def test_a_users_decisions_are_exported_and_deleted(ours, theirs, named):
    mine = [await answered(ours, **named), await answered(ours, user="other", **({} if "user" in named else named))]
    mine = mine if "user" not in named else mine[:1]
    kept, foreign = await answered(ours, user="u/1"), await answered(theirs, **named)
    path = "/v1/users/u%2F1%40x/decisions"
    exported = await ours.get(path)
    assert exported.headers["content-type"] == "application/x-ndjson"
    lines = [orjson.loads(line) for line in exported.text.splitlines()]
    assert [line["decision_id"] for line in lines] == mine
    assert {(line["prompt"], line["tenant"]) for line in lines} == {("hi", "acme")}
    gone = await ours.delete(path)
    assert gone.json() == {"object": "decisions.deleted", "decisions": len(mine), "feedback": 0}
    assert (await ours.get(path)).text == ""
    assert (await ours.get(f"/v1/decisions/{kept}")).status_code == 200
    assert (await theirs.get(f"/v1/decisions/{foreign}")).status_code == 200
    assert (await ours.delete(path)).json()["decisions"] == 0


async def test_a_tenant_deletes_all_that_is_its_own_and_not_by_mistake(ours, theirs):
    ids = [await answered(ours), await answered(ours, user="x")]
    foreign = await answered(theirs)
    refused = await ours.delete("/v1/decisions")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "all")
    assert "deletes all your decisions" in refused.json()["error"]["message"]
    assert len((await ours.get("/v1/decisions")).text.splitlines()) == 2
    assert (await ours.delete("/v1/decisions/")).status_code == 404
    assert (await ours.delete("/v1/decisions?all=true")).json()["decisions"] == 2
    for id_ in ids:
        assert (await ours.get(f"/v1/decisions/{id_}")).status_code == 404
    assert (await theirs.get(f"/v1/decisions/{foreign}")).status_code == 200


async def test_streams_texts_are_erased_too_and_a_learner_that_is_away_is_reported(client, store):
    class Erasing:
        away = False

        async def erase(self, selection, before_s):
            seen.append(selection)
            if self.away:
                raise PoolUnavailable("The Learner does not answer now: try again.", retry_after_s=1)

    seen: list[Selection] = []
    streams = Erasing()
    http = client(replace(services(), store=store, streams=streams))
    id_ = await answered(http, user="x")
    assert (await http.delete("/v1/users/x/decisions")).status_code == 200
    streams.away = True
    response = await http.delete("/v1/decisions?all=true")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert (await http.get(f"/v1/decisions/{id_}")).status_code == 404
    assert seen == [Selection(user="x"), Selection()]


async def test_a_store_that_is_closed_refuses_and_nothing_is_half_exported(ours, store):
    await store.aclose()
    for response in (await ours.get("/v1/users/x/decisions"), await ours.delete("/v1/users/x/decisions")):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")


async def test_users_of_odd_lengths_are_refused(ours):
    for name in ("user", "safety_identifier"):
        response = await ours.post("/v1/chat/completions", json=ask(**{name: "x" * 513}))
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)


async def test_a_safety_identifier_reaches_the_models_as_user(ours, parts):
    await answered(ours, safety_identifier="s1")
    await answered(ours, safety_identifier="s1", user="u1")
    queries = [query for pool in parts.pools.values() for query in pool.queries]
    assert [(q.user, q.safety_identifier) for q in queries] == [("s1", "s1"), ("u1", "s1")]
