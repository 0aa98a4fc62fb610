"""What code above the pools reads of a frame, parsed on first use."""

import json

import orjson
import pytest

from serve_app.errors import UpstreamError
from serve_app.wire.frames import Frame


def in_one_form(bodies: list[dict[str, object]]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(b) + b"\n\n" for b in bodies)


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    ("bodies", "marked"),
    [
        ([{"choices": [{"delta": {"content": 'a "finish_reason":"stop" "error":1'}, "finish_reason": None}]}], False),
        ([{"choices": [], "usage": None, "error": None}], False),
        ([{"choices": []}, {"choices": [{"finish_reason": "stop"}]}], True),
        ([{"usage": USAGE}], True),
        ([{"error": "broke"}], True),
        ([{"error": {}}], True),
    ],
)
def test_a_frame_is_marked_by_a_finish_a_usage_or_an_error(bodies, marked):
    spaced = b"".join(b"data: " + json.dumps(b).encode() + b"\n\n" for b in bodies)
    for data in (in_one_form(bodies), spaced):
        frame = Frame(data)
        assert frame.marked is marked and frame._parsed is None
        assert frame.events == bodies and frame.data is data


def test_a_frame_has_the_last_usage_and_the_first_error_and_is_parsed_once():
    first = {"usage": {"prompt_tokens": 9}}
    frame = Frame(in_one_form([first, {"error": {"code": "x"}}, {"error": 1}, {"usage": USAGE}]))
    assert (frame.usage, frame.error) == (USAGE, {"code": "x"})
    assert frame.parsed is frame.parsed
    plain = Frame(b"data: not JSON\n\n")
    assert plain.usage is plain.error is plain._parsed is None


@pytest.mark.parametrize(("body", "what"), [(b'{"usage":{', "not JSON"), (b'["\\"",{"usage":{}}]', "not an object")])
def test_a_broken_event_is_the_upstreams_fault(body, what):
    frame = Frame(b"data: " + body + b"\n\n")
    for read in ("events", "usage", "error"):
        with pytest.raises(UpstreamError, match=what):
            getattr(frame, read)


def test_done_is_no_event():
    assert Frame(b'data: {"a":1}\n\ndata: [DONE]\n\n').parsed == [(b'{"a":1}', {"a": 1})]
