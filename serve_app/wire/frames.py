"""The forms in which a call and its answer cross a pool: Call, Answer, Frame.

Tokens cross as the bytes of OpenAI's own wire format, serialized once where the engine is. Code that needs usage,
finish reasons, or log-probabilities reads them from the frame, which parses on first use.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import orjson

from serve_app.errors import UpstreamError
from serve_app.types import Usage
from serve_app.wire.normalize import tokens


@dataclass(frozen=True, slots=True)
class Call:
    """Context of a model call. The decision's id names the answer (`chatcmpl-<id>`); the deadline is monotonic.

    `may_wait`: without a replica, wait for one to start rather than fail at once. False if the strategy can use
    another pool.
    """

    id: str
    request_id: str
    created_s: int
    deadline_s: float | None = None
    may_wait: bool = True

    @property
    def decision_id(self) -> str:
        """Of the decision that the call is made for: a further call of one has an id of its own, with an ending."""
        return self.id.partition("-")[0]


@dataclass(frozen=True)
class Answer:
    """A whole answer: the bytes of OpenAI's response object, as received."""

    body: bytes

    @cached_property
    def parsed(self) -> dict[str, Any]:
        """The response object. Raises orjson.JSONDecodeError if the upstream sent no JSON."""
        parsed: dict[str, Any] = orjson.loads(self.body)
        return parsed

    @property
    def usage(self) -> Usage:
        """Tokens read and written, zero where the upstream gave none."""
        return usage_from_openai(self.parsed.get("usage"))


def usage_from_openai(usage: Any) -> Usage:
    """Usage from OpenAI's object; zero for a count that is missing or is none."""
    if not isinstance(usage, dict):
        return Usage()
    return Usage(tokens(usage.get("prompt_tokens")) or 0, tokens(usage.get("completion_tokens")) or 0)


MARKS = re.compile(rb'"(?:finish_reason"\s*:\s*"|usage"\s*:\s*\{|error"\s*:\s*[^n\s])')
"""A quote inside a JSON string is escaped, so text cannot look like this."""


class Frame:
    """One or more whole SSE events, as received (`data: {...}` and a blank line each).

    `marked`: a finish reason, a usage object, or an error is among them. Only then is there a need to parse. The bytes
    are scanned once, and parsed once, on first use.
    """

    __slots__ = ("_parsed", "data", "marked")

    def __init__(self, data: bytes, marked: bool | None = None) -> None:
        """`marked`: where it is known already."""
        self.data = data
        self.marked = MARKS.search(data) is not None if marked is None else marked
        self._parsed: list[tuple[bytes, dict[str, Any]]] | None = None

    @classmethod
    def of(cls, parsed: list[tuple[bytes, dict[str, Any]]]) -> Self:
        """A marked frame of events that were parsed already: the JSON of each, and its value."""
        frame = cls(b"".join([b"data: " + body + b"\n\n" for body, _ in parsed]), True)
        frame._parsed = parsed
        return frame

    def __repr__(self) -> str:
        return f"Frame({self.data!r})"

    @property
    def parsed(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Each event's JSON as received and parsed, `[DONE]` left out. Raises UpstreamError on a broken event."""
        if self._parsed is None:
            bodies = [e[5:].strip() for e in self.data.split(b"\n\n") if e.startswith(b"data:")]
            self._parsed = [(body, _object(body)) for body in bodies if body != b"[DONE]"]
        return self._parsed

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events' JSON objects, `[DONE]` left out. Raises UpstreamError on a broken event."""
        return [event for _, event in self.parsed]

    @property
    def usage(self) -> dict[str, Any] | None:
        """OpenAI's usage object of the last event that has one."""
        if not self.marked:
            return None
        return next((event["usage"] for _, event in reversed(self.parsed) if event.get("usage")), None)

    @property
    def error(self) -> Any:
        """The error of the first event that has one; None without."""
        if not self.marked:
            return None
        return next((event["error"] for _, event in self.parsed if event.get("error")), None)


def _object(body: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise UpstreamError("the model sent an event that is not JSON") from e
    if not isinstance(event, dict):
        raise UpstreamError("the model sent an event that is not an object")
    return event
