"""Writes an answer as Anthropic's message: whole, or as its events, which say the same block by block.

The number of input tokens is not known before a model has read them: `message_start` says 0, and `message_delta`, which
the clients add up last, the true numbers. Reasoning that a model's server sends is shown if `thinking` asks for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from serve_app.api.dialects.messages.blocks import BlockStream, call_id, event_of, tool_input
from serve_app.api.dialects.messages.errors import MessagesErrors, error_event
from serve_app.api.dialects.messages.reply_parts import Said, said_in
from serve_app.api.reply import jethro_object, spliced
from serve_app.errors import JethroError, UpstreamError
from serve_app.store.base import RequestRecord
from serve_app.types import Decision, Usage
from serve_app.wire.frames import Answer, Frame, usage_from_openai
from serve_app.wire.normalize import tokens

_REASONS: Final = {"length": "max_tokens", "content_filter": "refusal"}
_ERRORS: Final = MessagesErrors()


def message_id(decision_id: str) -> str:
    """The id of the message that a decision led to."""
    return f"msg_{decision_id}"


def usage_object(usage: Any, shown: Usage | None) -> dict[str, int]:
    """OpenAI's usage as Anthropic's: what was read from a cache is counted apart. `shown`: of all calls, instead."""
    read = usage_from_openai(usage) if shown is None else shown
    details = usage.get("prompt_tokens_details") if shown is None and isinstance(usage, dict) else None
    cached = tokens(details.get("cached_tokens")) if isinstance(details, dict) else None
    cached = min(cached or 0, read.prompt_tokens)
    return {
        "input_tokens": read.prompt_tokens - cached,
        "output_tokens": read.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }


class Ending:
    """Why one answer ended, in Anthropic's words. `stops`: the request's stop sequences."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self.finish: str | None = None
        self._matched: str | None = None
        self.refusal = ""
        """What the model says instead of an answer."""

    def note(self, choice: Mapping[str, Any]) -> None:
        """Take in a choice's finish reason; the last one counts."""
        if choice.get("finish_reason"):
            self.finish = str(choice["finish_reason"])
            matched = choice.get("stop_reason")
            self._matched = matched if matched in self._stops else None

    @property
    def cut(self) -> bool:
        """Whether the answer ended before its model did."""
        return self.finish in _REASONS

    def fields(self, *, calls: bool) -> dict[str, Any]:
        """Of a message. Which stop sequence ended an answer is known where the engine says it, as ours do."""
        reason = _REASONS.get(self.finish or "")
        if reason is None:
            reason = "tool_use" if calls else "refusal" if self.refusal else None
        if reason is None:
            reason = "stop_sequence" if self._matched is not None else "end_turn"
        said: dict[str, Any] = {"stop_reason": reason, "stop_sequence": None}
        if reason == "stop_sequence":
            said["stop_sequence"] = self._matched
        if reason == "refusal":
            said["stop_details"] = {"type": "refusal", "category": None, "explanation": self.refusal or None}
        return said


class MessagesWriter:
    """Writes one answer. `thinking`: reasoning is shown."""

    def __init__(self, *, thinking: bool, stops: Sequence[str]) -> None:
        self._thinking = thinking
        self._ending = Ending(stops)
        self._usage: Any = None

    def begin(self, decision: Decision) -> bytes:
        """See Writer."""
        id_ = message_id(decision.id)
        self._blocks = BlockStream(id_)
        message = _head(id_, decision.model) | {"content": [], "stop_reason": None, "stop_sequence": None}
        message["usage"] = usage_object(None, None)
        return event_of("message_start", message=message) + event_of("ping")

    def passed(self, frame: Frame) -> bytes:
        """See Writer."""
        return b"".join([self._event(event) for event in frame.events])

    async def end(self, record: RequestRecord) -> bytes:
        """See Writer. Raises UpstreamError for a call with broken arguments as well."""
        if self._ending.finish is None:
            raise UpstreamError("The model's stream ended without a finish reason.")
        assert record.decision is not None
        rest = self._blocks.end(cut=self._ending.cut)
        body = {
            "type": "message_delta",
            "delta": self._ending.fields(calls=self._blocks.calls),
            "usage": usage_object(self._usage, record.usage_to_show),
        }
        data = spliced(orjson.dumps(body), jethro_object(record.decision, record))
        return rest + b"event: message_delta\ndata: " + data + b"\n\n" + event_of("message_stop")

    def broken(self, error: JethroError) -> bytes:
        """See Writer."""
        return error_event(_ERRORS.refusal(error))

    async def whole(self, answer: Answer, record: RequestRecord) -> bytes:
        """See Writer. Raises UpstreamError for an answer of an unknown shape, and for a call with broken arguments."""
        assert record.decision is not None
        id_ = message_id(record.decision.id)
        try:
            choice = answer.parsed["choices"][0]
            message = choice["message"]
        except (KeyError, IndexError, TypeError, orjson.JSONDecodeError) as e:
            raise UpstreamError("The model sent an answer of an unknown shape.") from e
        self._ending.note(choice)
        content = self._content(message, id_)
        calls = any(block["type"] == "tool_use" for block in content)
        usage = usage_object(answer.parsed.get("usage"), record.usage_to_show)
        body = _head(id_, record.decision.model) | {"content": content, **self._ending.fields(calls=calls)}
        return spliced(orjson.dumps(body | {"usage": usage}), jethro_object(record.decision, record))

    def _event(self, event: Mapping[str, Any]) -> bytes:
        if event.get("error"):
            error = event["error"]
            message = error.get("message") if isinstance(error, dict) else None
            raise UpstreamError(str(message or "The model failed while it answered."))
        if event.get("usage"):
            self._usage = event["usage"]
        choices = event.get("choices")
        if not choices:
            return b""
        choice = choices[0]
        out = self._pieces(said_in(choice.get("delta") or {}))
        self._ending.note(choice)
        return out

    def _pieces(self, said: Said) -> bytes:
        blocks = self._blocks
        out = [blocks.thinking(said.reasoning) if self._thinking else b"", blocks.text(said.text)]
        self._ending.refusal += said.refusal
        out.append(blocks.text(said.refusal))
        out += [blocks.call(*call) for call in said.calls]
        return b"".join(out)

    def _content(self, message: Any, id_: str) -> list[dict[str, Any]]:
        said = said_in(message)
        content: list[dict[str, Any]] = []
        if said.reasoning and self._thinking:
            content.append({"type": "thinking", "thinking": said.reasoning, "signature": ""})
        if said.text or said.refusal:
            content.append({"type": "text", "text": said.text + said.refusal})
        self._ending.refusal = said.refusal
        for call in said.calls:
            if not call.name:
                raise UpstreamError("The model called a tool without a name.")
            arguments = orjson.Fragment(tool_input(call.name, call.arguments, cut=self._ending.cut))
            called = call.id or call_id(id_, len(content))
            content.append({"type": "tool_use", "id": called, "name": call.name, "input": arguments})
        return content


def _head(id_: str, model: str) -> dict[str, Any]:
    return {"id": id_, "type": "message", "role": "assistant", "model": model}
