"""Cuts a byte stream at the ends of server-sent events, without parsing what is in them.

Gives events in one form only, `data: <one line>` and a blank line, whatever legal form they came in (CRLF line ends,
comments, event names, data over several lines). Follows the WHATWG HTML standard, section 9.2.6; field `retry` and
last event ids have no meaning for one answer and are dropped.
"""


class EventCutter:
    """Feed it bytes as they arrive; it gives back the whole events so far.

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
    # A CR at the very end may be half of a CRLF: it stays until the next buffer tells.
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
