""""""

import orjson
import pytest

from serve_app.types import Chunk, Message, Query, Sampling, TokenLogprob, Usage
from serve_app.wire.encoding import StreamEncoder, answer_prefix, encode_answer

CHAT = Query((Message("user", "hi"),))
RAW = Query((Message("user", "hi"),), endpoint="completions")
CALL = {"model": "m", "answer_id": "7", "created": 99}
LOGPROBS = (TokenLogprob("é", -0.5, (("é", -0.5), ("e", -1.5))),)


def events(data: bytes) -> list[dict]:
    assert data.endswith(b"\n\n")
    return [orjson.loads(event.removeprefix(b"data: ")) for event in data[:-2].split(b"\n\n")]


def with_logprobs(query: Query, top: int = 2) -> Query:
    return Query(query.messages, Sampling(logprobs=True, top_logprobs=top), endpoint=query.endpoint)


def test_the_first_event_of_each_choice_carries_the_role():
    encoder = StreamEncoder(CHAT, **CALL)
    deltas = [encoder.encode(Chunk(i, "a")) for i in (0, 1, 0, 1)]
    first, second = events(deltas[0])[0], events(deltas[2])[0]
    assert first == {
        "id": "chatcmpl-7",
        "object": "chat.completion.chunk",
        "created": 99,
        "model": "m",
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": "a"}, "logprobs": None, "finish_reason": None}
        ],
    }
    assert second["choices"][0]["delta"] == {"content": "a"}
    assert [events(d)[0]["choices"][0]["delta"].get("role") for d in deltas] == ["assistant", "assistant", None, None]


@pytest.mark.parametrize("text", ["", "a", '"\\\n\t', "日本 🙂", "data: x\n\n"])
@pytest.mark.parametrize("query", [CHAT, RAW])
def test_any_text_passes(query, text):
    encoder = StreamEncoder(query, **CALL)
    data = encoder.encode_all([Chunk(0, "x"), Chunk(0, text)])
    choice = events(data)[1]["choices"][0]
    assert (choice["delta"].get("content", "") if query is CHAT else choice["text"]) == text


def test_the_short_way_and_the_full_way_give_the_same_shape():
    encoder = StreamEncoder(CHAT, **CALL)
    encoder.encode(Chunk(0, "x"))
    short = events(encoder.encode(Chunk(0, "a")))[0]
    full = events(encoder.encode(Chunk(0, "a", finish_reason="stop")))[0]
    full["choices"][0]["finish_reason"] = None
    assert short == full


def test_finish_reason_is_compact_json():
    assert b'"finish_reason":"stop"' in StreamEncoder(CHAT, **CALL).encode(Chunk(0, "", finish_reason="stop"))


def test_usage_is_an_event_without_choices():
    event = events(StreamEncoder(CHAT, **CALL).usage(Usage(2, 3)))[0]
    assert event["choices"] == []
    assert event["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


def test_it_knows_when_all_has_passed():
    encoder = StreamEncoder(Query(CHAT.messages, Sampling(n=2)), **CALL)
    encoder.encode(Chunk(0, "a", finish_reason="stop"))
    assert (encoder.unfinished, encoder.complete) == (1, False)
    encoder.encode(Chunk(1, "b", finish_reason="stop", usage=Usage(1, 2)))
    assert encoder.complete
    assert encoder.last_usage == Usage(1, 2)


def test_chat_logprobs_in_a_stream():
    encoder = StreamEncoder(with_logprobs(CHAT), **CALL)
    choice = events(encoder.encode(Chunk(0, "é", logprobs=LOGPROBS)))[0]["choices"][0]
    (entry,) = choice["logprobs"]["content"]
    assert entry["token"] == "é"
    assert entry["bytes"] == [0xC3, 0xA9]
    assert [t["token"] for t in entry["top_logprobs"]] == ["é", "e"]


def test_completion_logprobs_count_their_offsets_through_the_stream():
    encoder = StreamEncoder(with_logprobs(RAW), **CALL)
    first, second = (events(encoder.encode(Chunk(0, "é", logprobs=LOGPROBS)))[0] for _ in range(2))
    assert first["choices"][0]["logprobs"] == {
        "tokens": ["é"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"é": -0.5, "e": -1.5}],
        "text_offset": [0],
    }
    assert second["choices"][0]["logprobs"]["text_offset"] == [1]
    assert first["object"] == "text_completion"
    assert first["id"] == "cmpl-7"


def test_tool_calls_pass_as_they_come():
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}
    delta = events(StreamEncoder(CHAT, **CALL).encode(Chunk(0, tool_calls=(call,))))[0]["choices"][0]["delta"]
    assert delta == {"role": "assistant", "tool_calls": [call]}


def test_a_whole_chat_answer_joins_each_choice():
    chunks = [Chunk(1, "x"), Chunk(0, "a"), Chunk(0, "b", finish_reason="length")]
    chunks.append(Chunk(1, "y", finish_reason="stop", usage=Usage(2, 4)))
    answer = orjson.loads(encode_answer(CHAT, chunks, **CALL))
    assert answer["object"] == "chat.completion"
    assert [c["message"]["content"] for c in answer["choices"]] == ["ab", "xy"]
    assert [c["finish_reason"] for c in answer["choices"]] == ["length", "stop"]
    assert answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["total_tokens"] == 6


def test_a_whole_completion_with_logprobs():
    chunks = [Chunk(0, "é", logprobs=LOGPROBS), Chunk(0, "é", logprobs=LOGPROBS, finish_reason="stop", usage=Usage())]
    (choice,) = orjson.loads(encode_answer(with_logprobs(RAW), chunks, **CALL))["choices"]
    assert choice["text"] == "éé"
    assert choice["logprobs"]["text_offset"] == [0, 1]


def test_tool_calls_of_a_whole_answer_are_put_together():
    pieces = [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a":'}},
        {"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]
    chunks = [Chunk(0, tool_calls=(p,)) for p in pieces] + [Chunk(0, finish_reason="tool_calls", usage=Usage())]
    (choice,) = orjson.loads(encode_answer(CHAT, chunks, **CALL))["choices"]
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"type": "function", "id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"type": "function", "id": "c2", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_prefixes():
    assert (answer_prefix("chat"), answer_prefix("completions")) == ("chatcmpl-", "cmpl-")
