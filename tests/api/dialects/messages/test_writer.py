"""Whole answers and streams say the same, by the SDK's own accumulation of events."""

import asyncio
from typing import Any

import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from serve_app.api.dialects.messages.writer import MessagesWriter
from serve_app.errors import UpstreamError
from serve_app.store.base import RequestRecord
from serve_app.types import Decision, Step, Usage
from serve_app.wire.frames import Answer, Frame

DECISION = Decision("d1", "route", "small", "lab-small", "because")
HEAD = {"id": "chatcmpl-d1", "created": 1, "model": "lab-small"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def record(steps: tuple[Step, ...] = ()) -> RequestRecord:
    return RequestRecord("r1", "messages", 1.0, decision=DECISION, steps=steps)


def writer(*, thinking: bool = True, stops: tuple[str, ...] = ()) -> MessagesWriter:
    return MessagesWriter(thinking=thinking, stops=stops)


def whole(
    message: dict[str, Any], finish: str = "stop", *, made: MessagesWriter | None = None, **choice: Any
) -> Message:
    body = {**HEAD, "object": "chat.completion", "usage": USAGE}
    body["choices"] = [{"index": 0, "message": message, "finish_reason": finish, **choice}]
    said = asyncio.run((made or writer()).whole(Answer(orjson.dumps(body)), record()))
    return Message.model_validate_json(said)


def event(finish: str | None = None, usage: Any = None, choice: dict[str, Any] | None = None, **delta: Any) -> bytes:
    body = {**HEAD, "object": "chat.completion.chunk"}
    body["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish, **(choice or {})}]
    if usage is not None:
        body |= {"choices": [], "usage": usage}
    return b"data: " + orjson.dumps(body) + b"\n\n"


def call(index: int, arguments: str = "", **function: Any) -> dict[str, Any]:
    id_ = function.pop("id", None)
    made: dict[str, Any] = {"index": index, "function": {"arguments": arguments, **function}}
    return made if id_ is None else {**made, "id": id_, "type": "function"}


def sent(frames: list[bytes], *, made: MessagesWriter | None = None, steps: tuple[Step, ...] = ()) -> bytes:
    made = made or writer()
    out = made.begin(DECISION) + b"".join(made.passed(Frame(frame)) for frame in frames)
    return out + asyncio.run(made.end(record(steps)))


def events(data: bytes) -> list[dict[str, Any]]:
    """The events, whose names and data agree, each as the SDK's own types have it."""
    parsed = []
    for each in data.split(b"\n\n")[:-1]:
        name, body = each.split(b"\n")
        value = orjson.loads(body.removeprefix(b"data: "))
        assert name == b"event: " + value["type"].encode()
        if value["type"] != "ping":
            EVENT.validate_python(value)
        parsed.append(value)
    return parsed


def accumulated(data: bytes) -> Message:
    """As the SDK adds the events up, in the order that Anthropic documents."""
    found = events(data)
    kinds = [each["type"] for each in found]
    assert kinds[:2] == ["message_start", "ping"] and kinds[-2:] == ["message_delta", "message_stop"]
    index, opened = -1, False
    for each in found[2:-2]:
        if each["type"] == "content_block_start":
            assert not opened
            index, opened = index + 1, True
        assert opened and each["index"] == index
        opened = each["type"] != "content_block_stop"
    assert not opened
    snapshot, buffers = None, {}
    for each in found:
        if each["type"] != "ping":
            snapshot = accumulate_event(event=EVENT.validate_python(each), current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    return Message.model_validate(snapshot.model_dump(exclude={"parsed_output"}, warnings=False))


def alike(streamed: Message, one: Message) -> None:
    """But for the `jethro` object, which the SDK does not add up."""
    ours = one.model_dump(exclude={"jethro"})
    assert streamed.model_dump() == ours


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
INPUTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3)
CALLS = st.lists(st.tuples(st.sampled_from(["get", "put", "a-b_c"]), INPUTS), max_size=4)


def cut(draw: Any, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_stream_cut_anywhere_says_what_the_whole_answer_says(data: Any) -> None:
    draw = data.draw
    reasoning, text, calls = draw(st.text(max_size=12)), draw(st.text(max_size=12)), draw(CALLS)
    finish = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    spaced = draw(st.sampled_from([None, 2]))
    listed = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": _json(given, spaced)}}
        for i, (name, given) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text or None, "reasoning_content": reasoning}
    one = whole({**message, "tool_calls": listed} if listed else message, finish)

    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in cut(draw, reasoning)]
    deltas += [{"content": piece} for piece in cut(draw, text)]
    pieces = []
    for i, made in enumerate(listed):
        first = {**made, "index": i, "function": {**made["function"], "arguments": ""}}
        later = [{"index": i, "function": {"arguments": p}} for p in cut(draw, made["function"]["arguments"])]
        pieces.append([first, *later])
    if draw(st.booleans()):
        order = [piece for each in pieces for piece in each]
    else:  # mixed; each call's own pieces, and the calls' first ones, in order
        order, begun = [], 0
        while any(pieces):
            i = draw(st.sampled_from([i for i, each in enumerate(pieces) if each and i <= begun]))
            order.append(pieces[i].pop(0))
            begun = max(begun, i + 1)
    deltas += [{"tool_calls": [piece]} for piece in order]
    made_events = [event(**delta) for delta in deltas] + [event(finish), event(usage=USAGE)]
    frames = []
    while made_events:
        count = draw(st.integers(1, 3))
        frames.append(b"".join(made_events[:count]))
        del made_events[:count]
    alike(accumulated(sent(frames)), one)


def _json(value: Any, indent: int | None) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else 0).decode()


def test_pieces_leave_at_once() -> None:
    made = writer()
    made.begin(DECISION)
    assert b'"text":"he"' in made.passed(Frame(event(content="he")))
    assert b'"partial_json":"{\\"a\\": 1"' in made.passed(
        Frame(event(tool_calls=[call(0, '{"a": 1', id="c0", name="get")]))
    )
    again = made.passed(Frame(event(tool_calls=[call(0, "}"), call(1, "", id="c1", name="put")])))
    assert again.count(b"content_block_stop") == 2 and b'"name":"put"' in again  # its name and its type


def test_reasoning_is_shown_only_where_it_is_asked_for() -> None:
    message = {"role": "assistant", "content": "42", "reasoning_content": "hm"}
    assert [block.type for block in whole(message).content] == ["thinking", "text"]
    assert [block.type for block in whole(message, made=writer(thinking=False)).content] == ["text"]
    frames = [event(reasoning="hm"), event(content="42"), event("stop")]
    assert [block.type for block in accumulated(sent(frames)).content] == ["thinking", "text"]
    assert [block.type for block in accumulated(sent(frames, made=writer(thinking=False))).content] == ["text"]


@pytest.mark.parametrize(
    ("finish", "matched", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", "other", ("end_turn", None)),
        ("stop", 151645, ("end_turn", None)),
        ("length", None, ("max_tokens", None)),
        ("content_filter", "END", ("refusal", None)),
        ("eos", None, ("end_turn", None)),
    ],
)
def test_why_an_answer_ended(finish: str, matched: Any, expected: tuple[str, str | None]) -> None:
    one = whole({"role": "assistant", "content": "x"}, finish, made=writer(stops=("END",)), stop_reason=matched)
    frames = [event(content="x"), event(finish, choice={"stop_reason": matched}), event(usage=USAGE)]
    alike(accumulated(sent(frames, made=writer(stops=("END",)))), one)
    assert (one.stop_reason, one.stop_sequence) == expected


def test_calls_end_with_tool_use_whatever_the_upstream_says() -> None:
    made = {"role": "assistant", "content": None, "tool_calls": [call(0, "", id="c", name="get")]}
    one = whole(made, "stop")
    assert (one.stop_reason, one.content[0].input) == ("tool_use", {})


def test_a_refusal_in_words() -> None:
    one = whole({"role": "assistant", "content": None, "refusal": "I will not."})
    assert one.stop_reason == "refusal" and one.stop_details is not None
    assert one.stop_details.explanation == "I will not."
    alike(accumulated(sent([event(refusal="I will "), event(refusal="not."), event("stop"), event(usage=USAGE)])), one)


@pytest.mark.parametrize("arguments", ["{", '{"a": 1} and', "[1]", "7", "get the file", '{"a": NaN}'])
def test_broken_arguments_are_an_error_and_no_call(arguments: str) -> None:
    made = [{"id": "c", "type": "function", "function": {"name": "get", "arguments": arguments}}]
    with pytest.raises(UpstreamError, match="called get with arguments that are no JSON object"):
        whole({"role": "assistant", "content": None, "tool_calls": made}, "tool_calls")
    with pytest.raises(UpstreamError, match="called get with arguments that are no JSON object"):
        sent([event(tool_calls=[call(0, arguments, id="c", name="get")]), event("tool_calls")])


def test_arguments_that_a_limit_cut() -> None:
    made = [{"id": "c", "type": "function", "function": {"name": "get", "arguments": '{"a": 1, "b": "tex'}}]
    one = whole({"role": "assistant", "content": None, "tool_calls": made}, "length")
    assert (one.stop_reason, one.content[0].input) == ("max_tokens", {"a": 1})
    frames = [
        event(tool_calls=[call(0, '{"a": 1, "b": "tex', id="c", name="get")]),
        event("length"),
        event(usage=USAGE),
    ]
    alike(accumulated(sent(frames)), one)


def test_a_piece_that_comes_too_late_breaks_its_call() -> None:
    first, second = call(0, "{}", id="a", name="get"), call(1, "{}", id="b", name="put")
    late = [event(tool_calls=[first]), event(tool_calls=[second]), event(tool_calls=[call(0, "x")]), event("stop")]
    with pytest.raises(UpstreamError, match="called get"):
        sent(late)


def test_calls_that_are_all_numbered_0_or_have_no_id() -> None:
    frames = [
        event(tool_calls=[call(0, '{"a":1}', id="a", name="get")]),
        event(tool_calls=[call(0, '{"a":2}', id="b", name="get")]),
        event("tool_calls"),
    ]
    found = accumulated(sent(frames)).content
    assert [(block.id, block.input) for block in found] == [("a", {"a": 1}), ("b", {"a": 2})]
    nameless = accumulated(sent([event(tool_calls=[call(0, "{}", name="get")]), event("tool_calls")])).content[0]
    assert nameless.id


def test_text_between_calls_keeps_its_place() -> None:
    frames = [
        event(content="one"),
        event(tool_calls=[call(0, "{}", id="a", name="get")]),
        event(content="two"),
        event(tool_calls=[call(1, "{", id="b", name="put")]),
        event(content="three"),
        event(tool_calls=[call(1, "}")]),
        event("tool_calls"),
    ]
    kinds = [block.type for block in accumulated(sent(frames)).content]
    assert kinds == ["text", "tool_use", "text", "tool_use", "text"]


def test_an_answer_of_nothing_has_no_block() -> None:
    one = whole({"role": "assistant", "content": ""})
    assert one.content == [] and one.stop_reason == "end_turn"
    alike(accumulated(sent([event(content=""), event("stop"), event(usage=USAGE)])), one)


def test_usage_counts_the_cache_apart_and_all_calls_together() -> None:
    cached = {**USAGE, "prompt_tokens_details": {"cached_tokens": 6}}
    found = accumulated(sent([event(content="x"), event("stop"), event(usage=cached)])).usage
    assert (found.input_tokens, found.cache_read_input_tokens, found.output_tokens) == (3, 6, 4)
    steps = (Step("small", "", Usage(5, 1), wasted=True), Step("large", "", Usage(9, 4)))
    found = accumulated(sent([event(content="x"), event("stop"), event(usage=cached)], steps=steps)).usage
    assert (found.input_tokens, found.cache_read_input_tokens, found.output_tokens) == (14, 0, 5)


def test_a_stream_without_an_end_and_one_with_an_error() -> None:
    with pytest.raises(UpstreamError, match="without a finish reason"):
        sent([event(content="x")])
    with pytest.raises(UpstreamError, match="out of memory"):
        sent([b'data: {"error": {"message": "out of memory"}}\n\n'])
    broken = writer().broken(UpstreamError("gone"))
    assert broken.startswith(b"event: error\ndata: ")
    assert orjson.loads(broken.split(b"data: ")[1])["error"] == {
        "type": "api_error", "message": "gone", "details": {"error_code": "upstream_error"},
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"{}", b'{"choices": []}', b'{"choices": [{"message": 3}]}', b'{"choices": 1}'])
def test_an_answer_of_an_unknown_shape(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        asyncio.run(writer().whole(Answer(body), record()))
