"""The routes of streams, and a stream asked by its model name with the official client."""

import asyncio

import openai
import pytest

from tests.api.fakes import services
from tests.api.server import serving
from tests.streams.served import stream_services

MADE = {"name": "mood", "labels": ["joy", "fear"], "instruction": "Name the feeling.", "levels": ["logistic"]}


@pytest.fixture
async def parts(tmp_path):
    made = stream_services(tmp_path / "streams")
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
async def http(client, parts):
    return client(parts)


def ask(text):
    return {"model": "jethro-stream-mood", "messages": [{"role": "user", "content": text}]}


async def figures(http, until):
    async with asyncio.timeout(10):
        while not until(told := (await http.get("/v1/streams/mood")).json()["figures"]):
            await asyncio.sleep(0.01)
    return told


async def test_a_stream_is_made_asked_shown_and_forgotten(http):
    made = await http.post("/v1/streams", json=MADE)
    assert made.status_code == 200
    body = made.json()
    assert body.items() >= {"id": "mood", "object": "stream", "model": "jethro-stream-mood", "llm_share": 0.2}.items()
    assert (body["state"], body["error"], body["figures"]["queries"]) == ("learning", None, 0)
    assert "jethro-stream-mood" in [m["id"] for m in (await http.get("/v1/models")).json()["data"]]
    assert (await http.get("/v1/models/jethro-stream-mood")).json()["id"] == "jethro-stream-mood"
    answer = await http.post("/v1/chat/completions", json=ask("a day full of joy"))
    assert answer.json()["choices"][0]["message"]["content"] == "joy"
    assert answer.headers["x-jethro-pool"] == "large"
    assert answer.headers["x-jethro-strategy"] == "stream"
    assert float(answer.headers["x-jethro-cost-usd"]) > 0
    told = await figures(http, lambda f: f["labelled"] == 1)
    assert told["share"] == {"logistic": 0.0, "llm": 1.0}
    again = await http.post("/v1/chat/completions", json=ask("a day full of joy"))
    assert again.headers["x-jethro-pool"] == "logistic"
    assert float(again.headers["x-jethro-cost-usd"]) == 0
    assert again.json()["usage"]["total_tokens"] == 0
    assert (await http.get("/v1/streams")).json()["data"][0]["id"] == "mood"
    assert (await http.delete("/v1/streams/mood")).json() == {"id": "mood", "object": "stream", "deleted": True}
    for gone in (
        await http.get("/v1/streams/mood"),
        await http.delete("/v1/streams/mood"),
        await http.patch("/v1/streams/mood", json={"mu": 0.1}),
        await http.get("/v1/models/jethro-stream-mood"),
        await http.post("/v1/chat/completions", json=ask("x")),
    ):
        assert gone.status_code == 404


async def test_another_budget(http):
    await http.post("/v1/streams", json=MADE)
    told = (await http.patch("/v1/streams/mood", json={"llm_share": 0.5, "horizon": 100})).json()
    assert (told["llm_share"], told["mu"], told["horizon"]) == (0.5, None, 100)
    both = await http.patch("/v1/streams/mood", json={"llm_share": 0.5, "mu": 1})
    assert (both.status_code, both.json()["error"]["param"]) == (400, "llm_share")


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"labels": ["joy"]}, 400, "labels"),
        ({"labels": ["joy", "JOY"]}, 400, "labels"),
        ({"labels": []}, 400, "labels"),
        ({"labels": "joy"}, 400, "labels"),
        ({"name": "No Name"}, 400, "name"),
        ({"instruction": ""}, 400, "instruction"),
        ({"instruction": None}, 400, "instruction"),
        ({"llm_pool": "none"}, 400, "llm_pool"),
        ({"llm_share": 2}, 400, "llm_share"),
        ({"mu": 0.1, "llm_share": 0.1}, 400, "llm_share"),
        ({"levels": ["tree"]}, 400, "levels.0"),
        ({"lables": []}, 400, "lables"),
    ],
)
async def test_what_is_no_stream(http, change, status, param):
    refused = await http.post("/v1/streams", json={**MADE, **change})
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)
    assert (await http.get("/v1/streams")).json()["data"] == []


async def test_a_changed_label_set_is_a_409_unless_reset(http):
    await http.post("/v1/streams", json=MADE)
    assert (await http.post("/v1/streams", json=MADE)).status_code == 200
    changed = {**MADE, "labels": ["joy", "anger"]}
    refused = await http.post("/v1/streams", json=changed)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert "reset" in refused.json()["error"]["message"]
    made = await http.post("/v1/streams", json={**changed, "reset": True})
    assert made.json()["labels"] == ["joy", "anger"]


async def test_an_answer_that_names_no_label_reaches_the_caller_as_it_is_and_is_counted(http):
    await http.post("/v1/streams", json=MADE)
    answer = await http.post("/v1/chat/completions", json=ask("an empty page"))
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "page"
    assert "names no label" in answer.json()["jethro"]["reason"]
    assert (await figures(http, lambda f: f["unparsed"] == 1))["labelled"] == 0


async def test_a_decision_without_an_answer(http):
    await http.post("/v1/streams", json=MADE)
    told = (await http.post("/v1/route", json=ask("a day"))).json()
    assert (told["strategy"], told["pool"]) == ("stream", "large")


async def test_metrics(http):
    await http.post("/v1/streams", json=MADE)
    await http.post("/v1/chat/completions", json=ask("full of joy"))
    await figures(http, lambda f: f["labelled"] == 1)
    uid = (await http.get("/v1/streams/mood")).json()["uid"]
    text = (await http.get("/metrics")).text
    for line in (
        f'jethro_stream_queries_total{{stream="{uid}"}} 1.0',
        f'jethro_stream_llm_calls_total{{stream="{uid}"}} 1.0',
        f'jethro_stream_share{{level="llm",stream="{uid}"}} 1.0',
        f'jethro_stream_drift_alarms_total{{stream="{uid}"}} 0.0',
        "jethro_learner_away 0.0",
    ):
        assert line in text.splitlines()
    assert "mood" not in text  # a tenant's word


async def test_too_many_streams_are_a_429(client, tmp_path):
    made = stream_services(tmp_path, most=1)
    await made.start()
    http = client(made)
    await http.post("/v1/streams", json=MADE)
    full = await http.post("/v1/streams", json={**MADE, "name": "other"})
    assert (full.status_code, "streams.most" in full.json()["error"]["message"]) == (429, True)
    await made.aclose()


async def test_one_tenant_cannot_use_up_all_names(client, tmp_path):
    made = stream_services(tmp_path, keys={"a": "ka", "b": "kb"}, most_per_tenant=1)
    await made.start()
    ours, theirs = (client(made, authorization=f"Bearer {key}") for key in ("ka", "kb"))
    assert (await ours.post("/v1/streams", json=MADE)).status_code == 200
    full = await ours.post("/v1/streams", json={**MADE, "name": "other"})
    assert (full.status_code, "streams.most_per_tenant" in full.json()["error"]["message"]) == (429, True)
    assert (await theirs.post("/v1/streams", json={**MADE, "name": "other"})).status_code == 200
    assert (await ours.post("/v1/streams", json={**MADE, "llm_share": 0.5})).status_code == 200
    await made.aclose()


async def test_where_streams_are_not_enabled_the_error_says_how_to(client):
    http = client(services())
    for refused in (
        await http.post("/v1/streams", json=MADE),
        await http.get("/v1/streams"),
        await http.get("/v1/streams/mood"),
        await http.patch("/v1/streams/mood", json={"mu": 1}),
        await http.delete("/v1/streams/mood"),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "streams_disabled")
        assert "streams.enabled" in refused.json()["error"]["message"]


async def test_tenants_have_their_own_streams(client, tmp_path):
    made = stream_services(tmp_path, keys={"a": "ka", "b": "kb"})
    await made.start()
    ours, theirs = (client(made, authorization=f"Bearer {key}") for key in ("ka", "kb"))
    await ours.post("/v1/streams", json=MADE)
    assert (await theirs.get("/v1/streams")).json()["data"] == []
    assert (await theirs.get("/v1/streams/mood")).status_code == 404
    assert (await theirs.delete("/v1/streams/mood")).status_code == 404
    assert (await theirs.post("/v1/chat/completions", json=ask("joy"))).status_code == 404
    taken = await theirs.post("/v1/streams", json=MADE)
    assert (taken.status_code, taken.json()["error"]["param"]) == (409, "name")
    assert (await ours.get("/v1/streams/mood")).status_code == 200
    assert (await theirs.get("/v1/models/jethro-stream-mood")).status_code == 404
    listed = [[m["id"] for m in (await who.get("/v1/models")).json()["data"]] for who in (ours, theirs)]
    assert ["jethro-stream-mood" in ids for ids in listed] == [True, False]
    await made.aclose()


def test_the_official_client(tmp_path):
    with serving(lambda: stream_services(tmp_path)) as url, openai.OpenAI(base_url=url + "/v1", api_key="none") as sdk:
        sdk.post("/streams", body=MADE, cast_to=object)
        body = ask("a day full of joy")
        answer = sdk.chat.completions.create(**body)  # type: ignore[call-overload]
        assert answer.choices[0].message.content == "joy"
        chunks = list(sdk.chat.completions.create(**body, stream=True))  # type: ignore[call-overload]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "joy"
        assert "jethro-stream-mood" in [m.id for m in sdk.models.list()]
