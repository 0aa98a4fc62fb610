"""Maps an upstream's error answers to JethroErrors. Pure: bytes and headers in, an exception out."""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

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
from serve_app.wire.events import EventReader
from serve_app.wire.frames import Answer
from serve_app.wire.normalize import complete_choices, error_in, lenient_loads, normalize_answer, too_deep


class OddAnswer(UpstreamError):
    """No answer of the expected kind, from an upstream that is alive."""


class SlowUpstream(OddAnswer):
    """No first byte in time: a failure of the upstream, unless the caller's deadline has passed."""

    status = 504
    default_code = "upstream_timeout"

    @property
    def retryable(self) -> bool:
        """Another member may be faster."""
        return True


class LostConnection(UpstreamError):
    """The connection broke before the answer was complete."""


class NoConnection(LostConnection):
    """The upstream takes no connection."""


class SilentReplica(UpstreamError):
    """The replica takes connections and answers nothing."""


_BY_CODE: Final[dict[str, type[JethroError]]] = {
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
_BY_STATUS: Final[dict[int, type[JethroError]]] = {
    400: RequestError,
    404: NotFound,
    405: MethodNotAllowed,
    413: BodyTooLarge,
    422: RequestError,
}
_CALLERS: Final = (413, 422)
_STATUS_BY_NAME: Final = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "bad_request": 400,
    "badrequesterror": 400,
    "context_length_exceeded": 400,
    "unauthenticated": 401,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_denied": 403,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit": 429,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "ratelimiterror": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
    "insufficient_quota": 429,
}
"""What OpenAI, Google, Anthropic and vLLM write where an event has no number."""
_MESSAGE_CHARS = 500
_EVENTS: Final = re.compile(rb"(?::[^\r\n]*[\r\n]+)*(?:data|event):")
_NO_ROUTE: Final = ("Not Found", "Method Not Allowed")
"""What FastAPI says of a route that it does not have."""
_MOST_RETRY_AFTER_S = 3600.0


def error_of_answer(status: int, headers: Mapping[str, str], body: bytes) -> JethroError:
    """The error for an HTTP answer with a status of 400 or more.

    4xx with an error object keep the upstream's message, param and code, and so does a 400 that gives its reason in
    another shape. 413 and 422 are the caller's fault even without one (a proxy's page): no other member would take
    such a request. A 404 that only says so means a wrong URL, which is the operator's fault; 401 and 403 are too (the
    upstream refused our key) and become a 502 without the upstream's message, which may quote the key.
    """
    error, explicit = _error_of_body(body)
    return _of_status(status, error, explicit or status not in (404, 405), headers, "the upstream answered")


def error_of_event(error: Mapping[str, Any]) -> JethroError:
    """The error for the error object of a stream, or of an answer with status 200: by its code, else its status."""
    code = error.get("code")
    known = _BY_CODE.get(code) if isinstance(code, str) else None
    if known is not None:
        return _build(known, error, "the upstream failed while it answered", None)
    status = _status_in(error)
    if status is None or status >= 500:
        return UpstreamError(f"the upstream failed while it answered: {_message(error) or 'no message'}")
    return _of_status(status, error, True, {}, "the upstream failed")


def read_whole(body: bytes, repairs: Counter[str]) -> Answer:
    """The whole answer of a body with status 200, repaired. Raises its error if it has no choices."""
    try:
        parsed, repaired = lenient_loads(body, repairs)
    except ValueError:
        raise OddAnswer("the upstream sent an answer that is not JSON") from None
    if (error := error_in(parsed)) is not None:  # some send their errors with status 200
        raise error_of_event(error)
    if not isinstance(parsed, dict):
        raise OddAnswer("the upstream sent an answer that is not an object")
    choices = parsed.get("choices")
    if not isinstance(choices, list) or not choices:
        raise OddAnswer("the upstream sent an answer without choices")
    if not all(isinstance(choice, dict) for choice in choices):
        raise OddAnswer("the upstream sent an answer of an unknown shape")
    if too_deep(body, parsed):
        raise OddAnswer("the upstream sent an answer that is nested too deeply")
    changed = normalize_answer(parsed, repairs)
    try:
        changed |= complete_choices(choices, "message")
    except ValueError as e:
        raise OddAnswer(f"the upstream sent an answer of an unknown shape: {e}") from None
    answer = Answer(orjson.dumps(parsed) if changed or repaired else body)
    answer.__dict__["parsed"] = parsed  # as its property would, the second time
    return answer


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
        except (ValueError, OverflowError):  # the latter for its zone
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _MOST_RETRY_AFTER_S) if seconds == seconds else None


def _error_of_body(body: bytes) -> tuple[dict[str, Any], bool]:
    """The error of a refusal's body, empty if it has none; and whether it is an error object, as OpenAI's."""
    text = body.strip()
    if _EVENTS.match(text):
        reader = EventReader()
        reader.feed(body)
        reader.end()
        return reader.error or {}, reader.error is not None
    try:
        parsed, _ = lenient_loads(text, Counter())
    except ValueError:
        plain = text and not text.startswith((b"<", b"{", b"["))
        return ({"message": text.decode("utf-8", "replace")} if plain else {}), False
    error = error_in(parsed) or {}
    explicit = not isinstance(parsed, str) and error.get("message") not in _NO_ROUTE
    return error, bool(error) and explicit


def _of_status(
    status: int, error: Mapping[str, Any], explicit: bool, headers: Mapping[str, str], what: str
) -> JethroError:
    """The error for a status. `explicit`: the error speaks of the request, not of a route that is missing."""
    retry_after_s = retry_after(headers.get("retry-after"))
    if status in (401, 403):
        return UpstreamError(f"the upstream refused our API key (status {status})", code="upstream_refused_key")
    if status == 429:
        return _build(Overloaded, error, "the upstream is over its rate limit", retry_after_s)
    if status == 503 and headers.get("x-jethro-draining"):
        return _build(PoolUnavailable, error, "the replica is stopping", retry_after_s)
    code = error.get("code")
    known = _BY_CODE.get(code) if isinstance(code, str) else None
    if known is not None and known.status == status:
        return _build(known, error, "", retry_after_s)
    if status in _BY_STATUS and ((error and explicit) or status in _CALLERS):
        return _build(_BY_STATUS[status], error, f"the upstream refused the request (status {status})", retry_after_s)
    message = f": {_message(error) or 'no message'}" if error else ""
    return UpstreamError(f"{what} with status {status}{message}", retry_after_s=retry_after_s)


def _status_in(error: Mapping[str, Any]) -> int | None:
    """The HTTP status that an error object means, by a number or a name; None if it has neither."""
    for key in ("code", "status", "status_code", "statusCode", "type"):
        value = error.get(key)
        if isinstance(value, str):
            value = int(value) if value.strip().isdecimal() and len(value) < 9 else _STATUS_BY_NAME.get(value.lower())
        if isinstance(value, int | float) and 400 <= value <= 599:
            return int(value)
    return None


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
    return message.strip()[:_MESSAGE_CHARS] if isinstance(message, str) else ""
