"""An answer as typed pieces, for APIs that have one choice and events of their own: what choice 0 says, and its end.

Frames and whole answers are read into the same pieces, so one assembler writes both and they agree. Tolerant of odd
upstreams: a finish before the text, a usage on a chunk with choices, tool calls without an id or an index or with the
index of another, thoughts as a part of the content, the older `function_call`. Pure: bytes in, pieces out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from serve_app.errors import UpstreamError
from serve_app.types import FinishReason
from serve_app.wire.encoding import STOP_REASON
from serve_app.wire.frames import Answer, Frame

_FINISHES: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text of the answer, never without either. `logprobs`: OpenAI's entries of its tokens, as received."""

    text: str
    logprobs: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningPiece:
    """Text that the model thought."""

    text: str


@dataclass(frozen=True, slots=True)
class RefusalPiece:
    """Text with which the model refuses."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a tool call. `position` counts the answer's calls from 0; `id` is the same in all pieces of one.

    `name` is in its first piece that has it, else empty.
    """

    position: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class FinishPiece:
    """Why the answer ends. Text may still follow it; the last one counts."""

    reason: FinishReason
    stop_reason: str | None = None
    """The stop sequence that ended it, where one did and the engine says which."""


@dataclass(frozen=True, slots=True)
class UsagePiece:
    """OpenAI's usage object, as received; the last one counts."""

    usage: Mapping[str, Any]

    def detail(self, group: str, name: str) -> int:
        """A count among its details, such as prompt_tokens_details.cached_tokens; 0 where there is none."""
        details = self.usage.get(group)
        count = details.get(name) if isinstance(details, Mapping) else None
        return count if type(count) is int and count > 0 else 0


Piece = TextPiece | ReasoningPiece | RefusalPiece | CallPiece | FinishPiece | UsagePiece


def stream_error(error: Any) -> UpstreamError:
    """The error that an event carries."""
    message = error.get("message") if isinstance(error, Mapping) else None
    return UpstreamError(str(message or "The model failed while it answered."))


@dataclass(slots=True)
class _Call:
    id: str
    given: str
    """The upstream's own id, empty for none."""
    name: str = ""


@dataclass(slots=True)
class PieceReader:
    """Reads one answer: `frame` after `frame` of a stream, or the `whole` one. Raises UpstreamError for broken ones."""

    _calls: list[_Call] = field(default_factory=list)
    _by_index: dict[Any, int] = field(default_factory=dict)
    """By the upstream's index of a call: its position."""

    def frame(self, frame: Frame) -> list[Piece]:
        """The pieces of a frame. Raises UpstreamError also for an event that is an error."""
        pieces: list[Piece] = []
        for event in frame.events:
            if event.get("error"):
                raise stream_error(event["error"])
            pieces += self._body(event, "delta")
        return pieces

    def whole(self, answer: Answer) -> list[Piece]:
        """The pieces of a whole answer."""
        try:
            body = answer.parsed
        except orjson.JSONDecodeError as e:
            raise UpstreamError("The model sent an answer that is not JSON.") from e
        return self._body(body, "message")

    def _body(self, body: Mapping[str, Any], part: str) -> list[Piece]:
        try:
            pieces = [piece for choice in _choices(body) for piece in self._choice(choice, part)]
            if isinstance(body.get("usage"), dict):
                pieces.append(UsagePiece(body["usage"]))
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise UpstreamError(f"The model sent an answer of an unknown shape ({type(e).__name__}).") from e
        return pieces

    def _choice(self, choice: Mapping[str, Any], part: str) -> Iterator[Piece]:
        said = choice.get(part) or {}
        if (thought := said.get("reasoning_content") or said.get("reasoning")) and isinstance(thought, str):
            yield ReasoningPiece(thought)
        text = ""
        for kind, words in _contents(said.get("content")):
            if kind is ReasoningPiece:
                yield ReasoningPiece(words)
            else:
                text += words
        logprobs = choice.get("logprobs") or {}
        entries = tuple(logprobs.get("content") or ())
        if text or entries:
            yield TextPiece(text, entries)
        if refusal := said.get("refusal"):
            yield RefusalPiece(str(refusal))
        for place, call in enumerate(said.get("tool_calls") or ()):
            yield self._call(call, place, whole=part == "message")
        if function := said.get("function_call"):
            yield self._call({"index": 0, "function": function}, 0, whole=part == "message")
        if reason := choice.get("finish_reason"):
            stop = choice.get(STOP_REASON)
            matched = stop if isinstance(stop, str) else None  # vLLM has token ids here too
            yield FinishPiece(_FINISHES.get(reason, "stop") if isinstance(reason, str) else "stop", matched)

    def _call(self, call: Mapping[str, Any], place: int, *, whole: bool) -> CallPiece:
        function = call.get("function") or {}
        given, name = str(call.get("id") or ""), str(function.get("name") or "")
        position = self._position(call.get("index"), given, name, whole=whole, place=place)
        known = self._calls[position]
        first = name if not known.name else ""
        known.name = known.name or name
        return CallPiece(position, known.id, first, _arguments(function.get("arguments")))

    def _position(self, index: Any, given: str, name: str, *, whole: bool, place: int) -> int:
        """Which call a piece belongs to, a new one if it begins one.

        Some upstreams number every call 0, and some do not number them: then an id that is new, with a name, begins
        one, and what has neither continues the last.
        """
        if whole:
            return self._begun(place, given)
        if index is not None:
            position = self._by_index.get(index)
            if position is None or self._another(position, given, name):
                position = self._begun(index, given)
            return position
        same = next((i for i, call in enumerate(self._calls) if given and call.given == given), None)
        if same is not None:
            return same
        if given or name or not self._calls:
            return self._begun(None, given)
        return len(self._calls) - 1

    def _another(self, position: int, given: str, name: str) -> bool:
        known = self._calls[position]
        return bool(given and name and known.name and given != known.given)

    def _begun(self, index: Any, given: str) -> int:
        taken = not given or any(call.id == given for call in self._calls)
        self._calls.append(_Call(f"call_{uuid4().hex[:24]}" if taken else given, given))
        self._by_index[index] = len(self._calls) - 1
        return len(self._calls) - 1


def _choices(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Choice 0, however often it is there."""
    for choice in body.get("choices") or ():
        if not choice.get("index"):
            yield choice


def _contents(content: Any) -> Iterator[tuple[type[TextPiece] | type[ReasoningPiece], str]]:
    """The texts of a content that is text, or a list of parts of which some are thoughts."""
    if isinstance(content, list):
        for part in content:
            if part.get("type") == "thinking":
                yield ReasoningPiece, _thoughts(part.get("thinking"))
            elif isinstance(part.get("text"), str):
                yield TextPiece, part["text"]
    elif isinstance(content, str):
        yield TextPiece, content
    elif content is not None:
        raise TypeError("content that is no text")


def _thoughts(thinking: Any) -> str:
    if isinstance(thinking, list):
        return "".join(str(part.get("text") or "") for part in thinking if isinstance(part, Mapping))
    return str(thinking or "")


def _arguments(given: Any) -> str:
    """Arguments as text: some upstreams send the object itself."""
    if given is None:
        return ""
    return given if isinstance(given, str) else orjson.dumps(given).decode()
