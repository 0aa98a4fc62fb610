""""""

import asyncio
import time

import pytest

from serve_app.engines.local_pool import LocalPool
from serve_app.errors import ContextLengthExceeded, DeadlineExceeded, UpstreamError
from serve_app.types import Message, Price, Query, Sampling, Usage
from serve_app.wire.frames import Call
from tests.fakes import FakeEngine

CALL = Call("7", "r", 99)
QUERY = Query((Message("user", "hello"),))


def pool(**options) -> LocalPool:
    return LocalPool("small", FakeEngine(**options), Price(1, 2))


async def events(made: LocalPool, query=QUERY, call=CALL):
    return [event async for frame in made.stream(query, call) for event in frame.events]


async def test_a_stream_has_deltas_finishes_and_usage():
    found = await events(pool(), Query(QUERY.messages, Sampling(n=2)))
    for index in (0, 1):
        own = [c for e in found for c in e["choices"] if c["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in own) == "hello"
        assert own[-1]["finish_reason"] == "stop"
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["completion_tokens"] == 10
    assert {(e["id"], e["created"], e["model"]) for e in found} == {("chatcmpl-7", 99, "fake")}


async def test_paced_tokens_come_one_by_one():
    frames = [f async for f in pool(delay_s=0.001).stream(QUERY, CALL)]
    assert len(frames) == 6
    assert not any(b"[DONE]" in f.data for f in frames)


async def test_a_whole_answer():
    answer = await pool().complete(QUERY, CALL)
    assert answer.parsed["choices"][0]["message"]["content"] == "hello"
    assert answer.usage == Usage(6, 5)


@pytest.mark.parametrize("way", ["stream", "complete"])
async def test_errors(way):
    async def run(made, call=CALL):
        return await (events(made, call=call) if way == "stream" else made.complete(QUERY, call))

    with pytest.raises(ContextLengthExceeded):
        await run(pool(fail_after=0, error=ContextLengthExceeded("long")))
    with pytest.raises(UpstreamError) as caught:
        await run(pool(fail_after=2, error=RuntimeError("inside")))
    assert "inside" not in str(caught.value)
    stuck = pool(gate=asyncio.Event())
    with pytest.raises(DeadlineExceeded):
        await run(stuck, Call("7", "r", 99, deadline_s=time.monotonic() + 0.01))
    assert stuck._engine.running == 0


@pytest.mark.parametrize("way", ["stream", "complete"])
async def test_an_engine_that_ends_too_early_is_an_error(way):
    class Broken(FakeEngine):
        async def stream(self, query):
            async for chunk in super().stream(query):
                if chunk.finish_reason is None:
                    yield chunk

    made = LocalPool("small", Broken())
    with pytest.raises(UpstreamError):
        await (events(made) if way == "stream" else made.complete(QUERY, CALL))


async def test_closing_the_stream_cancels_the_engine():
    made = pool(delay_s=0.001)
    stream = made.stream(QUERY, CALL)
    await anext(stream)
    assert made.load().in_flight == 1
    await stream.aclose()
    assert made._engine.cancelled == 1
    assert made.load().in_flight == 0


async def test_load_and_close():
    made = pool()
    assert made.load().replicas == 1
    assert made.capabilities.max_context_tokens == 4096
    await made.aclose()
    assert made._engine.closed
    assert pool(ok=False).load().replicas == 0
