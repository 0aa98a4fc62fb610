import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from serve_app.api import body
from serve_app.api.body import parse_object, read_body
from serve_app.errors import BodyTooLarge, RequestError

JSON_HEADERS = [(b"content-type", b"application/json")]


def arriving(*parts: bytes, gone: bool = False):
    """A `receive` that gives the parts, then perhaps the disconnect."""
    messages = [
        {"type": "http.request", "body": part, "more_body": gone or i < len(parts) - 1} for i, part in enumerate(parts)
    ]
    messages.append({"type": "http.disconnect"})
    given_ = iter(messages)

    async def receive():
        return next(given_)

    return receive


@pytest.mark.parametrize("parts", [(b"{}",), (b"{", b"}"), (b"", b"{}", b"")])
async def test_the_body_is_put_together(parts):
    assert await read_body({"headers": JSON_HEADERS}, arriving(*parts), 10) == b"{}"


@pytest.mark.parametrize("length", [None, b"1", b"9", b"-1", b"nonsense", b"\xb2"])
@pytest.mark.parametrize("parts", [(b"x" * 11,), (b"x" * 5, b"x" * 6)])
async def test_a_body_over_the_limit_is_refused_whatever_its_length_header_says(length, parts):
    headers = [*JSON_HEADERS, *([(b"content-length", length)] if length else [])]
    with pytest.raises(BodyTooLarge):
        await read_body({"headers": headers}, arriving(*parts), 10)


async def test_the_limit_itself_is_allowed():
    assert len(await read_body({"headers": JSON_HEADERS}, arriving(b"x" * 10), 10)) == 10


@pytest.mark.parametrize("length", [b"11", b"9" * 40])
async def test_a_length_over_the_limit_is_refused_before_reading(length):
    async def receive():
        raise AssertionError("read")

    with pytest.raises(BodyTooLarge):
        await read_body({"headers": [*JSON_HEADERS, (b"content-length", length)]}, receive, 10)


async def test_reading_stops_at_the_limit():
    parts = iter([b"x" * 6] * 2)

    async def receive():
        return {"type": "http.request", "body": next(parts), "more_body": True}

    with pytest.raises(BodyTooLarge):
        await read_body({"headers": JSON_HEADERS}, receive, 10)


@pytest.mark.parametrize("parts", [(), (b"{",)])
async def test_a_caller_that_goes_away_while_sending(parts):
    with pytest.raises(ClientDisconnect):
        await read_body({"headers": JSON_HEADERS}, arriving(*parts, gone=True), 10)


async def test_a_body_that_never_comes_is_given_up(monkeypatch):
    monkeypatch.setattr(body, "_BODY_S", 0.01)
    with pytest.raises(RequestError, match="arrive"):
        await read_body({"headers": JSON_HEADERS}, asyncio.Event().wait, 10)


@pytest.mark.parametrize("kind", [b"application/json; charset=utf-8", b"Application/JSON"])
async def test_json_content_types(kind):
    assert await read_body({"headers": [(b"content-type", kind)]}, arriving(b"{}"), 10) == b"{}"


@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-www-form-urlencoded", b"", b"application/jsonx"])
async def test_other_content_types_are_refused(kind):
    with pytest.raises(RequestError, match="content-type"):
        await read_body({"headers": [(b"content-type", kind)]}, arriving(b"{}"), 10)


async def test_no_content_type_is_refused():
    with pytest.raises(RequestError, match="content-type"):
        await read_body({"headers": []}, arriving(b"{}"), 10)


async def test_compressed_bodies_are_refused():
    headers = [*JSON_HEADERS, (b"content-encoding", b"gzip")]
    with pytest.raises(RequestError, match="Compressed"):
        await read_body({"headers": headers}, arriving(b"{}"), 10)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"a":1,}', "invalid_json"),
        (b"{'a':1}", "invalid_json"),
        (b'{"a":1} x', "invalid_json"),
        (b"[]", "invalid_json"),
        (b"null", "invalid_json"),
        (b"1", "invalid_json"),
        (b'"x"', "invalid_json"),
        (b"true", "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":-Infinity}', "invalid_json"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
        (b'{"a":' + b"9" * 5000 + b"}", "invalid_json"),
        (b'{"a":"\x00"}', "invalid_json"),
        (b'\xef\xbb\xbf{"a":1}', "invalid_json"),
        (b'{"a":"\xff"}', "invalid_utf8"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8"),
        (b'{"a":"\\ud800"}', "invalid_utf8"),
        (b'{"\\udfff":1}', "invalid_utf8"),
        (b'{"a":{"b":["\\ud83d"]}}', "invalid_utf8"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"a":{"b":1,"c":2,"b":3}}', "duplicate_key"),
        (b'{"a":[{"\\u0061":1,"a":2}]}', "duplicate_key"),
        (b'{"\\ud800":1,"\\ud800":2}', "duplicate_key"),
    ],
)
def test_bad_json_is_refused_by_name(sent, code):
    with pytest.raises(RequestError) as caught:
        parse_object(sent)
    assert caught.value.code == code
    assert caught.value.message.encode()


def test_a_duplicate_key_is_named():
    with pytest.raises(RequestError, match="'b'") as caught:
        parse_object(b'{"a":1,"b":1,"b":2}')
    assert caught.value.param == "b"


def test_surrogate_pairs_are_characters():
    assert parse_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\N{GRINNING FACE}"}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), values, max_size=5), st.booleans())
def test_every_json_object_is_read_as_json_does(value, ascii_):
    assert parse_object(json.dumps(value, ensure_ascii=ascii_).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(sent):
    try:
        assert parse_object(sent) == json.loads(sent)
    except RequestError as e:
        assert e.status == 400
