"""Maps an upstream's error answers to JethroErrors. Pure: bytes and headers in, an exception out."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from serve_app.errors import (
    BodyTooLarge,
    ContextLengthExceeded,
    DeadlineExceeded,
    JethroError,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    Overloaded,
    PoolUnavailable,
    RequestError,
    UnsupportedParameter,
    UpstreamError,
)
from serve_app.wire.frames import Answer

_BY_CODE: dict[str, type[JethroError]] = {
    cls.default_code: cls
    for cls in (
        ContextLengthExceeded,
        UnsupportedParameter,
        ModelNotFound,
        BodyTooLarge,
        Overloaded,
        PoolUnavailable,
        DeadlineExceeded,
    )
    if cls.default_code is not None
}
_BY_STATUS: dict[int, type[JethroError]] = {400: RequestError, 404: NotFound, 405: MethodNotAllowed, 413: BodyTooLarge}
_BY_STATUS[422] = RequestError
_CALLERS = (413, 422)
_MESSAGE_CHARS = 500
_MOST_RETRY_AFTER_S = 3600.0


def error_of_answer(status: int, headers: Mapping[str, str], body: bytes) -> JethroError:
    """The error for an HTTP answer with a status of 400 or more.

    4xx with OpenAI's error object keep the upstream's message, param and code. 413 and 422 are the caller's fault even
    without one (a proxy's page, FastAPI's `detail`): no other member would take such a request. 401 and 403 are the
    operator's fault (the upstream refused our key) and become a 502 without the upstream's message, which may quote
    the key.
    """
    retry_after_s = retry_after(headers.get("retry-after"))
    error = _error_object(body) or _detail(status, body)
    if status in (401, 403):
        return UpstreamError(f"the upstream refused our API key (status {status})", code="upstream_refused_key")
    if status == 429:
        return _build(Overloaded, error, "the upstream is over its rate limit", retry_after_s)
    if status == 503 and headers.get("x-jethro-draining"):
        return _build(PoolUnavailable, error, "the replica is stopping", retry_after_s)
    known = _BY_CODE.get(error.get("code") or "") if error else None
    if known is not None and known.status == status:
        return _build(known, error, "", retry_after_s)
    if status in _BY_STATUS and (error or status in _CALLERS):
        return _build(_BY_STATUS[status], error, f"the upstream refused the request (status {status})", retry_after_s)
    if not error:
        return UpstreamError(f"the upstream answered with status {status}", retry_after_s=retry_after_s)
    return UpstreamError(
        f"the upstream answered with status {status}: {_message(error) or 'no message'}", retry_after_s=retry_after_s
    )


def error_of_event(error: Any) -> JethroError:
    """The error for an error event inside a stream, or inside an answer with status 200."""
    error = error if isinstance(error, dict) else {"message": str(error)}
    known = _BY_CODE.get(str(error.get("code") or ""))
    if known is not None:
        return _build(known, error, "the upstream failed while it answered", None)
    return UpstreamError(f"the upstream failed while it answered: {_message(error) or 'no message'}")


def error_of_whole(answer: Answer) -> JethroError | None:
    """The error of a whole answer with status 200; None if it has choices."""
    try:
        parsed: Any = answer.parsed
    except orjson.JSONDecodeError:
        return UpstreamError("the upstream sent an answer that is not JSON")
    if not isinstance(parsed, dict):
        return UpstreamError("the upstream sent an answer that is not an object")
    if parsed.get("error"):  # some send their errors with status 200
        return error_of_event(parsed["error"])
    if not isinstance(parsed.get("choices"), list) or not parsed["choices"]:
        return UpstreamError("the upstream sent an answer without choices")
    if not isinstance(parsed.get("usage"), dict | None):
        return UpstreamError("the upstream sent a usage that is not an object")
    return None


def redacted(error: JethroError, secret: str) -> JethroError:
    """The error, with a secret that the upstream quotes hidden in its message."""
    if secret and secret in error.message:
        error.message = error.message.replace(secret, "[hidden]")
        error.args = (error.message,)
    return error


def retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or an HTTP date); None if there is none or it is broken."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _MOST_RETRY_AFTER_S) if seconds == seconds else None


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _error_object(body: bytes) -> dict[str, Any]:
    """OpenAI's error object of a body; empty if it has none. Accepts `{"error": "words"}` as well."""
    parsed = _parsed(body)
    error = parsed.get("error")
    if error is None and "message" in parsed:
        error = parsed  # vLLM before 0.10
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _detail(status: int, body: bytes) -> dict[str, Any]:
    """FastAPI's message for a request that it could not read; empty if there is none. Its 404 means a wrong URL."""
    detail = _parsed(body).get("detail") if status in (400, *_CALLERS) else None
    if isinstance(detail, list):  # one entry for each field that is wrong
        detail = "; ".join(str(d["msg"]) for d in detail if isinstance(d, dict) and "msg" in d)
    return {"message": detail} if isinstance(detail, str) and detail else {}


def _build(cls: type[JethroError], error: Mapping[str, Any], fallback: str, retry_after_s: float | None) -> JethroError:
    param, code = error.get("param"), error.get("code")
    return cls(
        _message(error) or fallback,
        param=param if isinstance(param, str) else None,
        code=code if isinstance(code, str) else None,
        retry_after_s=retry_after_s,
    )


def _message(error: Mapping[str, Any]) -> str:
    message = error.get("message")
    return message[:_MESSAGE_CHARS] if isinstance(message, str) else ""
