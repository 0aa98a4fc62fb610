""""""

import orjson
import pytest

from serve_app.engines.local_pool import LocalPool
from serve_app.errors import UpstreamError
from serve_app.types import Message, Query, Sampling, Usage
from serve_app.wire.answers import AnswerReader, whole_answer
from serve_app.wire.frames import Answer, Call, Frame
from tests.fakes import FakeEngine

CALL = Call("a1", "r1", 1_700_000_000)


def query(endpoint: str = "chat", **sampling: object) -> Query:
    return Query((Message("user", "hello"),), Sampling(**sampling), endpoint)  # type: ignore[arg-type]


def pool() -> LocalPool:
    return LocalPool("small", FakeEngine("m", script=lambda q, i: ["one ", "two ", f"three{i}"], delay_s=0.0005))


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("logprobs", [True, False])
async def test_a_stream_and_a_whole_answer_say_the_same(endpoint: str, n: int, logprobs: bool) -> None:
    asked = query(endpoint, n=n, logprobs=logprobs, top_logprobs=2 * logprobs)
    streamed, whole = AnswerReader(asked), AnswerReader(asked)
    frames = [frame async for frame in pool().stream(asked, CALL)]
    for frame in frames:
        streamed.frame(frame)
    whole.answer(await pool().complete(asked, CALL))
    assert streamed.finished and whole.finished
    for index in range(n):
        one, other = streamed.choices[index], whole.choices[index]
        assert one.text == other.text == f"one two three{index}"
        assert one.logprobs == other.logprobs and len(one.logprobs) == 3 * logprobs
        assert one.finish_reason == other.finish_reason == "stop" and one.tokens == 3
    assert streamed.usage == whole.usage == Usage(6, 3 * n)
    assert whole_answer(frames, asked, CALL, "m").parsed == (await pool().complete(asked, CALL)).parsed


async def test_it_holds_so_many_tokens_of_every_choice_or_its_end() -> None:
    asked = query()
    reading, held = AnswerReader(asked), []
    async for frame in pool().stream(asked, CALL):
        reading.frame(frame)
        held.append([reading.holds(k) for k in (1, 3, 9)])
    assert held[0][:2] == [True, False] and held[-1] == [True, True, True]
    assert reading.choices[0].opening(2) == "one two "


def test_of_two_choices_one_is_not_enough() -> None:
    reading = AnswerReader(query(n=2))
    event = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    reading.frame(Frame(b"data: " + orjson.dumps(event) + b"\n\n"))
    assert not reading.holds(1) and not reading.finished


def test_tool_calls_are_put_together() -> None:
    pieces = [
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
    ]
    reading = AnswerReader(query())
    for piece in pieces:
        body = {"choices": [{"index": 0, "delta": piece}]}
        reading.frame(Frame(b"data: " + orjson.dumps(body) + b"\n\n"))
    assert reading.choices[0].calls == {0: {"name": "add", "arguments": '{"a":1}'}}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"choices":[{}]}',
        b'{"choices":[1]}',
        b'{"choices":[{"index":0,"delta":{"content":"x"},"logprobs":[1]}]}',
        b'{"choices":[{"index":0,"delta":{"content":{"text":"x"}}}]}',
        b'{"choices":[{"index":0,"delta":{"content":["x"]}}]}',
    ],
)
def test_what_is_not_shaped_as_openais_is_the_models_fault(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        AnswerReader(query()).frame(Frame(b"data: " + body + b"\n\n"))
    with pytest.raises(UpstreamError):
        AnswerReader(query()).answer(Answer(body))


def test_the_texts_among_parts_are_the_text() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    reading = AnswerReader(query())
    body = {"choices": [{"index": 0, "message": {"content": parts}, "finish_reason": "stop"}]}
    reading.answer(Answer(orjson.dumps(body)))
    assert reading.choices[0].text == "ab"


def test_an_answer_with_too_few_choices_is_none() -> None:
    body = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]}
    AnswerReader(query()).answer(Answer(orjson.dumps(body)))
    with pytest.raises(UpstreamError, match="1 of 2"):
        AnswerReader(query(n=2)).answer(Answer(orjson.dumps(body)))
    with pytest.raises(UpstreamError, match="before all choices"):
        whole_answer([], query(), CALL, "m")
