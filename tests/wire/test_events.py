"""Cutting a byte stream into whole events, whatever the boundaries and the legal form."""

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.wire.events import EventCutter

BODIES = st.lists(
    st.dictionaries(st.text(max_size=3), st.text(max_size=8) | st.none() | st.integers(-(2**63), 2**63), max_size=3),
    max_size=6,
)


def in_one_form(bodies: list[dict[str, object]]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(b) + b"\n\n" for b in bodies)


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def through(pieces: list[bytes]) -> tuple[list[bytes], EventCutter]:
    cutter = EventCutter()
    return [out for piece in pieces if piece and (out := cutter.feed(piece))], cutter


@given(BODIES, st.lists(st.integers(0, 10_000), max_size=20))
def test_any_boundaries_give_the_same_bytes_in_whole_events(bodies, places):
    data = in_one_form(bodies)
    buffers, cutter = through(cut_at(data, places))
    assert b"".join(buffers) == data
    assert all(b.endswith(b"\n\n") for b in buffers)
    assert cutter.pending == 0


@given(BODIES, st.lists(st.integers(0, 10_000), max_size=20), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_every_legal_form_comes_out_in_one_form(bodies, places, line_end, data):
    events = []
    for body in bodies:
        lines = [f"data: {orjson.dumps(body).decode()}"]
        lines += data.draw(
            st.lists(st.sampled_from([": ping", "event: message", "id: 7", "retry: 9", "x"]), max_size=2)
        )
        events.append(line_end.join(data.draw(st.permutations(lines))) + line_end * 2)
        if data.draw(st.booleans()):
            events.append(f": keep-alive{line_end * 2}")
    raw = "".join(events).encode()
    # A lone CR at the very end may be half of a CRLF, so the cutter waits for what follows it.
    buffers, _ = through([*cut_at(raw, places), b": end\n\n"])
    assert b"".join(buffers) == in_one_form(bodies)


def test_a_buffer_that_has_the_one_form_passes_as_it_is():
    data = b'data: {"a":1}\n\ndata:{"b":2}\n\n'
    assert EventCutter().feed(data) is data


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'data: {"a":\ndata: 1}\n\n', b'data: {"a": 1}\n\n'),
        (b'event: error\ndata: {"error":{}}\n\n', b'data: {"error":{}}\n\n'),
        (b": comment\n\n", b""),
        (b'data: {"a":1}\r\n\r\n: ping\r\n\r\n', b'data: {"a":1}\n\n'),
        (b'\xef\xbb\xbfdata: {"a":1}\n\n', b'data: {"a":1}\n\n'),
        (b'\n\n\ndata: {"a":1}\n\n\n\n', b'data: {"a":1}\n\n'),
    ],
)
def test_other_forms(raw, expected):
    assert EventCutter().feed(raw) == expected
    buffers, _ = through([bytes([b]) for b in raw])
    assert b"".join(buffers) == expected


def test_what_is_not_whole_is_pending():
    cutter = EventCutter()
    assert cutter.feed(b'data: {"a":1}\n\ndata: {') == b'data: {"a":1}\n\n'
    assert cutter.pending == len(b"data: {")


def test_a_byte_order_mark_is_one_at_the_beginning_only():
    data = b"data: 1\n\n\n\xef\xbb\xbfdata: 2"
    for pieces in ([data], [bytes([byte]) for byte in data]):
        buffers, cutter = through(pieces)
        assert b"".join(buffers) + cutter.end() == b"data: 1\n\n"
    _, cutter = through([b"\xef\xbb\xbfdata: 1"])
    assert cutter.end() == b"data: 1\n\n"
