"""Sends responses as raw ASGI messages: JSON, OpenAI's error object, and the headers every response carries."""

import math
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Send

from serve_app.errors import AuthenticationFailed, BodyTooLarge, JethroError

Headers = list[tuple[bytes, bytes]]
INTERNAL: Final = "Internal error; the log knows more under this request id."
JSON: Final = (b"content-type", b"application/json")


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(value), status, media_type="application/json")


async def send_json(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """One whole JSON response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: JethroError, headers: Headers, retry_after_s: float = 1) -> None:
    """OpenAI's error object with the error's true status. `retry_after_s` holds where the error names none."""
    await send_json(send, error.status, orjson.dumps(error.body()), [*headers, *error_headers(error, retry_after_s)])


def error_headers(error: JethroError, retry_after_s: float) -> Headers:
    """Retry-After, WWW-Authenticate and Connection, each where it belongs."""
    if error.status in (429, 503):
        wait_s = error.retry_after_s if error.retry_after_s is not None else retry_after_s
        return [(b"retry-after", str(max(1, math.ceil(wait_s))).encode())]
    if isinstance(error, AuthenticationFailed):
        return [(b"www-authenticate", b"Bearer")]
    if isinstance(error, BodyTooLarge):
        return [(b"connection", b"close")]  # the rest of the body is not read
    return []


def error_event(error: JethroError) -> bytes:
    """The one SSE event that ends a stream which broke after its first byte."""
    return b"data: " + orjson.dumps(error.body()) + b"\n\n"


def header_text(value: Any) -> bytes:
    """A value fit for a header: visible ASCII, everything else as a question mark."""
    text = str(value)
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if " " <= c <= "~" else "?" for c in text)
    return text.encode()
