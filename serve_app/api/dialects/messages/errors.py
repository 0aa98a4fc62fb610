"""Anthropic's error object, whole and as the event that ends a stream, and the headers of every answer."""

from typing import Any, Final

import orjson

from serve_app.api.reply import Headers
from serve_app.errors import JethroError
from serve_app.types import REQUEST_ID

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_type(status: int) -> str:
    """Anthropic's type of an error with this status."""
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")


class MessagesErrors:
    """Anthropic's shape of errors. Statuses are those of every other route: 503, not 529, says that pools are away.

    `details` holds what OpenAI's object says besides: the code, as `error_code`, and the parameter.
    """

    def refusal(self, error: JethroError) -> bytes:
        """See Refusals. The request id is that of the running request."""
        said: dict[str, Any] = {"type": error_type(error.status), "message": error.message}
        details = {"error_code": error.code, "param": error.param}
        if any(details.values()):
            said["details"] = {name: value for name, value in details.items() if value is not None}
        return orjson.dumps({"type": "error", "error": said, "request_id": REQUEST_ID.get()})

    def headers(self, request_id: str) -> Headers:
        """See Refusals: the id by Anthropic's name and by ours."""
        value = request_id.encode()
        return [(b"request-id", value), (b"x-request-id", value)]


def error_event(body: bytes) -> bytes:
    """The event that ends a stream which broke; `body` is the error object."""
    return b"event: error\ndata: " + body + b"\n\n"
