"""The end of a stream: frames pass untouched, but for those with a finish, a usage, or an error.

The last chunk that the caller sees carries the `jethro` object, so the last event with a finish reason and the usage
event are held back until the strategy reports what was spent. Pools always send usage; a caller that did not request
it does not get it.
"""

from typing import Any

import orjson

from serve_app.api.reply import spliced, with_usage
from serve_app.errors import UpstreamError
from serve_app.types import Usage
from serve_app.wire.encoding import DONE
from serve_app.wire.frames import Frame


class StreamFinalizer:
    """Filters one stream. `include_usage`: the caller requested the usage chunk."""

    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._finish: bytes | None = None
        self._usage: bytes | None = None

    def passed(self, frame: Frame) -> bytes:
        """The part of a frame to send at once: all of it, unless it is marked.

        Raises UpstreamError for a broken event and for an error event.
        """
        if not frame.marked:
            return frame.data
        return b"".join([self._event(body, event) for body, event in frame.parsed])

    def end(self, jethro: bytes, usage: Usage | None = None) -> bytes:
        """The last bytes: the events held back, with the `jethro` object, and `[DONE]`.

        `usage` replaces the pool's, which counts only the call that answered. Raises UpstreamError if the stream ended
        without a finish reason.
        """
        if self._finish is None:
            raise UpstreamError("The model's stream ended without a finish reason.")
        if self._include_usage and self._usage is not None:
            last = spliced(with_usage(self._usage, usage), jethro)
            return _event_of(self._finish) + _event_of(last) + DONE
        return _event_of(spliced(self._finish, jethro)) + DONE

    def _event(self, body: bytes, event: dict[str, Any]) -> bytes:
        """The bytes of an event to send at once; empty if it is held back."""
        if event.get("error"):
            raise _error(event["error"])
        choices, usage = event.get("choices"), event.get("usage")
        if usage:
            if not choices:
                self._usage = body
                return b""
            # Some upstreams put the usage on a chunk with choices: it moves to a chunk of its own.
            self._usage = orjson.dumps({**event, "choices": [], "usage": usage})
            body = orjson.dumps({name: value for name, value in event.items() if name != "usage"})
        if not choices or not _finishes(choices):
            return _event_of(body)
        before, self._finish = self._finish, body
        return _event_of(before) if before is not None else b""


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
