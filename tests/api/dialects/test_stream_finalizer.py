""""""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.dialects.stream_finalizer import StreamFinalizer
from serve_app.errors import UpstreamError
from serve_app.types import Usage
from serve_app.wire.encoding import DONE
from serve_app.wire.frames import Frame
from tests.api.fakes import USAGE, sse

HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
JETHRO = b'{"decision_id":"d"}'


def delta(text, index=0, finish=None, **more):
    return {**HEAD, "choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}], **more}


USAGE_EVENT = {**HEAD, "choices": [], "usage": USAGE}


def run(*frames: bytes, include_usage=False) -> list[dict]:
    """The events that the caller sees."""
    finalizer = StreamFinalizer(include_usage)
    data = b"".join([*(finalizer.passed(Frame(f)) for f in frames), finalizer.end(JETHRO)])
    assert data.endswith(DONE)
    return Frame(data).events


def test_ordinary_frames_pass_untouched():
    frame = Frame(sse(delta("a"), delta("b")))
    assert StreamFinalizer(False).passed(frame) is frame.data


def test_text_that_looks_like_a_finish_is_only_text():
    frame = Frame(sse(delta('"finish_reason":"stop" "usage":{ "error":{')))
    assert StreamFinalizer(False).passed(frame) is frame.data


@pytest.mark.parametrize("choices", [b"[null]", b"[1]", b"7"])
def test_choices_of_an_unknown_shape_are_the_upstreams_fault(choices):
    broken = b'data: {"choices":%b,"usage":{"prompt_tokens":1}}\n\n' % choices
    with pytest.raises(UpstreamError, match="unknown shape"):
        StreamFinalizer(False).passed(Frame(broken))


def test_the_last_finish_carries_the_decision_and_usage_is_taken_out():
    events = run(sse(delta("a")), sse(delta("", finish="stop"), USAGE_EVENT))
    assert events == [delta("a"), {**delta("", finish="stop"), "jethro": {"decision_id": "d"}}]


def test_the_usage_chunk_is_the_last_where_it_was_asked_for():
    events = run(sse(delta("a")), sse(delta("", finish="stop"), USAGE_EVENT), include_usage=True)
    assert events == [delta("a"), delta("", finish="stop"), {**USAGE_EVENT, "jethro": {"decision_id": "d"}}]


def test_the_usage_of_all_calls_is_shown_where_there_were_several():
    finalizer = StreamFinalizer(True)
    data = finalizer.passed(Frame(sse(delta("", finish="stop"), USAGE_EVENT))) + finalizer.end(JETHRO, Usage(40, 2))
    assert Frame(data).events[-1]["usage"] == Usage(40, 2).to_openai()


def test_of_several_choices_all_finishes_wait():
    finalizer = StreamFinalizer(False)
    assert finalizer.passed(Frame(sse(delta("", 0, "stop")))) == b""
    assert Frame(finalizer.passed(Frame(sse(delta("x", 1), delta("", 1, "length"))))).events == [delta("x", 1)]
    assert Frame(finalizer.end(JETHRO)).events == [
        delta("", 0, "stop"),
        {**delta("", 1, "length"), "jethro": {"decision_id": "d"}},
    ]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_text_after_a_finish_keeps_its_place_and_the_finish_is_told_once(cut):
    events = [delta("1", finish="stop"), delta("2"), delta("3", finish="stop"), USAGE_EVENT]
    seen = run(sse(*events[:cut]), sse(*events[cut:]), include_usage=True)
    told = [c for e in seen for c in e["choices"]]
    assert "".join(c["delta"].get("content", "") for c in told) == "123"
    assert [c["finish_reason"] for c in told if c["finish_reason"]] == ["stop"] == [told[-1]["finish_reason"]]
    assert seen[-1]["usage"] == USAGE


def test_a_chunk_that_ends_one_choice_and_continues_another():
    both = {**HEAD, "choices": [*delta("a", 0, "stop")["choices"], *delta("b", 1)["choices"]]}
    seen = run(sse(both), sse(delta("c", 1, "length")))
    told = [(c["index"], c["delta"].get("content", ""), c["finish_reason"]) for e in seen for c in e["choices"]]
    assert told == [(0, "a", None), (1, "b", None), (0, "", "stop"), (1, "c", "length")]


def test_spaces_in_the_json_do_not_hide_the_end():
    spaced = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}\n\n'
    assert [sorted(e) for e in run(spaced, usage)] == [["choices", "jethro"]]


@pytest.mark.parametrize("include_usage", [True, False])
def test_usage_on_the_finish_chunk_moves_to_a_chunk_of_its_own(include_usage):
    events = run(sse(delta("a"), delta("", finish="stop", usage=USAGE)), include_usage=include_usage)
    assert [e.get("usage") for e in events] == ([None, None, USAGE] if include_usage else [None, None])
    assert "jethro" in events[-1]


def test_running_usage_on_every_chunk_is_taken_off():
    events = run(sse(delta("a", usage=USAGE)), sse(delta("", finish="stop", usage=USAGE)), include_usage=True)
    assert [e.get("usage") for e in events] == [None, None, USAGE]


def test_usage_asked_for_but_never_sent():
    assert "jethro" in run(sse(delta("", finish="stop")), include_usage=True)[-1]


def test_done_and_comments_from_a_pool_are_dropped():
    events = run(b": ping\n\n" + sse(delta("", finish="stop")) + DONE)
    assert len(events) == 1


def test_a_stream_without_a_finish_is_an_error():
    finalizer = StreamFinalizer(False)
    finalizer.passed(Frame(sse(delta("a"))))
    with pytest.raises(UpstreamError, match="finish reason"):
        finalizer.end(JETHRO)


@pytest.mark.parametrize("error", [b'{"message":"broke","code":"x"}', b'{ "message": "broke" }'])
def test_an_error_event_is_raised(error):
    with pytest.raises(UpstreamError, match="broke"):
        StreamFinalizer(False).passed(Frame(b'data: {"error": ' + error + b"}\n\n"))


@pytest.mark.parametrize(
    "body", [b'{"finish_reason":"stop"', b'["finish_reason":"x"]', b'["\\"",{"finish_reason":"s"}]']
)
def test_a_broken_event_is_an_error(body):
    with pytest.raises(UpstreamError, match="event"):
        StreamFinalizer(False).passed(Frame(b"data: " + body + b"\n\n"))


@given(
    st.lists(st.text(max_size=8), min_size=1, max_size=8),
    st.lists(st.integers(1, 3), max_size=12),
    st.booleans(),
)
def test_however_events_are_cut_into_frames_the_caller_sees_the_same(words, cuts, include_usage):
    events = [*(delta(w) for w in words), delta("", finish="stop"), USAGE_EVENT]
    frames, rest = [], list(events)
    for cut in cuts:
        frames.append(sse(*rest[:cut]))
        rest = rest[cut:]
    frames.append(sse(*rest))
    seen = run(*(f for f in frames if f), include_usage=include_usage)
    whole = run(sse(*events), include_usage=include_usage)
    assert seen == whole
    assert "".join(e["choices"][0]["delta"]["content"] for e in seen if e["choices"]) == "".join(words)
