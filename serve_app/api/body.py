"""Reads a request's body within its limit, and reads JSON strictly.

Strict: UTF-8 only, no duplicate keys at any level, no NaN or Infinity, no text that is not valid UTF-8, and the top
is an object. Uses Python's own parser, the only one that shows duplicate keys.
"""

import asyncio
import json
from typing import Any, Final, NoReturn

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from serve_app.errors import BodyTooLarge, RequestError

_BODY_S: Final = 30.0
"""Longest wait for a whole body; a slow caller holds only its connection meanwhile."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body, at most `limit` bytes, regardless of its content-length.

    Raises BodyTooLarge (before reading more), RequestError for a body that is not plain JSON by its headers or arrives
    too slowly, ClientDisconnect if the caller disconnects.
    """
    _check_headers(scope, limit)
    try:
        async with asyncio.timeout(_BODY_S):
            return await _read(receive, limit)
    except TimeoutError:
        raise RequestError(f"The body did not arrive within {_BODY_S:g} s.", code="body_timeout") from None


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises RequestError that says what is wrong and where."""
    try:
        text = body.decode()
    except UnicodeDecodeError as e:
        raise RequestError(f"The body is not valid UTF-8 (byte {e.start}).", code="invalid_utf8") from e
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as e:
        raise RequestError(f"The body is not valid JSON: {e}.", code="invalid_json") from e
    except RecursionError as e:
        raise RequestError("The body is nested too deeply.", code="invalid_json") from e
    except ValueError as e:  # a number with thousands of digits
        raise RequestError(f"The body is not valid JSON: {e}", code="invalid_json") from e
    if not isinstance(value, dict):
        raise RequestError(f"The body must be a JSON object, not {_json_type(value)}.", code="invalid_json")
    if "\\u" in text:
        _refuse_lone_surrogates(value)
    return value


def _check_headers(scope: Scope, limit: int) -> None:
    content_type = length = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = value
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise RequestError("Compressed bodies are not supported: send the JSON as it is.", code="invalid_encoding")
    if length.isdigit() and (len(length) > 15 or int(length) > limit):
        raise _too_large(limit)
    # Also keeps web pages out: a browser needs a preflight to send this type across origins.
    if content_type != b"application/json" and content_type.split(b";")[0].strip().lower() != b"application/json":
        raise RequestError("Set the header content-type: application/json.", code="invalid_content_type")


async def _read(receive: Receive, limit: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes: send less, or raise limits.body_bytes.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise RequestError(
            f"The key {_printable(twice)!r} is given twice.", param=_printable(twice), code="duplicate_key"
        )
    return value


def _constant(name: str) -> NoReturn:
    raise RequestError(f"The body is not valid JSON: {name} is not a JSON number.", code="invalid_json")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise RequestError(
            "The body holds half of a surrogate pair (such as \\ud800): it encodes no character.", code="invalid_utf8"
        ) from e
    except RecursionError as e:
        raise RequestError("The body is nested too deeply.", code="invalid_json") from e


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _printable(text: str) -> str:
    """A caller's text for an error message: short, and valid UTF-8."""
    return text.encode("utf-8", "replace").decode()[:100]
