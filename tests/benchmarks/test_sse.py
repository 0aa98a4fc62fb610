"""SSE from raw bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sse import SseParser

_STREAM = b'data: {"a":1}\n\n: ping\n\ndata:{"b":2}\r\n\r\nevent: x\ndata: one\ndata: two\n\ndata: [DONE]\n\n'
_EVENTS = [b'{"a":1}', b'{"b":2}', b"one\ntwo", b"[DONE]"]


def test_events_of_one_read() -> None:
    assert SseParser().feed(_STREAM) == _EVENTS


@given(st.lists(st.integers(0, len(_STREAM)), max_size=20))
def test_pieces_may_end_anywhere(cuts: list[int]) -> None:
    parser, found, last = SseParser(), [], 0
    for cut in [*sorted(cuts), len(_STREAM)]:
        found += parser.feed(_STREAM[last:cut])
        last = max(last, cut)
    assert found == _EVENTS
    assert parser.rest == b""


def test_an_event_without_its_end_is_kept_back() -> None:
    parser = SseParser()
    assert parser.feed(b"data: ha") == []
    assert parser.rest == b"data: ha"
    assert parser.feed(b"lf\n\n") == [b"half"]


@pytest.mark.parametrize("text", [b": comment\n\n", b"event: ping\n\n", b"\n\n"])
def test_events_without_data_are_dropped(text: bytes) -> None:
    assert SseParser().feed(text) == []
