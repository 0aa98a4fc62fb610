"""OpenAI's stream events as Chunks. Pure: parsed JSON in, Chunks out, for both endpoints."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from serve_app.errors import UpstreamError
from serve_app.pools.base import usage_from_openai
from serve_app.types import Chunk, Endpoint, FinishReason, TokenLogprob, Usage

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class ChunkReader:
    """Reads one answer of `n` choices.

    The contract wants usage on the very last chunk, and upstreams send it after the last finish, so a chunk with a
    finish reason waits for what follows it. All others are given at once.
    """

    def __init__(self, endpoint: Endpoint, n: int) -> None:
        self._choice = _chat_chunk if endpoint == "chat" else _text_chunk
        self._n = n
        self._usage = Usage()
        self._held: Chunk | None = None
        self._finished: set[int] = set()

    def read(self, event: Mapping[str, Any]) -> Iterator[Chunk]:
        """The chunks of one event. Raises UpstreamError if it is not shaped as OpenAI's."""
        try:
            if event.get("usage"):
                self._usage = usage_from_openai(event["usage"])
            for chunk in [self._choice(choice) for choice in event.get("choices") or ()]:
                if self._held is not None:
                    yield self._held
                    self._held = None
                if chunk.finish_reason is not None:
                    self._finished.add(chunk.index)
                    self._held = chunk
                else:
                    yield chunk
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise UpstreamError(f"the upstream sent an event of an unknown shape ({type(e).__name__})") from e

    def end(self) -> Chunk:
        """The last chunk. Raises UpstreamError if a choice has no finish reason."""
        if self._held is None or len(self._finished) < self._n:
            raise UpstreamError(f"the upstream finished {len(self._finished)} of {self._n} choices")
        return replace(self._held, usage=self._usage)


def choice_chunk(choice: Mapping[str, Any], endpoint: Endpoint) -> Chunk:
    """One choice of an event, or of a whole answer, as a Chunk. Raises KeyError, TypeError or ValueError on others."""
    return _chat_chunk(choice) if endpoint == "chat" else _text_chunk(choice)


def _chat_chunk(choice: Mapping[str, Any]) -> Chunk:
    delta = choice.get("delta") or choice.get("message") or {}
    entries = (choice.get("logprobs") or {}).get("content") or ()
    return Chunk(
        index=choice["index"],
        text=delta.get("content") or "",
        logprobs=tuple(_entry(e) for e in entries),
        finish_reason=_finish(choice),
        tool_calls=tuple(delta.get("tool_calls") or ()),
    )


def _text_chunk(choice: Mapping[str, Any]) -> Chunk:
    return Chunk(
        index=choice["index"],
        text=choice.get("text") or "",
        logprobs=_text_logprobs(choice.get("logprobs") or {}),
        finish_reason=_finish(choice),
    )


def _finish(choice: Mapping[str, Any]) -> FinishReason | None:
    reason = choice.get("finish_reason")
    return None if reason is None else _FINISH.get(reason, "stop")


def _entry(entry: Mapping[str, Any]) -> TokenLogprob:
    top = tuple((t["token"], float(t["logprob"])) for t in entry.get("top_logprobs") or ())
    return TokenLogprob(entry["token"], float(entry["logprob"]), top)


def _text_logprobs(logprobs: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    tokens = logprobs.get("tokens") or ()
    values = logprobs.get("token_logprobs") or ()
    tops = logprobs.get("top_logprobs") or [{}] * len(tokens)
    return tuple(
        TokenLogprob(token, float(value), tuple((t, float(v)) for t, v in (top or {}).items()))
        for token, value, top in zip(tokens, values, tops, strict=True)
    )
