"""Pieces as items and events: order, indices, and a stream that says what the whole answer says."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.dialects.pieces import CallPiece, FinishPiece, PieceReader, TextPiece
from serve_app.api.dialects.responses.assembler import OutputAssembler
from serve_app.wire.frames import Answer, Frame
from tests.api.dialects.responses.doubles import Said, entry, replayed
from tests.api.fakes import sse

ID = "0" * 24


def streamed(events, logprobs=False):
    assembler, reader = OutputAssembler(ID, logprobs=logprobs), PieceReader()
    said = [e for event in events for piece in reader.frame(Frame(sse(event))) for e in assembler.add(piece)]
    return [*said, *assembler.end()], assembler


def whole(body, logprobs=False):
    assembler, reader = OutputAssembler(ID, logprobs=logprobs), PieceReader()
    for piece in reader.whole(Answer(orjson.dumps(body))):
        list(assembler.add(piece))
    list(assembler.end())
    return assembler


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAME = st.text("abc_", min_size=1, max_size=8)
ARGUMENTS = st.one_of(
    st.dictionaries(st.text("ab", max_size=2), st.integers(0, 9), max_size=2).map(lambda d: orjson.dumps(d).decode()),
    TEXT,
)
SAID = st.builds(
    Said,
    text=TEXT,
    thought=TEXT,
    refusal=st.one_of(st.just(""), TEXT),
    calls=st.lists(st.tuples(NAME, ARGUMENTS), max_size=3).map(tuple),
    finish=st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
    logprobs=st.booleans(),
)


@given(SAID, st.integers(1, 5), st.booleans())
def test_a_stream_its_pieces_and_the_whole_answer_agree_item_by_item(said, step, logprobs):
    events, assembler = streamed(said.events(step), logprobs)
    assert replayed(events) == assembler.output == whole(said.whole(), logprobs).output
    assert assembler.finish == said.finish


def names(events):
    return [event["type"].removeprefix("response.") for event in events]


def test_events_come_in_openais_order():
    events, _ = streamed(Said("hi", thought="hm", calls=(("f", "{}"), ("g", "{}"))).events())
    text = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done"]
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    reasoning = ["output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"]
    ends = ["content_part.done", "output_item.done"]
    assert names(events) == [*reasoning, *ends, *text, *ends, *call, *call]
    assert [event["output_index"] for event in events if event["type"].endswith("added")] == [0, 0, 1, 1, 2, 3]


def test_calls_that_are_written_at_once_are_both_whole():
    assembler = OutputAssembler(ID, logprobs=False)
    pieces = [CallPiece(0, "a", "f", "{"), CallPiece(1, "b", "g", "{"), CallPiece(0, "a", "", "}")]
    pieces += [CallPiece(1, "b", "", "}"), FinishPiece("tool_calls")]
    events = [e for piece in pieces for e in assembler.add(piece)] + list(assembler.end())
    assert [(item["name"], item["arguments"]) for item in replayed(events)] == [("f", "{}"), ("g", "{}")]


def test_a_call_waits_for_its_name():
    assembler = OutputAssembler(ID, logprobs=False)
    pieces = [CallPiece(0, "a", "", "{"), CallPiece(0, "a", "f", ""), CallPiece(0, "a", "", "}")]
    events = [e for piece in pieces for e in assembler.add(piece)] + list(assembler.end())
    assert events[0]["item"]["name"] == "f"
    assert [item["arguments"] for item in replayed(events)] == ["{}"]


def test_text_after_a_finish_or_a_call_is_not_lost():
    assembler = OutputAssembler(ID, logprobs=False)
    pieces = [TextPiece("a"), FinishPiece("stop"), TextPiece("b"), CallPiece(0, "a", "f", "{}"), TextPiece("c")]
    events = [e for piece in pieces for e in assembler.add(piece)] + list(assembler.end())
    texts = [item["content"][0]["text"] for item in replayed(events) if item["type"] == "message"]
    assert texts == ["ab", "c"]


def test_an_answer_that_says_nothing_is_a_message_without_text():
    events, assembler = streamed(Said().events())
    (message,) = replayed(events)
    assert message["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
    assert whole(Said().whole()).output == assembler.output


@pytest.mark.parametrize(("finish", "status"), [("length", "incomplete"), ("content_filter", "incomplete")])
@pytest.mark.parametrize(
    "said", [{"text": "a"}, {"thought": "a"}, {"calls": (("f", '{"a'),)}, {"text": "a", "calls": (("f", "{"),)}]
)
def test_only_the_item_that_was_cut_is_incomplete(said, finish, status):
    _, assembler = streamed(Said(**said, finish=finish).events())
    *before, last = [item["status"] for item in assembler.output]
    assert last == status and set(before) <= {"completed"}


def test_log_probabilities_are_complete_and_only_there_where_they_are_requested():
    odd = {"token": "a", "logprob": None, "bytes": None}
    event = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [odd]}}]}
    events, _ = streamed([event], logprobs=True)
    (delta,) = [e for e in events if e["type"].endswith("text.delta")]
    assert delta["logprobs"] == [{"token": "a", "bytes": [97], "logprob": -9999.0, "top_logprobs": []}]
    events, assembler = streamed([event], logprobs=False)
    assert assembler.output[0]["content"][0]["logprobs"] == []


def test_log_probabilities_of_tokens_without_text_go_to_the_text_after_them():
    first = {"choices": [{"index": 0, "delta": {"content": ""}, "logprobs": {"content": [entry("")]}}]}
    events, assembler = streamed([first, *Said("a", logprobs=True).events()], logprobs=True)
    assert len(assembler.output[0]["content"][0]["logprobs"]) == 2
    assert replayed(events) == assembler.output


def test_what_breaks_off_stays_incomplete():
    assembler = OutputAssembler(ID, logprobs=False)
    for piece in (CallPiece(0, "a", "f", "{"), TextPiece("a")):
        list(assembler.add(piece))
    assembler.abandon()
    assert [item["status"] for item in assembler.output] == ["incomplete", "incomplete"]
