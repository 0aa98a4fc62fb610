"""An answer's pieces as output items, and as the events that stream them, in OpenAI's order.

One item after the other: what the model thought, its message, its calls. An item is closed when the next one begins,
but for a call whose arguments are not whole yet, as some upstreams write several at once; and when the answer ends,
as text may follow a finish reason. A whole answer goes the same way, so that it agrees with its stream.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from serve_app.api.dialects.pieces import (
    CallPiece,
    FinishPiece,
    Piece,
    ReasoningPiece,
    RefusalPiece,
    TextPiece,
    UsagePiece,
)
from serve_app.api.dialects.responses.ids import output_id
from serve_app.types import FinishReason

Event = dict[str, Any]
_LEAST_LOGPROB: Final = -9999.0
"""What OpenAI reports for a token outside the likeliest ones."""
_TEXT: Final = "output_text"
_REFUSAL: Final = "refusal"
_REASONING: Final = "reasoning_text"
_NAMES: Final = {
    _TEXT: ("text", "response.output_text"),
    _REFUSAL: ("refusal", "response.refusal"),
    _REASONING: ("text", "response.reasoning_text"),
}
"""By type of a part: the key of its text, and the names of its events."""


@dataclass(slots=True)
class _Item:
    """An item of the output. `texts`: what its last part, or its arguments, has so far."""

    index: int
    kind: str
    id: str
    parts: list[dict[str, Any]] = field(default_factory=list)
    part_open: bool = False
    texts: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    call_id: str = ""
    name: str = ""
    status: str = "in_progress"

    @property
    def shown(self) -> dict[str, Any]:
        """The item as it is in the response object."""
        if self.kind == "function_call":
            done = {"arguments": "".join(self.texts), "call_id": self.call_id, "name": self.name}
            return {"id": self.id, "type": self.kind, "status": self.status, **done}
        if self.kind == "reasoning":
            return {
                **{"id": self.id, "type": self.kind, "summary": [], "content": list(self.parts)},
                **{"encrypted_content": None, "status": self.status},
            }
        head = {"id": self.id, "type": self.kind, "status": self.status, "role": "assistant"}
        return {**head, "content": list(self.parts)}


class OutputAssembler:
    """Assembles one answer; every method returns the events that it causes, without their sequence numbers."""

    def __init__(self, decision_id: str, *, logprobs: bool) -> None:
        self._decision_id, self._logprobs = decision_id, logprobs
        self._items: list[_Item] = []
        self._open: _Item | None = None
        """The message, or what the model thinks, that further pieces belong to."""
        self._calls: dict[int, _Item] = {}
        """The calls that are not closed, by position."""
        self._nameless: dict[int, list[str]] = {}
        """The arguments of calls whose name has not come."""
        self._call_ids: dict[int, str] = {}
        self._waiting: list[dict[str, Any]] = []
        """Log-probabilities of tokens without text, which belong to the text after them."""
        self.finish: FinishReason | None = None
        self.usage: UsagePiece | None = None

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items so far."""
        return [item.shown for item in self._items]

    def add(self, piece: Piece) -> Iterator[Event]:
        """Take in one piece."""
        if isinstance(piece, TextPiece):
            yield from self._text(piece)
        elif isinstance(piece, ReasoningPiece):
            yield from self._said("reasoning", _REASONING, piece.text, [])
        elif isinstance(piece, RefusalPiece):
            yield from self._said("message", _REFUSAL, piece.text, [])
        elif isinstance(piece, CallPiece):
            yield from self._call(piece)
        elif isinstance(piece, FinishPiece):
            self.finish = piece.reason
        else:
            self.usage = piece

    def end(self) -> Iterator[Event]:
        """The answer is over: close what is open. An answer that says nothing is a message without text."""
        for position in sorted(self._nameless):
            yield from self._begin_call(position, "")
        if not self._items:
            yield from self._said("message", _TEXT, "", [])
        last = self._items[-1]
        cut = self.finish in ("length", "content_filter")
        yield from self._close_open("incomplete" if cut and last is self._open else "completed")
        for position, item in list(self._calls.items()):
            yield from self._close_call(position, "incomplete" if cut and last is item else "completed")

    def abandon(self) -> None:
        """The answer broke off: what is open stays incomplete."""
        for _ in self._close_open("incomplete"):
            pass
        for position in list(self._calls):
            for _ in self._close_call(position, "incomplete"):
                pass

    def _text(self, piece: TextPiece) -> Iterator[Event]:
        entries = [_entry(entry) for entry in piece.logprobs] if self._logprobs else []
        if not piece.text and (self._open is None or self._open.kind != "message"):
            self._waiting += entries
            return
        entries, self._waiting = self._waiting + entries, []
        yield from self._said("message", _TEXT, piece.text, entries)

    def _said(self, kind: str, part: str, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        """Text of a part of the open item, which is begun if it is another."""
        if self._open is None or self._open.kind != kind:
            yield from self._close_open("completed")
            yield from self._close_whole_calls()
            item = self._open = self._begin(kind)
            yield {"type": "response.output_item.added", "output_index": item.index, "item": item.shown}
        item = self._open
        at = {"item_id": item.id, "output_index": item.index}
        if not item.part_open or item.parts[-1]["type"] != part:
            yield from self._close_part(item)
            yield from self._begin_part(item, part, at)
        if not text and not logprobs:
            return
        item.texts.append(text)
        item.logprobs += logprobs
        delta: Event = {"type": f"{_NAMES[part][1]}.delta", **at, "content_index": len(item.parts) - 1, "delta": text}
        if part == _TEXT:
            delta["logprobs"] = logprobs
        yield delta

    def _begin(self, kind: str) -> _Item:
        index = len(self._items)
        item = _Item(index, kind, output_id(self._decision_id, kind, index))
        self._items.append(item)
        return item

    def _begin_part(self, item: _Item, part: str, at: Mapping[str, Any]) -> Iterator[Event]:
        empty: dict[str, Any] = {"type": part, _NAMES[part][0]: ""}
        if part == _TEXT:
            empty |= {"annotations": [], "logprobs": []}
        item.parts.append(empty)
        item.part_open, item.texts, item.logprobs = True, [], []
        index = len(item.parts) - 1
        yield {"type": "response.content_part.added", **at, "content_index": index, "part": dict(empty)}

    def _close_part(self, item: _Item) -> Iterator[Event]:
        if not item.part_open:
            return
        item.part_open = False
        part, text = item.parts[-1], "".join(item.texts)
        key, name = _NAMES[part["type"]]
        part[key] = text
        at = {"item_id": item.id, "output_index": item.index, "content_index": len(item.parts) - 1}
        done: Event = {"type": f"{name}.done", **at, key: text}
        if part["type"] == _TEXT:
            part["logprobs"] = done["logprobs"] = item.logprobs
        yield done
        yield {"type": "response.content_part.done", **at, "part": dict(part)}

    def _close_open(self, status: str) -> Iterator[Event]:
        item, self._open = self._open, None
        if item is not None:
            yield from self._close_part(item)
            item.status = status
            yield {"type": "response.output_item.done", "output_index": item.index, "item": item.shown}

    def _call(self, piece: CallPiece) -> Iterator[Event]:
        """A piece of a call. One without a name waits for it: an item has it from its beginning."""
        item, waits = self._calls.get(piece.position), piece.position in self._nameless
        if item is None and not waits and piece.position in self._call_ids:
            return  # its arguments were whole
        self._call_ids.setdefault(piece.position, piece.id)
        if item is None and piece.name:
            yield from self._begin_call(piece.position, piece.name)
            item = self._calls[piece.position]
        if item is None:
            self._nameless.setdefault(piece.position, []).append(piece.arguments)
        else:
            yield from self._arguments(item, piece.arguments)

    def _begin_call(self, position: int, name: str) -> Iterator[Event]:
        yield from self._close_open("completed")
        yield from self._close_whole_calls()
        item = self._calls[position] = self._begin("function_call")
        item.call_id, item.name = self._call_ids[position], name
        yield {"type": "response.output_item.added", "output_index": item.index, "item": item.shown}
        yield from self._arguments(item, "".join(self._nameless.pop(position, ())))

    def _arguments(self, item: _Item, piece: str) -> Iterator[Event]:
        if piece:
            item.texts.append(piece)
            at = {"item_id": item.id, "output_index": item.index}
            yield {"type": "response.function_call_arguments.delta", **at, "delta": piece}

    def _close_whole_calls(self) -> Iterator[Event]:
        """Those whose arguments are whole."""
        for position, item in list(self._calls.items()):
            if _is_json("".join(item.texts)):
                yield from self._close_call(position, "completed")

    def _close_call(self, position: int, status: str) -> Iterator[Event]:
        item = self._calls.pop(position)
        item.status = status
        arguments, at = "".join(item.texts), {"item_id": item.id, "output_index": item.index}
        yield {"type": "response.function_call_arguments.done", **at, "arguments": arguments}
        yield {"type": "response.output_item.done", "output_index": item.index, "item": item.shown}


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The log-probability of a token, complete."""
    others = entry.get("top_logprobs") or ()
    return {**_token(entry), "top_logprobs": [_token(other) for other in others]}


def _token(entry: Mapping[str, Any]) -> dict[str, Any]:
    token, logprob, data = str(entry.get("token") or ""), entry.get("logprob"), entry.get("bytes")
    value = float(logprob) if isinstance(logprob, int | float) else _LEAST_LOGPROB
    return {
        "token": token,
        "bytes": data if isinstance(data, list) else list(token.encode("utf-8", "replace")),
        "logprob": value,
    }
