"""The benchmarks' fake engine keeps the engine contract that the Gateway relies on."""

from benchmarks.fake_engine import FakeEngine
from serve_app.types import Message, Query, Sampling


async def test_one_chunk_a_token_finish_and_usage_on_the_last() -> None:
    engine = FakeEngine("m")
    query = Query((Message("user", "hi"),), Sampling(max_tokens=3))
    chunks = [c async for c in engine.stream(query)]
    assert [c.text for c in chunks] == [" token"] * 3
    assert [c.finish_reason for c in chunks] == [None, None, "stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert engine.health().running == 0


async def test_closing_the_stream_frees_its_place() -> None:
    engine = FakeEngine("m")
    stream = engine.stream(Query((Message("user", "hi"),), Sampling(max_tokens=9)))
    await anext(stream)
    assert engine.health().running == 1
    await stream.aclose()
    assert engine.health().running == 0
