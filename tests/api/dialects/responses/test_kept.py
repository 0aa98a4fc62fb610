"""Kept responses over the API: read, listed, continued, deleted; whose they are, and what is never kept."""

from pathlib import Path

import httpx
import openai
import pytest

from serve_app.store.sqlite import SqliteStore
from tests.api.dialects.responses.doubles import Said, SayingPool, events_of
from tests.api.fakes import config, services
from tests.api.server import serving

pytestmark = pytest.mark.usefixtures("certificates_are_read_once")

ASKED = {"model": "jethro", "input": "hi"}
PRIVATE = "a very private word"


def test_a_kept_response_can_be_read_listed_and_deleted(served, client):
    served.says("hello")
    items = [{"role": "user", "content": word} for word in ("a", "b", "c")]
    answer = client.responses.create(model="jethro", input=items)
    assert client.responses.retrieve(answer.id).model_dump() == answer.model_dump()
    newest = client.responses.input_items.list(answer.id, limit=2)
    assert [item.content[0].text for item in newest.data] == ["c", "b"] and newest.has_more
    assert [item.content[0].text for item in newest] == ["c", "b", "a"]  # the client reads on
    oldest = client.responses.input_items.list(answer.id, order="asc")
    assert [item.content[0].text for item in oldest.data] == ["a", "b", "c"] and not oldest.has_more
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        client.responses.cancel(answer.id)
    with pytest.raises(openai.BadRequestError, match="stream"):
        list(client.responses.retrieve(answer.id, stream=True))
    client.responses.delete(answer.id)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            gone(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(answer.id)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up"])
def test_a_wrong_page_is_named(served, query):
    served.says("hello")
    id_ = served.post().json()["id"]
    headers = {"authorization": "Bearer k1"}
    answer = httpx.get(f"{served.url}/v1/responses/{id_}/input_items?{query}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])


def test_a_streamed_response_is_kept_too(served, client):
    served.says("hello", thought="hm")
    last = served.events(input="one")[-1]["response"]
    assert last["store"] and client.responses.retrieve(last["id"]).output_text == "hello"
    client.responses.create(model="jethro", input="two", previous_response_id=last["id"], instructions="be kind")
    turns = [(turn.role, turn.content) for turn in served.pool.queries[-1].messages]
    assert turns == [("system", "be kind"), ("user", "one"), ("assistant", "hello"), ("user", "two")]


def test_another_tenants_response_is_not_found(served):
    served.says("hello")
    first = served.post().json()
    headers = {"authorization": "Bearer k2"}
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        answer = httpx.request(method, f"{served.url}/v1/responses/{first['id']}{path}", headers=headers)
        assert answer.status_code == 404
    chained = served.post(key="k2", previous_response_id=first["id"])
    assert (chained.status_code, chained.json()["error"]["code"]) == (400, "previous_response_not_found")
    item = {"type": "item_reference", "id": first["output"][0]["id"]}
    assert served.post(key="k2", input=[item]).status_code == 404
    assert served.post(input=[item]).status_code == 200
    assert httpx.get(f"{served.url}/v1/responses/{first['id']}").status_code == 401


def test_what_is_not_to_be_kept_is_not(served):
    served.says("hello")
    answer = served.post(store=False).json()
    assert not answer["store"]
    refused = served.post(previous_response_id=answer["id"]).json()["error"]
    assert refused["param"] == "previous_response_id" and "store: false" in refused["message"]


def at_rest(file: Path) -> bytes:
    return b"".join(path.read_bytes() for path in file.parent.iterdir())


def test_nothing_of_class_local_is_kept(placed, caplog):
    placed.says(f"{PRIVATE} said")
    local = {"x-jethro-privacy": "local"}
    whole = placed.post(headers=local, input=f"{PRIVATE} asked", store=True).json()
    events = events_of(placed.post(headers=local, input=f"{PRIVATE} asked", stream=True).content)
    assert not whole["store"] and whole["jethro"]["privacy"] == "local"
    assert [event["response"]["store"] for event in events if "response" in event] == [False] * 3
    for answer in (whole, events[-1]["response"]):
        refused = placed.post(previous_response_id=answer["id"])
        assert refused.status_code == 400 and "class was local" in refused.json()["error"]["message"]
    assert PRIVATE.encode() not in at_rest(placed.file)
    assert PRIVATE not in caplog.text
    placed.post(input=f"{PRIVATE} asked")  # one of another class is: the search above can find it
    assert PRIVATE.encode() in at_rest(placed.file)


def test_the_class_of_an_answer_holds_for_what_continues_it(placed):
    placed.says("hello")
    first = placed.post(headers={"x-jethro-privacy": "private"}).json()
    for headers in ({}, {"x-jethro-privacy": "any"}):
        second = placed.post(headers=headers, previous_response_id=first["id"]).json()
        assert second["jethro"]["privacy"] == "private"
    third = placed.post(previous_response_id=second["id"], headers={"x-jethro-privacy": "local"}).json()
    assert third["jethro"]["privacy"] == "local" and not third["store"]


def test_the_setting_is_named_where_nothing_is_kept(tmp_path):
    pool = SayingPool(said=Said(f"{PRIVATE} said"))
    store = {"path": str(tmp_path / "x.sqlite3"), "keep_responses": "never"}

    def make():
        tree = config(store=store)
        return services(small=pool, tree=tree, change=lambda p: p.update(store=SqliteStore(tree.store)))

    with serving(make) as url:
        answer = httpx.post(f"{url}/v1/responses", json={**ASKED, "input": f"{PRIVATE} asked", "store": True}).json()
        assert answer["status"] == "completed" and not answer["store"]
        chained = httpx.post(f"{url}/v1/responses", json={**ASKED, "previous_response_id": answer["id"]})
        assert chained.status_code == 400 and "store.keep_responses" in chained.json()["error"]["message"]
        assert httpx.get(f"{url}/v1/responses/{answer['id']}").status_code == 404
    assert PRIVATE.encode() not in at_rest(tmp_path / "x.sqlite3")
