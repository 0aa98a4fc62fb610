"""The openai engine against a fake upstream: chunks, retries, capabilities, and the key that is never shown."""

import asyncio
import logging
import random

import orjson
import pytest

from serve_app.config.engines import OpenAIEngine as Settings
from serve_app.engines.openai import OpenAIEngine
from serve_app.engines.openai_events import ChunkReader
from serve_app.errors import ConfigError, Overloaded, PoolUnavailable, RequestError, UnsupportedParameter, UpstreamError
from serve_app.types import Chunk, Message, Query, Sampling, TokenLogprob, Usage
from tests.pools.upstream_server import Hold, Reset, answer, event, fake_upstream, head, piece, stream, unused_url

KEY = "very-secret-key"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def query(**more) -> Query:
    sampling = more.pop("sampling", Sampling())
    return Query((Message("user", "hi"),), sampling, **more)


def delta(content: str | None = None, finish: str | None = None, index: int = 0, **more) -> bytes:
    choice = {"index": index, "delta": {"content": content} if content is not None else {}, "finish_reason": finish}
    return event({"choices": [{**choice, **more}]})


def usage() -> bytes:
    return event({"choices": [], "usage": USAGE})


HELLO = stream(delta("he"), delta("llo"), delta(finish="stop"), usage())


async def started(*urls: str, **more) -> OpenAIEngine:
    settings = Settings(urls=urls, **{"retries": 0, "api_key_env": "UP_KEY", **more})
    engine = OpenAIEngine("m", settings, env={"UP_KEY": KEY}, rng=random.Random(1))
    await engine.start()
    return engine


async def ask(engine: OpenAIEngine, asked: Query) -> list[Chunk]:
    try:
        return [c async for c in engine.stream(asked)]
    finally:
        await engine.aclose()


async def test_chunks_of_an_answer():
    async with fake_upstream(HELLO) as server:
        chunks = await ask(await started(server.base_url, upstream_model="theirs"), query())
    assert chunks == [Chunk(text="he"), Chunk(text="llo"), Chunk(finish_reason="stop", usage=Usage(3, 2))]
    [request] = server.requests
    body = orjson.loads(request.body)
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["stream"], body["stream_options"]) == ("theirs", True, {"include_usage": True})


async def test_without_a_key_none_is_sent():
    async with fake_upstream(HELLO) as server:
        await ask(await started(server.base_url, api_key_env=None), query())
    assert "authorization" not in server.requests[0].headers


async def test_choices_interleaved_with_usage_on_the_very_last_chunk():
    events = [delta("a"), delta("b", index=1), delta(finish="length", index=1), delta("c"), delta(finish="stop")]
    async with fake_upstream(stream(*events, usage())) as server:
        chunks = await ask(await started(server.base_url), query(sampling=Sampling(n=2)))
    assert [(c.index, c.text, c.finish_reason) for c in chunks] == [
        (0, "a", None),
        (1, "b", None),
        (1, "", "length"),
        (0, "c", None),
        (0, "", "stop"),
    ]
    assert [c.usage for c in chunks] == [None] * 4 + [Usage(3, 2)]


async def test_completions_with_logprobs():
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5, "b": -1.5}]}
    events = [event({"choices": [{"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": "length"}]}), usage()]
    asked = query(endpoint="completions", sampling=Sampling(logprobs=True, top_logprobs=2))
    async with fake_upstream(stream(*events)) as server:
        [chunk] = await ask(await started(server.base_url), asked)
    assert chunk.logprobs == (TokenLogprob("a", -0.5, (("a", -0.5), ("b", -1.5))),)
    assert server.requests[0].path == "/v1/completions"
    assert orjson.loads(server.requests[0].body)["logprobs"] == 2


def test_chat_logprobs_and_tool_calls():
    entry = {"token": "a", "logprob": -1, "top_logprobs": [{"token": "b", "logprob": -2}]}
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reader = ChunkReader("chat", 1)
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "logprobs": {"content": [entry]}, "finish_reason": None}
    [chunk] = reader.read({"choices": [choice]})
    assert chunk == Chunk(logprobs=(TokenLogprob("a", -1.0, (("b", -2.0),)),), tool_calls=(call,))
    assert list(reader.read({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})) == []
    assert reader.end().finish_reason == "tool_calls"


@pytest.mark.parametrize("bad", [{"choices": [{}]}, {"choices": ["x"]}, {"choices": [{"index": 0, "delta": "x"}]}])
def test_an_event_of_another_shape(bad):
    with pytest.raises(UpstreamError, match="unknown shape"):
        list(ChunkReader("chat", 1).read(bad))


@pytest.mark.parametrize(
    "events", [[delta("a")], [], [delta("a", finish="stop")]], ids=["no finish", "empty", "one of 2"]
)
async def test_an_answer_that_lacks_a_finish(events):
    async with fake_upstream(stream(*events, usage())) as server:
        with pytest.raises(UpstreamError, match="choices"):
            await ask(await started(server.base_url), query(sampling=Sampling(n=2)))


async def test_what_is_not_json_is_refused():
    async with fake_upstream(stream(event(b"{oops"))) as server:
        with pytest.raises(UpstreamError, match="not JSON"):
            await ask(await started(server.base_url), query())


async def test_retries_before_the_first_byte():
    full = answer({"error": {"message": "later"}}, 429, retry_after="0")
    async with fake_upstream([Reset], full, HELLO) as server:
        chunks = await ask(await started(server.base_url, retries=2), query())
    assert (len(chunks), len(server.requests)) == (3, 3)


async def test_retries_end():
    full = answer({"error": {"message": "later"}}, 429, retry_after="0")
    async with fake_upstream(full) as server:
        with pytest.raises(Overloaded, match="later"):
            await ask(await started(server.base_url, retries=2), query())
    assert len(server.requests) == 3


async def test_a_retry_goes_to_the_next_url():
    async with fake_upstream(HELLO) as server:
        for _ in range(3):
            engine = await started(unused_url(), server.base_url, retries=1)
            assert len(await ask(engine, query())) == 3


async def test_no_retry_after_the_first_byte():
    async with fake_upstream([head(), piece(delta("he")), Reset], HELLO) as server:
        engine = await started(server.base_url, retries=5)
        chunks = engine.stream(query())
        assert (await anext(chunks)).text == "he"
        with pytest.raises(UpstreamError):
            await anext(chunks)
        await engine.aclose()
    assert len(server.requests) == 1


async def test_the_callers_mistake_is_not_retried():
    wrong = answer({"error": {"message": "no", "param": "top_p", "code": None}}, 400)
    async with fake_upstream(wrong) as server:
        with pytest.raises(RequestError) as raised:
            await ask(await started(server.base_url, retries=5), query())
    assert (raised.value.param, len(server.requests)) == ("top_p", 1)


async def test_closing_the_iterator_stops_the_upstream():
    async with fake_upstream([head(), piece(delta("he")), Hold]) as server:
        engine = await started(server.base_url)
        chunks = engine.stream(query())
        assert (await anext(chunks)).text == "he"
        assert engine.health().running == 1
        await chunks.aclose()
        await asyncio.wait_for(server.left.wait(), 5)
        assert engine.health().running == 0
        await engine.aclose()


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (query(tools=({"type": "function"},)), "tools"),
        (query(response_format={"type": "json_object"}), "response_format"),
        (query(sampling=Sampling(logprobs=True)), "logprobs"),
        (query(adapter="x"), "adapter"),
    ],
)
async def test_what_the_settings_deny_is_refused_by_name(asked, param):
    with pytest.raises(UnsupportedParameter) as raised:
        await ask(await started(unused_url(), logprobs=False), asked)
    assert raised.value.param == param


async def test_what_the_settings_allow_is_passed_on():
    tool = {"type": "function", "function": {"name": "f"}}
    asked = query(tools=(tool,), tool_choice="auto", response_format={"type": "json_object"}, extra={"top_k": 4})
    async with fake_upstream(HELLO) as server:
        await ask(await started(server.base_url, tools=True, guided=True), asked)
    body = orjson.loads(server.requests[0].body)
    assert (body["tools"], body["tool_choice"], body["top_k"]) == ([tool], "auto", 4)


async def test_embeddings():
    rows = {"data": [{"index": 1, "embedding": [2, 3]}, {"index": 0, "embedding": [0, 1]}]}
    async with fake_upstream(answer(rows), answer({"data": None})) as server:
        engine = await started(server.base_url)
        assert await engine.embed(["a", "b"]) == [[0.0, 1.0], [2.0, 3.0]]
        with pytest.raises(UpstreamError, match="embeddings"):
            await engine.embed(["a"])
        await engine.aclose()


async def test_not_started_and_closed():
    engine = OpenAIEngine("m", Settings(urls=("http://127.0.0.1:9/v1",)))
    assert (engine.health().ok, engine.metrics()) == (False, "")
    with pytest.raises(PoolUnavailable):
        await ask(engine, query())
    await engine.aclose()


async def test_the_key_must_be_there_and_is_never_shown(caplog):
    caplog.set_level(logging.DEBUG)
    unset = OpenAIEngine("m", Settings(urls=("http://127.0.0.1:9/v1",), api_key_env="UP_KEY"), env={})
    with pytest.raises(ConfigError, match="UP_KEY is not set"):
        await unset.start()
    refused = answer({"error": {"message": f"wrong key {KEY}"}}, 401)
    quoted = answer({"error": {"message": f"bad header {KEY}", "code": None}}, 400)
    async with fake_upstream(refused, quoted) as server:
        for expected in (UpstreamError, RequestError):
            engine = await started(server.base_url)
            with pytest.raises(expected) as raised:
                await ask(engine, query())
            assert KEY not in f"{raised.value} {raised.value!r} {raised.value.body()} {engine!r} {vars(raised.value)}"
    assert KEY not in caplog.text
