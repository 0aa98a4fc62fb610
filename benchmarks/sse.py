"""Server-sent events from raw bytes, as they arrive."""

import re

_BOUNDARY = re.compile(rb"\r?\n\r?\n")


class SseParser:
    """Cuts a byte stream into events; pieces may end anywhere. Comment lines and fields other than data are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def rest(self) -> bytes:
        """Bytes of an event that has not ended yet."""
        return self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that `data` completes; several data lines of one event are joined by newlines."""
        *whole, self._rest = _BOUNDARY.split(self._rest + data)
        return [body for event in whole if (body := _data(event)) is not None]


def _data(event: bytes) -> bytes | None:
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
