"""The content blocks of one streamed answer, as Anthropic's events: one block is open at a time, in order.

A piece of another kind begins the next block. Of two tool calls whose arguments come mixed, the later waits until those
of the earlier are whole, so that every client can read them.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson
from pydantic_core import from_json

from serve_app.errors import UpstreamError

Kind = Literal["text", "thinking", "tool_use"]
_DELTAS: Final[dict[Kind, tuple[str, str]]] = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


def event_of(kind: str, **fields: Any) -> bytes:
    """One event."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def tool_input(name: str, arguments: str, *, cut: bool) -> bytes:
    """The arguments of a call as the JSON object of a tool_use block; empty ones are an object without keys.

    `cut`: the answer ended before its model did, so that what came of the object is taken. Raises UpstreamError for
    what is no object: a tool must not be run with anything that the model did not say.
    """
    text = arguments.strip()
    if not text:
        return b"{}"
    try:
        if isinstance(orjson.loads(text), dict):
            return text.encode()
    except orjson.JSONDecodeError:
        if cut:
            try:
                begun = from_json(text, allow_partial=True)
            except ValueError:
                begun = None
            if isinstance(begun, dict):
                return orjson.dumps(begun)
    raise broken_arguments(name)


def broken_arguments(name: str) -> UpstreamError:
    """The error for a call that cannot be made."""
    return UpstreamError(f"The model called {name[:64]} with arguments that are no JSON object.")


def nameless_call() -> UpstreamError:
    """The error for a call of nothing."""
    return UpstreamError("The model called a tool without a name.")


@dataclass(slots=True)
class _Segment:
    """What one block holds. `unsent`: what came since the last event of it."""

    kind: Kind
    id: str = ""
    name: str = ""
    text: list[str] = field(default_factory=list)
    unsent: list[str] = field(default_factory=list)
    read: int = 0
    """Pieces of the arguments that were there when they were last found not to be whole."""

    @property
    def whole(self) -> bool:
        """Whether nothing of it is to come, as another block follows."""
        if self.kind != "tool_use":
            return True
        if self.read == len(self.text) or not self.name:
            return False
        self.read = len(self.text)
        try:
            return isinstance(orjson.loads("".join(self.text)), dict)
        except orjson.JSONDecodeError:
            return False


class BlockStream:
    """Takes pieces in and returns the events to send now."""

    def __init__(self) -> None:
        self._segments: list[_Segment] = []
        self._at = 0
        """The segment whose block is open or opens next; it is also the block's index."""
        self._open = False
        self._calls: dict[int, _Segment] = {}

    def text(self, piece: str) -> bytes:
        """A piece of the answer."""
        return self._said("text", piece) if piece else b""

    def thinking(self, piece: str) -> bytes:
        """A piece of the reasoning before it."""
        return self._said("thinking", piece) if piece else b""

    def call(self, position: int, id_: str, name: str, arguments: str) -> bytes:
        """A piece of the call at this position: its name once, its arguments in any number of pieces."""
        call = self._calls.get(position)
        if call is None:
            call = self._calls[position] = _Segment("tool_use", id_)
            self._segments.append(call)
        call.name = call.name or name
        if arguments:
            call.text.append(arguments)
            call.unsent.append(arguments)
        return self._events()

    def end(self, *, cut: bool) -> bytes:
        """The rest; see `tool_input`. Raises UpstreamError for a call without a name or with broken arguments."""
        for segment in self._segments[: self._at]:
            if "".join(segment.unsent).strip():
                raise broken_arguments(segment.name)
        out = []
        for segment in self._segments[self._at :]:
            if segment.kind == "tool_use" and not segment.name:
                raise nameless_call()
            out.append(self._flush(segment))
            out.append(self._close(segment, cut=cut))
        return b"".join(out)

    def _said(self, kind: Kind, piece: str) -> bytes:
        if not self._segments or self._segments[-1].kind != kind:
            self._segments.append(_Segment(kind))
        self._segments[-1].unsent.append(piece)
        return self._events()

    def _events(self) -> bytes:
        """What may leave of the open block, and of those after it as far as the blocks before them are whole."""
        out = []
        while True:
            segment = self._segments[self._at]
            if segment.kind == "tool_use" and not segment.name:
                break
            out.append(self._flush(segment))
            if self._at + 1 == len(self._segments) or not segment.whole:
                break
            out.append(self._close(segment, cut=False))
        return b"".join(out)

    def _flush(self, segment: _Segment) -> bytes:
        """What came of the segment since; its block opens first."""
        out = b""
        if not self._open:
            self._open = True
            out = event_of("content_block_start", index=self._at, content_block=self._beginning(segment))
        if segment.unsent:
            kind, name = _DELTAS[segment.kind]
            delta = {"type": kind, name: "".join(segment.unsent)}
            segment.unsent.clear()
            out += event_of("content_block_delta", index=self._at, delta=delta)
        return out

    def _beginning(self, segment: _Segment) -> dict[str, Any]:
        if segment.kind == "text":
            return {"type": "text", "text": ""}
        if segment.kind == "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        return {"type": "tool_use", "id": segment.id, "name": segment.name, "input": {}}

    def _close(self, segment: _Segment, *, cut: bool) -> bytes:
        if segment.kind == "tool_use":
            tool_input(segment.name, "".join(segment.text), cut=cut)
        index, self._at, self._open = self._at, self._at + 1, False
        return event_of("content_block_stop", index=index)
