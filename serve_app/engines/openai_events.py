"""OpenAI's stream events as Chunks. Pure: parsed JSON in, Chunks out, for both endpoints."""

from collections.abc import Mapping
from typing import Any

from serve_app.types import Chunk, Endpoint, FinishReason, TokenLogprob

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


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
