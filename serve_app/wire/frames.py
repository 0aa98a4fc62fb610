"""The forms in which a call and its answer cross a pool: Call, Answer, Frame; and a byte stream cut into events.

Tokens cross as the bytes of OpenAI's own wire format, serialized once where the engine is. Code that needs usage,
finish reasons, or log-probabilities reads them from the frame, which parses on first use.

EventCutter follows the WHATWG HTML standard, section 9.2.6, and yields events in one form only, `data: <one line>`
and a blank line, whatever legal form they arrive in (CRLF line ends, comments, event names, data over several lines).
The field `retry` and last event ids have no meaning for one answer and are dropped.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from serve_app.errors import UpstreamError
from serve_app.types import Usage


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


def usage_from_openai(usage: dict[str, Any] | None) -> Usage:
    """Usage from OpenAI's object."""
    usage = usage or {}
    return Usage(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)


_MARKS = re.compile(rb'"(?:finish_reason"\s*:\s*"|usage"\s*:\s*\{|error"\s*:\s*[^n\s])')
"""A quote inside a JSON string is escaped, so text cannot look like this."""


class Frame:
    """One or more whole SSE events, as received (`data: {...}` and a blank line each).

    `marked`: a finish reason, a usage object, or an error is among them. Only then is there a need to parse. The bytes
    are scanned once, and parsed once, on first use.
    """

    __slots__ = ("_parsed", "data", "marked")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.marked = _MARKS.search(data) is not None
        self._parsed: list[tuple[bytes, dict[str, Any]]] | None = None

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


class EventCutter:
    """Takes bytes as they arrive and returns the whole events so far.

    Events that already have the one form pass through as they are (the fast path: a few memory scans a buffer).
    """

    __slots__ = ("_first", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._first = True

    @property
    def pending(self) -> int:
        """Bytes of the event that is not yet whole."""
        return len(self._tail)

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes, empty if it completes none."""
        if self._tail:
            data = self._tail + data
        if self._first:
            if len(data) < 3 and b"\xef\xbb\xbf".startswith(data):
                self._tail = data
                return b""
            data = data.removeprefix(b"\xef\xbb\xbf")
            self._first = False
        if b"\r" in data:
            data = _line_feeds_only(data)
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            self._tail = data
            return b""
        self._tail = data[cut:]
        whole = data[:cut] if self._tail else data
        return whole if _has_one_form(whole) else _to_one_form(whole)


def _line_feeds_only(data: bytes) -> bytes:
    # A CR at the very end may be half of a CRLF: it stays until the next buffer.
    held = data.endswith(b"\r")
    body = data[:-1] if held else data
    body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return body + b"\r" if held else body


def _has_one_form(events: bytes) -> bool:
    """Whether every event is exactly one line that begins with `data:`."""
    ends = events.count(b"\n\n")
    return events.startswith(b"data:") and events.count(b"\n") == 2 * ends and events.count(b"\n\ndata:") == ends - 1


def _to_one_form(events: bytes) -> bytes:
    out = []
    for event in events.split(b"\n\n"):
        lines = [v for line in event.split(b"\n") if (v := _data_of(line)) is not None]
        if lines:
            # A line end inside JSON is white space, so a space keeps the meaning and the event on one line.
            out.append(b"data: " + b" ".join(lines) + b"\n\n")
    return b"".join(out)


def _data_of(line: bytes) -> bytes | None:
    name, colon, value = line.partition(b":")
    if name != b"data":
        return None
    return value.removeprefix(b" ") if colon else b""
