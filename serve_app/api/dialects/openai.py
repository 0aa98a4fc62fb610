"""OpenAI's chat and completions: bytes pass as the pools sent them, and the end carries the `jethro` object."""

from collections.abc import Callable
from typing import Any, Final

import orjson

from serve_app.api.dialects.base import Writer
from serve_app.api.dialects.fields import FieldRules
from serve_app.api.dialects.stream_finalizer import StreamFinalizer
from serve_app.api.query import ParsedRequest, chat_request, completion_request
from serve_app.api.reply import Headers, error_event, jethro_object, spliced, with_usage
from serve_app.config.tree import LimitsConfig
from serve_app.errors import JethroError
from serve_app.store.base import RequestRecord
from serve_app.types import Decision, Endpoint
from serve_app.wire.frames import Answer, Frame

_READ: Final[dict[Endpoint, Callable[[dict[str, Any], LimitsConfig, str | None, FieldRules], ParsedRequest]]] = {
    "chat": chat_request,
    "completions": completion_request,
}


class OpenAIErrors:
    """OpenAI's error object."""

    def refusal(self, error: JethroError) -> bytes:
        """See Refusals."""
        return orjson.dumps(error.body())

    def headers(self, request_id: str) -> Headers:
        """See Refusals."""
        return [(b"x-request-id", request_id.encode())]


class OpenAIDialect(OpenAIErrors):
    """One of the two routes."""

    def __init__(self, endpoint: Endpoint, limits: LimitsConfig, rules: FieldRules) -> None:
        self.endpoint: str = endpoint
        self._read, self._limits, self._rules = _READ[endpoint], limits, rules

    async def read(self, body: dict[str, Any], tenant: str | None) -> tuple[ParsedRequest, Writer]:
        """See Dialect."""
        request = self._read(body, self._limits, tenant, self._rules)
        return request, OpenAIWriter(request.include_usage)


class OpenAIWriter:
    """Writes one answer."""

    def __init__(self, include_usage: bool) -> None:
        self._finalizer = StreamFinalizer(include_usage)

    def begin(self, decision: Decision) -> bytes:
        """Nothing: the pool's first event is the first."""
        return b""

    def passed(self, frame: Frame) -> bytes:
        """See Writer."""
        return self._finalizer.passed(frame)

    async def end(self, record: RequestRecord) -> bytes:
        """See Writer."""
        assert record.decision is not None
        return self._finalizer.end(jethro_object(record.decision, record), record.usage_to_show)

    def broken(self, error: JethroError) -> bytes:
        """See Writer."""
        return error_event(error)

    async def whole(self, answer: Answer, record: RequestRecord) -> bytes:
        """See Writer."""
        assert record.decision is not None
        return spliced(with_usage(answer.body, record.usage_to_show), jethro_object(record.decision, record))
