"""Writes an answer as Anthropic's message: whole, or as its events, which say the same block by block.

The number of input tokens is not known before a model has read them: `message_start` says 0, and `message_delta`, which
the clients add up last, the true numbers. Reasoning that a model's server sends is shown if the request enables
`thinking`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from serve_app.api.dialects.messages.blocks import BlockStream, event_of, nameless_call, tool_input
from serve_app.api.dialects.messages.errors import MessagesErrors, error_event
from serve_app.api.dialects.pieces import (
    CallPiece,
    FinishPiece,
    Piece,
    PieceReader,
    ReasoningPiece,
    RefusalPiece,
    TextPiece,
    UsagePiece,
)
from serve_app.api.reply import jethro_object, spliced
from serve_app.errors import JethroError, UpstreamError
from serve_app.store.base import RequestRecord
from serve_app.types import Decision, Usage
from serve_app.wire.frames import Answer, Frame, usage_from_openai

_REASONS: Final = {"length": "max_tokens", "content_filter": "refusal"}
_ERRORS: Final = MessagesErrors()


def message_id(decision_id: str) -> str:
    """The id of the message that a decision led to."""
    return f"msg_{decision_id}"


def usage_object(usage: UsagePiece | None, shown: Usage | None) -> dict[str, int]:
    """Anthropic's usage: what was read from a cache is counted apart. `shown`: of all calls, instead of `usage`."""
    read = shown or (Usage() if usage is None else usage_from_openai(usage.usage))
    cached = 0
    if usage is not None and shown is None:
        cached = min(usage.detail("prompt_tokens_details", "cached_tokens"), read.prompt_tokens)
    return {
        "input_tokens": read.prompt_tokens - cached,
        "output_tokens": read.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }


class Ending:
    """How one answer ended, in Anthropic's words. `stops`: the request's stop sequences."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._finish: FinishPiece | None = None
        self._usage: UsagePiece | None = None
        self._refusal = ""
        self.calls = False
        """Whether a tool is called."""

    def note(self, piece: Piece) -> None:
        """Take in what a piece says of the end."""
        if isinstance(piece, FinishPiece):
            self._finish = piece
        elif isinstance(piece, UsagePiece):
            self._usage = piece
        elif isinstance(piece, RefusalPiece):
            self._refusal += piece.text
        elif isinstance(piece, CallPiece):
            self.calls = True

    @property
    def known(self) -> bool:
        """Whether there was a finish reason."""
        return self._finish is not None

    @property
    def cut(self) -> bool:
        """Whether the answer ended before its model did."""
        return self._finish is not None and self._finish.reason in _REASONS

    def usage(self, record: RequestRecord) -> dict[str, int]:
        """See `usage_object`."""
        return usage_object(self._usage, record.usage_to_show)

    @property
    def fields(self) -> dict[str, Any]:
        """Of a message. Which stop sequence ended an answer is known where the engine says it, as ours do."""
        finish = self._finish or FinishPiece("stop")
        reason = _REASONS.get(finish.reason)
        if reason is None:
            reason = "tool_use" if self.calls else "refusal" if self._refusal else None
        if reason is None:
            reason = "stop_sequence" if finish.stop_reason in self._stops else "end_turn"
        said: dict[str, Any] = {"stop_reason": reason, "stop_sequence": None}
        if reason == "stop_sequence":
            said["stop_sequence"] = finish.stop_reason
        if reason == "refusal":
            said["stop_details"] = {"type": "refusal", "category": None, "explanation": self._refusal or None}
        return said


class MessagesWriter:
    """Writes one answer. `thinking`: reasoning is shown."""

    def __init__(self, *, thinking: bool, stops: Sequence[str]) -> None:
        self._thinking = thinking
        self._ending = Ending(stops)
        self._reader, self._blocks = PieceReader(), BlockStream()

    def begin(self, decision: Decision) -> bytes:
        """See Writer."""
        message = _head(decision) | {"content": [], "stop_reason": None, "stop_sequence": None}
        return event_of("message_start", message=message | {"usage": usage_object(None, None)}) + event_of("ping")

    def passed(self, frame: Frame) -> bytes:
        """See Writer."""
        return b"".join([self._events(piece) for piece in self._reader.frame(frame)])

    async def end(self, record: RequestRecord) -> bytes:
        """See Writer. Raises UpstreamError for a call with broken arguments as well."""
        ending = self._ending
        if not ending.known:
            raise UpstreamError("The model's stream ended without a finish reason.")
        assert record.decision is not None
        rest = self._blocks.end(cut=ending.cut)
        body = {"type": "message_delta", "delta": ending.fields, "usage": ending.usage(record)}
        data = spliced(orjson.dumps(body), jethro_object(record.decision, record))
        return rest + b"event: message_delta\ndata: " + data + b"\n\n" + event_of("message_stop")

    def broken(self, error: JethroError) -> bytes:
        """See Writer."""
        return error_event(_ERRORS.refusal(error))

    async def whole(self, answer: Answer, record: RequestRecord) -> bytes:
        """See Writer. Raises UpstreamError for an answer of an unknown shape, and for a call with broken arguments."""
        assert record.decision is not None
        pieces = self._reader.whole(answer)
        if not pieces:
            raise UpstreamError("The model sent an answer of an unknown shape.")
        for piece in pieces:
            self._ending.note(piece)
        body = _head(record.decision) | {"content": self._content(pieces), **self._ending.fields}
        return spliced(
            orjson.dumps(body | {"usage": self._ending.usage(record)}), jethro_object(record.decision, record)
        )

    def _events(self, piece: Piece) -> bytes:
        self._ending.note(piece)
        if isinstance(piece, TextPiece | RefusalPiece):
            return self._blocks.text(piece.text)
        if isinstance(piece, CallPiece):
            return self._blocks.call(piece.position, piece.id, piece.name, piece.arguments)
        if isinstance(piece, ReasoningPiece) and self._thinking:
            return self._blocks.thinking(piece.text)
        return b""

    def _content(self, pieces: Iterable[Piece]) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = []
        for piece in pieces:
            if isinstance(piece, TextPiece | RefusalPiece):
                _append(content, "text", piece.text)
            elif isinstance(piece, ReasoningPiece) and self._thinking:
                _append(content, "thinking", piece.text)
            elif isinstance(piece, CallPiece):
                if not piece.name:
                    raise nameless_call()
                arguments = orjson.Fragment(tool_input(piece.name, piece.arguments, cut=self._ending.cut))
                content.append({"type": "tool_use", "id": piece.id, "name": piece.name, "input": arguments})
        return content


def _append(content: list[dict[str, Any]], kind: str, text: str) -> None:
    """Add text to the last block of its kind, or as a new one."""
    if not text:
        return
    if content and content[-1]["type"] == kind:
        content[-1][kind] += text
        return
    content.append({"type": kind, kind: text, **({"signature": ""} if kind == "thinking" else {})})


def _head(decision: Decision) -> dict[str, Any]:
    return {"id": message_id(decision.id), "type": "message", "role": "assistant", "model": decision.model}
