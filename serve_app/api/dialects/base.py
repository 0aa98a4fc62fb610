"""The contract of a dialect: one API's requests, answers, streams and errors over the same Query and events."""

from collections.abc import Mapping
from typing import Any, Protocol

from serve_app.api.query import ParsedRequest
from serve_app.api.reply import Headers
from serve_app.errors import JethroError
from serve_app.store.base import RequestRecord
from serve_app.types import Decision
from serve_app.wire.frames import Answer, Frame


class Writer(Protocol):
    """Writes the answer to one request: a whole one by `whole`, a stream by `begin`, `passed`, and `end` or `broken`.

    When `whole` and `end` are called the record has the decision, the steps and the usage.
    """

    def begin(self, decision: Decision) -> bytes:
        """The first bytes of a stream, before any frame; empty for none. The decision has the request's class."""

    def passed(self, frame: Frame) -> bytes:
        """What is to be sent at once of a frame. Raises UpstreamError for a broken event and for an error event."""

    async def end(self, record: RequestRecord) -> bytes:
        """The last bytes of a stream. Raises UpstreamError if the stream ended without a finish reason."""

    def broken(self, error: JethroError) -> bytes:
        """The last bytes of a stream that an error ends."""

    async def whole(self, answer: Answer, record: RequestRecord) -> bytes:
        """The body of a whole answer."""


class Refusals(Protocol):
    """The shape of an API's errors."""

    def refusal(self, error: JethroError) -> bytes:
        """The body of an answer that is an error."""

    def headers(self, request_id: str) -> Headers:
        """The headers that every answer carries."""


class Dialect(Refusals, Protocol):
    """One API on one route. `endpoint` names it in records, logs and metrics."""

    endpoint: str

    async def read(self, body: dict[str, Any], tenant: str | None) -> tuple[ParsedRequest, Writer]:
        """A body, checked within the operator's limits. Raises RequestError that names the parameter."""


class Speakers:
    """Which API's errors a path has: those of the longest prefix that is known, else the default's."""

    def __init__(self, default: Refusals, by_prefix: Mapping[str, Refusals]) -> None:
        self._default = default
        self._by_prefix = sorted(by_prefix.items(), key=lambda item: -len(item[0]))

    def of(self, path: str) -> Refusals:
        """The shape of errors on this path."""
        return next((each for prefix, each in self._by_prefix if path.startswith(prefix)), self._default)
