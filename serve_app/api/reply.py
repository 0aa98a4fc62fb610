"""Sends responses as raw ASGI messages: JSON, OpenAI's error object, and the headers every response carries.

How a decision is shown to the caller: response headers, and the `jethro` object in the body.
"""

import math
from dataclasses import asdict
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Send

from serve_app.errors import AuthenticationFailed, BodyTooLarge, JethroError
from serve_app.observability.outcome import Outcome
from serve_app.types import Decision, Usage

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


def decision_headers(decision: Decision) -> Headers:
    """What is known when the first byte is."""
    headers = [
        (b"x-jethro-decision-id", header_text(decision.id)),
        (b"x-jethro-strategy", header_text(decision.strategy)),
        (b"x-jethro-pool", header_text(decision.pool)),
        (b"x-jethro-model", header_text(decision.model)),
    ]
    if decision.score is not None:
        headers.append((b"x-jethro-score", b"%.6g" % decision.score))
    if decision.threshold is not None:
        headers.append((b"x-jethro-threshold", b"%.6g" % decision.threshold))
    if decision.policy_version:
        headers.append((b"x-jethro-policy", header_text(decision.policy_version)))
    return headers


def timing_headers(outcome: Outcome, elapsed_ms: float) -> Headers:
    """Milliseconds spent until now: in reading and checking, in the decision, in the pool, and altogether."""
    timing = b"parse;dur=%.3f, decide;dur=%.3f, pool;dur=%.3f, total;dur=%.3f" % (
        outcome.parse_ms or 0.0,
        outcome.decide_ms or 0.0,
        outcome.first_byte_ms or 0.0,
        elapsed_ms,
    )
    return [(b"server-timing", timing), (b"openai-processing-ms", b"%d" % round(elapsed_ms))]


def jethro_object(decision: Decision, outcome: Outcome) -> bytes:
    """The `jethro` object, as JSON: the decision, what it cost, and every call made if there was more than one."""
    body = _told(decision)
    body["cost_usd"] = outcome.cost_usd
    if len(outcome.steps) > 1:
        body["steps"] = [asdict(step) for step in outcome.steps]
        body["wasted"] = {**outcome.wasted.to_openai(), "cost_usd": outcome.wasted_usd}
    return orjson.dumps(body)


def spent_headers(outcome: Outcome) -> Headers:
    """What the answer cost, and what of it was wasted; known when it is whole."""
    headers = [(b"x-jethro-cost-usd", b"%.6g" % outcome.cost_usd)]
    wasted = outcome.wasted
    if wasted.total_tokens:
        headers.append((b"x-jethro-wasted-tokens", b"%d" % wasted.total_tokens))
        headers.append((b"x-jethro-wasted-usd", b"%.6g" % outcome.wasted_usd))
    return headers


def with_usage(body: bytes, usage: Usage | None) -> bytes:
    """`body`, a JSON object with OpenAI's usage, counting `usage` instead of its own; None: as it is."""
    return body if usage is None else orjson.dumps({**orjson.loads(body), "usage": usage.to_openai()})


def spliced(body: bytes, jethro: bytes) -> bytes:
    """`body`, a JSON object with at least one key, with the `jethro` object as its last."""
    return body.rstrip()[:-1] + b',"jethro":' + jethro + b"}"


def decision_json(decision: Decision) -> dict[str, Any]:
    """The whole decision, as /v1/route gives it."""
    return {
        **_told(decision),
        "expected": {action: dict(figures) for action, figures in decision.expected.items()},
        "features": dict(decision.features),
    }


def _told(decision: Decision) -> dict[str, Any]:
    """What every caller is told of a decision."""
    return {
        "decision_id": decision.id,
        "strategy": decision.strategy,
        "pool": decision.pool,
        "model": decision.model,
        "reason": decision.reason,
        "score": decision.score,
        "threshold": decision.threshold,
        "router": decision.router,
        "policy_version": decision.policy_version,
        "decision_ms": round(decision.decision_ms, 3),
    }
