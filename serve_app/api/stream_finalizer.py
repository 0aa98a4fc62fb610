"""The end of a stream: finds finish and usage events among frames that pass untouched, and rewrites only those.

The last chunk that the caller sees carries the `jethro` object, so the last event with a finish reason and the usage
event are held back until the strategy says what was spent. Pools always send usage; a caller that did not ask for it
does not get it.
"""

import re
from typing import Any

import orjson

from serve_app.api.reply import spliced, with_usage
from serve_app.errors import UpstreamError
from serve_app.types import Usage
from serve_app.wire.frames import Frame

_SPECIAL = re.compile(rb'"(?:finish_reason": *"|usage": *\{|error": *\{)')
"""Text inside a JSON string has its quotes escaped, so it cannot look like this."""
DONE = b"data: [DONE]\n\n"


class Tail:
    """Filters one stream. `include_usage`: the caller asked for the usage chunk."""

    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._finish: bytes | None = None
        self._usage: bytes | None = None

    def passed(self, frame: Frame) -> bytes:
        """What of a frame goes on at once: all of it, unless it holds a finish, a usage or an error.

        Raises UpstreamError for a broken event and for an error event.
        """
        data = frame.data
        if _SPECIAL.search(data) is None:
            return data
        out = []
        for event in data.split(b"\n\n"):
            body = event[5:].strip()
            if event.startswith(b"data:") and body != b"[DONE]":
                out.append(self._event(body))
        return b"".join(out)

    def end(self, jethro: bytes, usage: Usage | None = None) -> bytes:
        """The last bytes: what was held back, with the `jethro` object, and `[DONE]`.

        `usage` stands in the place of the pool's, which counts the one call that answered. Raises UpstreamError if the
        stream ended without a finish reason.
        """
        if self._finish is None:
            raise UpstreamError("The model's stream ended without a finish reason.")
        if self._include_usage and self._usage is not None:
            told = with_usage(self._usage, usage)
            return _event_of(self._finish) + _event_of(spliced(told, jethro)) + DONE
        return _event_of(spliced(self._finish, jethro)) + DONE

    def _event(self, body: bytes) -> bytes:
        """One special event's bytes if they go on at once; empty if they are held back."""
        event = _parsed(body)
        if "error" in event:
            raise _error(event["error"])
        choices = event.get("choices")
        if not choices:
            if event.get("usage"):
                self._usage = body
                return b""
            return _event_of(body)
        if event.get("usage"):
            body = self._without_usage(event)
        if not _finishes(choices):
            return _event_of(body)
        before, self._finish = self._finish, body
        return _event_of(before) if before is not None else b""

    def _without_usage(self, event: dict[str, Any]) -> bytes:
        """Some upstreams put the usage on a chunk with choices; it moves to a chunk of its own."""
        usage = event.pop("usage")
        self._usage = orjson.dumps({**event, "choices": [], "usage": usage})
        return orjson.dumps(event)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise UpstreamError("The model sent an event that is not JSON.") from e
    if not isinstance(event, dict):
        raise UpstreamError("The model sent an event that is not an object.")
    return event


def _finishes(choices: Any) -> bool:
    try:
        return any(choice.get("finish_reason") for choice in choices)
    except (AttributeError, TypeError) as e:
        raise UpstreamError("The model sent an event of an unknown shape.") from e


def _error(error: Any) -> UpstreamError:
    message = error.get("message") if isinstance(error, dict) else None
    return UpstreamError(str(message or "The model failed while it answered."))


def _event_of(body: bytes) -> bytes:
    return b"data: " + body + b"\n\n"
