"""Answers as pieces: the same from a stream, however it was cut, and from the whole; odd upstreams included."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.dialects.pieces import (
    CallPiece,
    FinishPiece,
    PieceReader,
    ReasoningPiece,
    RefusalPiece,
    TextPiece,
    UsagePiece,
)
from serve_app.errors import UpstreamError
from serve_app.wire.frames import Answer, Frame
from tests.api.fakes import USAGE, sse


def event(delta=None, finish=None, index=0, **more):
    return {"choices": [{"index": index, "delta": delta or {}, "finish_reason": finish}], **more}


def read(*events):
    reader = PieceReader()
    return [piece for each in events for piece in reader.frame(Frame(sse(each)))]


def call(index, id_=None, name=None, arguments=None):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {
        "tool_calls": [
            {
                k: v for k, v in (("index", index), ("id", id_), ("function", function)) if v is not None
            }  # as odd as asked
        ]
    }


def test_text_reasoning_refusal_finish_and_usage_are_pieces():
    assert read(
        event({"role": "assistant", "content": ""}),
        event({"reasoning_content": "hm"}),
        event({"reasoning": "hm"}),
        event({"content": "a"}),
        event({"refusal": "no"}),
        event({}, "length"),
        {"choices": [], "usage": USAGE},
    ) == [
        ReasoningPiece("hm"),
        ReasoningPiece("hm"),
        TextPiece("a"),
        RefusalPiece("no"),
        FinishPiece("length"),
        UsagePiece(USAGE),
    ]


def test_log_probabilities_come_with_their_text_as_received():
    entry = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}
    odd = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [entry]}}]}
    assert read(odd) == [TextPiece("a", (entry,))]


def test_other_choices_are_not_read():
    assert read(event({"content": "b"}, index=1), event({"content": "a"})) == [TextPiece("a")]


def test_a_finish_before_the_text_and_a_usage_on_a_choice_are_understood():
    assert read(event({"content": "a"}, "stop", usage=USAGE), event({"content": "b"})) == [
        TextPiece("a"),
        FinishPiece("stop"),
        UsagePiece(USAGE),
        TextPiece("b"),
    ]


def test_thoughts_within_the_content_are_reasoning():
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]
    assert read(event({"content": parts})) == [ReasoningPiece("hm"), TextPiece("a")]


def calls_of(pieces):
    joined: dict[int, list[str]] = {}
    for piece in pieces:
        if isinstance(piece, CallPiece):
            at = joined.setdefault(piece.position, [piece.id, "", ""])
            assert at[0] == piece.id
            at[1] += piece.name
            at[2] += piece.arguments
    return [joined[position] for position in sorted(joined)]


@pytest.mark.parametrize(
    "deltas",
    [
        [call(0, "x", "f", "{"), call(0, None, None, "}"), call(1, "y", "g", "{}")],
        [call(0, "x", "f", "{"), call(0, "x", "f", "}"), call(0, "y", "g", "{}")],  # all numbered 0
        [call(None, "x", "f", "{"), call(None, None, None, "}"), call(None, "y", "g", "{}")],  # not numbered
        [call(None, "x", "f", "{"), call(None, "y", "g", "{}"), call(None, "x", None, "}")],  # interleaved
        [call(3, "x", "f"), call(7, "y", "g", {}), call(3, None, None, {})],  # objects, any numbers
    ],
)
def test_the_pieces_of_calls_are_put_together(deltas):
    assert calls_of(read(*map(event, deltas))) == [["x", "f", "{}"], ["y", "g", "{}"]]


def test_calls_without_an_id_get_one_each():
    (first, *_), (second, *_) = calls_of(read(event(call(0, None, "f", "{}")), event(call(1, None, "f", "{}"))))
    assert first.startswith("call_") and second.startswith("call_") and first != second


def test_calls_with_the_same_id_get_ids_of_their_own():
    (first, *_), (second, *_) = calls_of(read(event(call(0, "x", "f", "{}")), event(call(1, "x", "f", "{}"))))
    assert first == "x" and second != "x"


def test_the_older_function_call_is_a_call():
    assert [c[1:] for c in calls_of(read(event({"function_call": {"name": "f", "arguments": "{}"}})))] == [["f", "{}"]]


def test_an_error_event_is_an_error():
    with pytest.raises(UpstreamError, match="too hot"):
        read({"error": {"message": "too hot"}})


@pytest.mark.parametrize("odd", [{"choices": 3}, {"choices": [3]}, event({"content": 3}), event({"tool_calls": [3]})])
def test_other_shapes_are_an_upstreams_error(odd):
    with pytest.raises(UpstreamError, match="unknown shape"):
        read(odd)
    with pytest.raises(UpstreamError):
        PieceReader().whole(Answer(b"nothing"))


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


def joined(pieces):
    kinds = {TextPiece: "", ReasoningPiece: "", RefusalPiece: ""}
    for piece in pieces:
        if type(piece) in kinds:
            kinds[type(piece)] += piece.text
    ends = [piece for piece in pieces if isinstance(piece, FinishPiece | UsagePiece)]
    return kinds, calls_of(pieces), ends


@given(TEXT, TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=3), st.integers(1, 5))
def test_a_whole_answer_and_its_stream_give_the_same(thought, text, functions, step):
    whole_calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": n, "arguments": a}}
        for i, (n, a) in enumerate(functions)
    ]
    message = {"role": "assistant", "content": text, "reasoning_content": thought, "tool_calls": whole_calls}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}

    def cut(said):
        return [said[i : i + step] for i in range(0, len(said), step)]

    events = [event({"reasoning_content": piece}) for piece in cut(thought)]
    events += [event({"content": piece}) for piece in cut(text)]
    for i, (name, arguments) in enumerate(functions):
        events.append(event(call(i, f"c{i}", name)))
        events += [event(call(i, None, None, piece)) for piece in cut(arguments)]
    events += [event({}, "stop"), {"choices": [], "usage": USAGE}]
    assert joined(read(*events)) == joined(PieceReader().whole(Answer(orjson.dumps(body))))


def test_the_details_of_a_usage_are_read_where_they_are_numbers():
    usage = UsagePiece({"prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": "x"}})
    assert usage.detail("prompt_tokens_details", "cached_tokens") == 3
    assert usage.detail("prompt_tokens_details", "audio_tokens") == 0
    assert usage.detail("completion_tokens_details", "reasoning_tokens") == 0
