"""The bytes of a streamed answer, in whatever form and pieces an upstream sends them, as Frames.

What an event means depends on the event alone, never on how TCP cut the bytes: a Frame holds either events that pass
through as they are, or events with a finish reason or a usage, which the code above must read.

EventCutter follows the WHATWG HTML standard, section 9.2.6, and yields events in one form only, `data: <one line>`
and a blank line, whatever legal form they arrive in (CR and CRLF line ends, comments, event names, data over several
lines). The field `retry` and last event ids have no meaning for one answer and are dropped, and so are the names of
events but `error`, whose data then is the `error` of an object, and those that only keep the connection open.
"""

import re
from collections import Counter
from typing import Any, Final, Literal

import orjson

from serve_app.wire.encoding import DONE
from serve_app.wire.frames import MARKS, Frame
from serve_app.wire.normalize import (
    chunk_of_answer,
    complete_choices,
    error_in,
    lenient_loads,
    normalize_answer,
    too_deep,
)

_BOM: Final = b"\xef\xbb\xbf"
_PINGS: Final = (b"ping", b"heartbeat", b"keepalive", b"keep-alive")
_END: Final = re.compile(rb'"?\[?\s*DONE\s*\]?"?', re.IGNORECASE)
_FIELDS: Final = (b"data", b"event", b"id", b"retry")
_FIELD: Final = re.compile(rb"(?:data|event|id|retry)?[:\r\n]")


class EventCutter:
    """Takes bytes as they arrive and returns the whole events so far.

    Events that already have the one form pass through as they are (the fast path: a few memory scans a buffer).
    """

    __slots__ = ("_after_cr", "_first", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._first = True
        self._after_cr = False

    @property
    def pending(self) -> int:
        """Bytes of the event that is not yet whole."""
        return len(self._tail)

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes, empty if it completes none."""
        if self._after_cr or b"\r" in data:
            data = self._line_feeds_only(data)
        if self._tail:
            data = self._tail + data
        if self._first:
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._tail = data
                return b""
            data = data.removeprefix(_BOM)
            self._first = False
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            self._tail = data
            return b""
        self._tail = data[cut:]
        whole = data[:cut] if self._tail else data
        return whole if has_one_form(whole) else _to_one_form(whole)

    def end(self) -> bytes:
        """The last event, if the body ended without its blank line."""
        rest, self._tail = self._tail, b""
        return _to_one_form(rest.removeprefix(_BOM) if self._first else rest)

    def _line_feeds_only(self, data: bytes) -> bytes:
        """A CR ends its line at once: a line feed that follows it in the next buffer belongs to it."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def has_one_form(events: bytes) -> bool:
    """Whether every event is exactly one line that begins with `data:`."""
    ends = events.count(b"\n\n")
    return events.startswith(b"data:") and events.count(b"\n") == 2 * ends and events.count(b"\n\ndata:") == ends - 1


def _to_one_form(events: bytes) -> bytes:
    out = []
    for event in events.split(b"\n\n"):
        name, lines = b"", []
        for line in event.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                lines.append(value)
            elif field == b"event":
                name = value.strip()
        # A line end inside JSON is white space, so a space keeps the meaning and the event on one line.
        body = b" ".join(lines)
        if lines and name not in _PINGS:
            out.append(b"data: " + (_as_error(body) if name == b"error" else body) + b"\n\n")
    return b"".join(out)


def _as_error(body: bytes) -> bytes:
    """The data of an event named `error` as an object with an `error`."""
    try:
        value, _ = lenient_loads(body, Counter())
        whole = isinstance(value, dict) and value.get("error") is not None
        return body if whole else orjson.dumps({"error": value or ""})
    except (ValueError, orjson.JSONEncodeError):
        return orjson.dumps({"error": body.decode("utf-8", "replace").strip()})


class EventReader:
    """Reads one body. After each call, `done`, `error` or `failure` may be set: then nothing further is read.

    `error` is what the upstream reports, see `error_in`; `failure` what is wrong with its answer, to follow "the
    upstream sent". `finished` holds the choices that have their finish reason.

    Args:
        trusted: the upstream is a replica of ours, whose ordinary events pass without being parsed.
        declared: the answer says that it is an event stream. Other bodies are read if they begin like one, and a whole
            answer as a stream of one event.
        repairs: counts what had to be repaired, by kind.
    """

    def __init__(self, *, trusted: bool = False, declared: bool = True, repairs: Counter[str] | None = None) -> None:
        self.done = False
        self.error: dict[str, Any] | None = None
        self.failure = ""
        self.finished: set[int] = set()
        self._trusted, self._declared = trusted, declared
        self._repairs: Counter[str] = Counter() if repairs is None else repairs
        self._kind: Literal["events", "json"] | None = "events" if trusted else None
        self._cutter = EventCutter()
        self._held = bytearray()
        """A whole answer so far, or a beginning that does not show yet what it is."""

    @property
    def pending(self) -> int:
        """Bytes that are in no frame yet."""
        return self._cutter.pending + (len(self._held) if self._kind != "events" else 0)

    @property
    def over(self) -> bool:
        """Whether nothing further is read."""
        return self.done or self.error is not None or bool(self.failure)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes."""
        if self._kind != "events":
            data = self._beginning(data)
        events = self._cutter.feed(data) if data else b""
        return self._frames(events) if events else []

    def end(self) -> list[Frame]:
        """The frames that the end of the body completes; an event cut short by it is dropped."""
        if self._kind == "json":
            frames = self._frames(b"data: " + bytes(self._held).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n\n")
            self.done = not self.over or self.done
            return frames
        frames = self._frames(self._cutter.end())
        self.failure = ""
        return frames

    def _beginning(self, data: bytes) -> bytes:
        """The body so far, once its first bytes show that it is events; until then, and otherwise, empty."""
        self._held += data
        if self._kind is None:
            self._held = self._held.lstrip(_BOM + b" \t\r\n")
            head = bytes(self._held[:16])
            if head[:1] in (b"{", b"[", b'"'):
                self._kind = "json"
            elif head and (self._declared or _FIELD.match(head)):
                self._kind = "events"
                return bytes(self._held)
            elif not any(name.startswith(head) for name in _FIELDS):
                self.failure = "something else than events"
        return b""

    def _frames(self, events: bytes) -> list[Frame]:
        if self._trusted:
            if events.endswith(DONE):
                self.done = True
                events = events[: -len(DONE)]
            if MARKS.search(events) is None:
                return [Frame(events, False)] if events else []
        frames: list[Frame] = []
        plain: list[bytes] = []
        marked: list[tuple[bytes, dict[str, Any]]] = []
        for event in events.split(b"\n\n")[:-1]:
            body, parsed = self._event(event[5:])
            if self.error is not None or self.failure:
                break
            if parsed is not None:
                if plain:
                    frames.append(Frame(b"".join(plain), False))
                    plain = []
                marked.append((body, parsed))
            elif body:
                if marked:
                    frames.append(Frame.of(marked))
                    marked = []
                plain += (b"data:", body, b"\n\n")
            if self.done and not self._trusted:
                break
        if plain:
            frames.append(Frame(b"".join(plain), False))
        if marked:
            frames.append(Frame.of(marked))
        return frames

    def _event(self, body: bytes) -> tuple[bytes, dict[str, Any] | None]:
        """The data of an event as it is to be sent, empty for nothing; and its value, if it must be read."""
        if self._trusted and MARKS.search(body) is None:
            return body, None
        try:
            event = orjson.loads(body)
            if self._kind == "events" and _ordinary(event) and not too_deep(body, event):
                return body, None
        except orjson.JSONDecodeError:
            event = None
        text = body.strip()
        if not text or text == b"null":
            return b"", None
        if _END.fullmatch(text):
            self.done = True
            return b"", None
        return self._odd_event(text, event)

    def _odd_event(self, text: bytes, event: Any) -> tuple[bytes, dict[str, Any] | None]:
        changed = False
        if event is None:
            try:
                event, changed = lenient_loads(text, self._repairs)
            except ValueError:
                if text[:1] in (b"{", b"[", b'"', b"<"):
                    self.failure = "an event that is not JSON"
                else:
                    self.error = {"message": text.decode("utf-8", "replace")}
                return b"", None
        self.error = error_in(event)
        if self.error is not None:
            return b"", None
        if not isinstance(event, dict):
            self.failure = "an event that is not an object"
            return b"", None
        if too_deep(text, event):
            self.failure = "an event that is nested too deeply"
            return b"", None
        if self._kind == "json":
            event, changed = chunk_of_answer(event), True
        changed |= normalize_answer(event, self._repairs)
        choices, usage = event.get("choices"), event.get("usage")
        if not choices and self._kind == "json":
            self.failure = "an answer without choices"
            return b"", None
        if choices is None:
            if not usage:
                return b"", None  # nothing of an answer
            event["choices"] = choices = []
            changed = True
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            self.failure = "an event of an unknown shape"
            return b"", None
        try:
            changed |= complete_choices(choices, "delta")
        except ValueError as e:
            self.failure = f"an event of an unknown shape: {e}"
            return b"", None
        finishes = [choice for choice in choices if choice.get("finish_reason")]
        for choice in finishes:
            if not isinstance(choice["finish_reason"], str):
                choice["finish_reason"], changed = "stop", True
            self.finished.add(choice["index"])
        data = orjson.dumps(event) if changed else text
        return (data, event) if finishes or usage else (b" " + data, None)


def _ordinary(event: Any) -> bool:
    """Whether an event holds text (or the like) of choices and nothing else that matters."""
    if type(event) is not dict or event.get("usage") is not None or event.get("error") or "jethro" in event:
        return False
    choices = event.get("choices")
    if type(choices) is not list or not choices:
        return False
    for choice in choices:
        if type(choice) is not dict or choice.get("finish_reason") or choice.get("error") or choice.get("usage"):
            return False
        if type(choice.get("delta")) is not dict and type(choice.get("text")) is not str:
            return False
        if type(choice.get("index")) is not int:
            return False
    return True
