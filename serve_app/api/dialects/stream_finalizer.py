"""The end of a stream: frames pass untouched, but for those with a finish, a usage, or an error.

The last chunk that the caller sees carries the `jethro` object, so the finish reasons and the usage are held back until
the strategy reports what was spent. Some upstreams send text after a finish reason: the text of a chunk that is held
back is sent before it, and the finish reason of each choice once, at the end. Pools always send usage; a caller that
did not request it does not get it.
"""

from typing import Any

import orjson

from serve_app.api.dialects.pieces import stream_error
from serve_app.api.reply import spliced, with_usage
from serve_app.errors import UpstreamError
from serve_app.types import Usage
from serve_app.wire.encoding import DONE
from serve_app.wire.frames import Frame


class StreamFinalizer:
    """Filters one stream. `include_usage`: the caller requested the usage chunk."""

    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._finishes: dict[Any, tuple[bytes, dict[str, Any]]] = {}
        """By the index of the choice: the chunk with its last finish reason, in the order in which they came."""
        self._whole: Any = None
        """The choice whose chunk still has its text."""
        self._usage: bytes | None = None

    def passed(self, frame: Frame) -> bytes:
        """The part of a frame to send at once: all of it, unless it is marked.

        Raises UpstreamError for a broken event and for an error event.
        """
        if not frame.marked:
            return frame.data if self._whole is None else self._text_before() + frame.data
        return b"".join([self._event(body, event) for body, event in frame.parsed])

    def end(self, jethro: bytes, usage: Usage | None = None) -> bytes:
        """The last bytes: the events held back, with the `jethro` object, and `[DONE]`.

        `usage` replaces the pool's, which counts only the call that answered. Raises UpstreamError if the stream ended
        without a finish reason.
        """
        if not self._finishes:
            raise UpstreamError("The model's stream ended without a finish reason.")
        *before, last = [body for body, _ in self._finishes.values()]
        if self._include_usage and self._usage is not None:
            before.append(last)
            last = with_usage(self._usage, usage)
        return b"".join(map(_event_of, before)) + _event_of(spliced(last, jethro)) + DONE

    def _event(self, body: bytes, event: dict[str, Any]) -> bytes:
        """The bytes of an event to send at once; empty if it is held back."""
        if event.get("error"):
            raise stream_error(event["error"])
        choices, usage = event.get("choices"), event.get("usage")
        if usage:
            if not choices:
                self._usage = body
                return b""
            # Some upstreams put the usage on a chunk with choices: it moves to a chunk of its own.
            self._usage = orjson.dumps({**event, "choices": [], "usage": usage})
            event = {name: value for name, value in event.items() if name != "usage"}
            body = orjson.dumps(event)
        if not choices:
            return _event_of(body)
        text = self._text_before()
        finishes = _finishes(choices)
        if not finishes:
            return text + _event_of(body)
        if len(choices) == 1:
            self._whole = finishes[0].get("index", 0)
            self._hold(self._whole, body, event)
            return text
        for choice in finishes:
            held = _without_text(event, choice)
            self._hold(choice.get("index", 0), orjson.dumps(held), held)
        return text + _event_of(orjson.dumps(_without_finish(event)))

    def _hold(self, index: Any, body: bytes, event: dict[str, Any]) -> None:
        self._finishes.pop(index, None)
        self._finishes[index] = (body, event)

    def _text_before(self) -> bytes:
        """The text of the chunk that is held back whole, as something follows it; empty if it has none."""
        if self._whole is None:
            return b""
        index, self._whole = self._whole, None
        _, event = self._finishes[index]
        (choice,) = event["choices"]
        if not (choice.get("text") or choice.get("logprobs") or any((choice.get("delta") or {}).values())):
            return b""
        held = _without_text(event, choice)
        self._finishes[index] = (orjson.dumps(held), held)
        return _event_of(orjson.dumps(_without_finish(event)))


def _finishes(choices: Any) -> list[dict[str, Any]]:
    """The choices that have a finish reason."""
    try:
        return [choice for choice in choices if choice.get("finish_reason")]
    except (AttributeError, TypeError) as e:
        raise UpstreamError("The model sent an event of an unknown shape.") from e


def _without_text(event: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    """The event with the finish of this choice alone."""
    empty: dict[str, Any] = {"text": ""} if "text" in choice else {"delta": {}}
    if "logprobs" in choice:
        empty["logprobs"] = None
    return {**event, "choices": [{**choice, **empty}]}


def _without_finish(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "choices": [{**choice, "finish_reason": None} for choice in event["choices"]]}


def _event_of(body: bytes) -> bytes:
    return b"data: " + body + b"\n\n"
