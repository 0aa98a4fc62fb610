"""The content of an answer, read from OpenAI's bytes: text, log-probabilities, tool calls and finish of every choice.

For code that grades answers; answers that only pass through are not read. Pure: parsed JSON in, Chunks out.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from serve_app.errors import UpstreamError
from serve_app.types import Chunk, Endpoint, FinishReason, Query, TokenLogprob, Usage
from serve_app.wire.encoding import STOP_REASON, encode_answer
from serve_app.wire.frames import Answer, Call, Frame, usage_from_openai

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


_EXTRAS = ("refusal", "reasoning_content", "reasoning", "audio", "function_call")
"""Of a message or a delta: what a caller may have been given though its content is empty."""


def choice_chunk(choice: Mapping[str, Any], endpoint: Endpoint) -> Chunk:
    """One choice of an event, or of a whole answer, as a Chunk. Raises KeyError, TypeError or ValueError on others."""
    reason, logprobs, stop = choice.get("finish_reason"), choice.get("logprobs") or {}, choice.get(STOP_REASON)
    stopped = stop if isinstance(stop, str) else None  # vLLM has token ids here too
    finish = None if reason is None else _FINISH.get(reason, "stop")
    if endpoint != "chat":
        return Chunk(
            choice["index"], _text_of(choice.get("text")), (), _text_logprobs(logprobs), finish, stop_reason=stopped
        )
    delta = choice.get("delta") or choice.get("message") or {}
    entries = tuple(_entry(e) for e in logprobs.get("content") or ())
    calls = tuple(delta.get("tool_calls") or ())
    return Chunk(choice["index"], _text_of(delta.get("content")), (), entries, finish, calls, stop_reason=stopped)


def _text_of(content: Any) -> str:
    """The content, or the texts among its parts: some models send their thoughts as a part of another type."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str | None):
        raise TypeError("content that is no text")
    return content or ""


def _entry(entry: Mapping[str, Any]) -> TokenLogprob:
    top = tuple((t["token"], _number(t["logprob"])) for t in entry.get("top_logprobs") or ())
    return TokenLogprob(entry["token"], _number(entry["logprob"]), top)


def _number(logprob: float | None) -> float:
    """A log-probability; nan where there is none, as for the first token of a prompt."""
    return math.nan if logprob is None else float(logprob)


def _text_logprobs(logprobs: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    tokens = logprobs.get("tokens") or ()
    values = logprobs.get("token_logprobs") or ()
    tops = logprobs.get("top_logprobs") or [{}] * len(tokens)
    return tuple(
        TokenLogprob(token, _number(value), tuple((t, _number(v)) for t, v in (top or {}).items()))
        for token, value, top in zip(tokens, values, tops, strict=True)
    )


@dataclass(slots=True)
class ChoiceText:
    """One choice so far. `pieces`: its text as received, a token each where the engine sends them singly."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    """Tool calls by position: name, and arguments as far as they came."""
    has_extras: bool = False
    """Whether it has any of _EXTRAS."""

    @property
    def says_nothing(self) -> bool:
        """Whether it has no text, no call, no extras, and no end that explains it: by length or by a filter."""
        explained = self.finish_reason in ("length", "content_filter")
        return not (self.calls or self.has_extras or explained or self.text.strip())

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        """Tokens so far: as many as have a log-probability, or pieces where none has."""
        return len(self.logprobs) or len(self.pieces)

    def opening(self, tokens: int) -> str:
        """The text of its first tokens."""
        return "".join(t.token for t in self.logprobs[:tokens]) if self.logprobs else "".join(self.pieces[:tokens])

    def add(self, chunk: Chunk) -> None:
        """Take in the next piece."""
        if chunk.text:
            self.pieces.append(chunk.text)
        self.logprobs += chunk.logprobs
        self.finish_reason = chunk.finish_reason or self.finish_reason
        for position, piece in enumerate(chunk.tool_calls):
            call = self.calls.setdefault(piece.get("index", position), {"name": "", "arguments": ""})
            function = piece.get("function") or {}
            call["name"] = function.get("name") or call["name"]
            call["arguments"] += function.get("arguments") or ""


def text_of(said: ChoiceText) -> str:
    """A choice as text, followed by each tool call as `name(arguments)`."""
    calls = [f"{call['name']}({call['arguments']})" for _, call in sorted(said.calls.items())]
    return "\n".join([*([said.text] if said.text or not calls else []), *calls])


def invalid_call(said: ChoiceText, query: Query) -> str:
    """Why a finished choice's tool calls are invalid: no such tool, or arguments that are no JSON object; else ""."""
    if not said.calls or said.finish_reason is None:
        return ""
    names = {str((tool.get("function") or {}).get("name")) for tool in query.tools}
    for call in said.calls.values():
        if call["name"] not in names:
            return f"it calls {call['name'][:64]!r}, which is no tool"
        try:
            arguments = orjson.loads(call["arguments"] or "{}")
        except orjson.JSONDecodeError:
            arguments = None
        if not isinstance(arguments, dict):
            return f"its arguments for {call['name'][:64]} are no JSON object"
    return ""


class AnswerReader:
    """Reads an answer of `n` choices, frame by frame or whole; `usage` is the last one received.

    Every method raises UpstreamError for bytes that are not shaped as OpenAI's.
    """

    def __init__(self, query: Query) -> None:
        self._endpoint: Endpoint = query.endpoint
        self._n = query.sampling.n
        self.choices: dict[int, ChoiceText] = {}
        self.usage: Usage | None = None

    @property
    def finished(self) -> bool:
        """Whether every choice has its finish reason."""
        return len(self.choices) >= self._n and all(s.finish_reason is not None for s in self.choices.values())

    @property
    def says_nothing(self) -> bool:
        """Whether no choice says anything so far."""
        return all(said.says_nothing for said in self.choices.values())

    @property
    def written(self) -> int:
        """Tokens of all choices so far."""
        return sum(said.tokens for said in self.choices.values())

    def holds(self, tokens: int) -> bool:
        """Whether every choice has that many tokens, or has finished."""
        enough = (s.tokens >= tokens or s.finish_reason is not None for s in self.choices.values())
        return len(self.choices) >= self._n and all(enough)

    def frame(self, frame: Frame) -> None:
        """Take in the events of a frame."""
        for event in frame.events:
            self._body(event)

    def answer(self, answer: Answer) -> None:
        """Take in a whole answer."""
        try:
            self._body(answer.parsed)
        except orjson.JSONDecodeError as e:
            raise UpstreamError("the model sent an answer that is not JSON") from e
        if not self.finished:
            raise UpstreamError(f"the model finished {len(self.choices)} of {self._n} choices")

    def _body(self, body: Mapping[str, Any]) -> None:
        try:
            if body.get("usage"):
                self.usage = usage_from_openai(body["usage"])
            for choice in body.get("choices") or ():
                chunk = choice_chunk(choice, self._endpoint)
                said = self.choices.setdefault(chunk.index, ChoiceText())
                said.add(chunk)
                message = choice.get("delta") or choice.get("message") or {}
                said.has_extras = said.has_extras or any(message.get(name) for name in _EXTRAS)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise UpstreamError(f"the model sent an answer of an unknown shape ({type(e).__name__})") from e


def whole_answer(frames: Iterable[Frame], query: Query, call: Call, model: str) -> Answer:
    """The answer that frames stream, as one. Raises UpstreamError if a choice has no finish."""
    reader, chunks = AnswerReader(query), []
    for frame in frames:
        reader.frame(frame)
        for event in frame.events:
            chunks += [choice_chunk(choice, query.endpoint) for choice in event.get("choices") or ()]
    if not reader.finished:
        raise UpstreamError(f"model {model} ended before all choices were finished")
    chunks.append(Chunk(max(reader.choices), usage=reader.usage or Usage()))
    return Answer(encode_answer(query, chunks, model=model, answer_id=call.id, created=call.created_s))
