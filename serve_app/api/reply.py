"""Responses as raw ASGI messages: JSON, OpenAI's error object, and how a decision is shown to the caller.

A decision is shown in response headers and in the body's `jethro` object, made from its declaration.
"""

import math
from dataclasses import asdict
from operator import attrgetter
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Send

from serve_app.errors import AuthenticationFailed, BodyTooLarge, JethroError
from serve_app.store.base import RequestRecord
from serve_app.types import DECISION_FIELDS, Decision, Usage

Headers = list[tuple[bytes, bytes]]
INTERNAL: Final = "Internal error; see the log for this request id."
JSON: Final = (b"content-type", b"application/json")


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON response; mappings of any type are objects."""
    return Response(orjson.dumps(value, default=dict), status, media_type="application/json")


async def send_json(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """One whole JSON response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def send_error(
    send: Send, error: JethroError, headers: Headers, retry_after_s: float = 1, *, body: bytes | None = None
) -> None:
    """An error with its true status. `retry_after_s` holds where it names none; `body` None: OpenAI's error object."""
    said = orjson.dumps(error.body()) if body is None else body
    await send_json(send, error.status, said, [*headers, *error_headers(error, retry_after_s)])


def error_headers(error: JethroError, retry_after_s: float) -> Headers:
    """x-should-retry, which the SDKs of OpenAI and Anthropic obey; Retry-After and others, each where it belongs."""
    headers = [(b"x-should-retry", b"true" if error.retryable else b"false")]
    if error.status in (429, 503):
        wait_s = error.retry_after_s if error.retry_after_s is not None else retry_after_s
        headers.append((b"retry-after", str(max(1, math.ceil(wait_s))).encode()))
    elif isinstance(error, AuthenticationFailed):
        headers.append((b"www-authenticate", b"Bearer"))
    elif isinstance(error, BodyTooLarge):
        headers.append((b"connection", b"close"))  # the remaining body is not read
    return headers


def error_event(error: JethroError) -> bytes:
    """The SSE event that ends a stream which broke after its first byte."""
    return b"data: " + orjson.dumps(error.body()) + b"\n\n"


_HEADERS: Final = [
    (b"x-jethro-" + f.shown.header.encode(), f.attribute, f.kind is float) for f in DECISION_FIELDS if f.shown.header
]


def decision_headers(decision: Decision) -> Headers:
    """What is known at the first byte. Text is visible ASCII, any other character a question mark."""
    headers = []
    for name, attribute, number in _HEADERS:
        value = getattr(decision, attribute)
        if value is None or value == "":
            continue
        if number:
            headers.append((name, b"%.6g" % value))
            continue
        text = str(value)
        if not (text.isascii() and text.isprintable()):
            text = "".join(c if " " <= c <= "~" else "?" for c in text)
        headers.append((name, text.encode()))
    return headers


def timing_headers(record: RequestRecord, elapsed_ms: float) -> Headers:
    """Milliseconds until now: for parsing, for the decision, in the pool, and in total."""
    timing = b"parse;dur=%.3f, decide;dur=%.3f, pool;dur=%.3f, total;dur=%.3f" % (
        record.parse_ms or 0.0,
        record.decide_ms or 0.0,
        record.first_byte_ms or 0.0,
        elapsed_ms,
    )
    return [(b"server-timing", timing), (b"openai-processing-ms", b"%d" % round(elapsed_ms))]


def jethro_object(decision: Decision, record: RequestRecord) -> bytes:
    """The `jethro` object, as JSON: the decision, what it cost, and every call made if there was more than one."""
    body = shown_in_answers(decision)
    body["cost_usd"] = record.cost_usd
    if len(record.steps) > 1:
        body["steps"] = [asdict(step) for step in record.steps]
        body["wasted"] = {**record.wasted.to_openai(), "cost_usd": record.wasted_usd}
    return orjson.dumps(body, default=dict)


def spent_headers(record: RequestRecord) -> Headers:
    """Cost of the whole answer, and the wasted part of it."""
    headers = [(b"x-jethro-cost-usd", b"%.6g" % record.cost_usd)]
    wasted = record.wasted
    if wasted.total_tokens:
        headers.append((b"x-jethro-wasted-tokens", b"%d" % wasted.total_tokens))
        headers.append((b"x-jethro-wasted-usd", b"%.6g" % record.wasted_usd))
    return headers


def with_usage(body: bytes, usage: Usage | None) -> bytes:
    """`body`, a JSON object with OpenAI's usage, with `usage` instead of its own; None: unchanged."""
    return body if usage is None else orjson.dumps({**orjson.loads(body), "usage": usage.to_openai()})


def spliced(body: bytes, jethro: bytes) -> bytes:
    """`body`, a JSON object with at least one key, with the `jethro` object as its last."""
    return body.rstrip()[:-1] + b',"jethro":' + jethro + b"}"


_IN_ANSWERS: Final = [f for f in DECISION_FIELDS if not f.shown.detail]
_NAMES: Final = [f.name for f in _IN_ANSWERS]
_VALUES: Final = attrgetter(*(f.attribute for f in _IN_ANSWERS))
_ROUNDED: Final = [(f.name, f.shown.decimals) for f in _IN_ANSWERS if f.shown.decimals is not None]
_DETAILS: Final = [(f.name, f.attribute) for f in DECISION_FIELDS if f.shown.detail]


def shown_in_answers(decision: Decision) -> dict[str, Any]:
    """The part of a decision that every answer carries."""
    shown = dict(zip(_NAMES, _VALUES(decision), strict=True))
    for name, decimals in _ROUNDED:
        shown[name] = round(shown[name], decimals)
    return shown


def decision_json(decision: Decision) -> dict[str, Any]:
    """The whole decision, as returned by /v1/route."""
    return shown_in_answers(decision) | {name: getattr(decision, attribute) for name, attribute in _DETAILS}
