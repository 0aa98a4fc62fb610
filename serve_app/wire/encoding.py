"""Chunks of an engine as the bytes of OpenAI's answers: SSE events and the one-shot object.

Serialised once, here, where the engine is. Everything that is the same for all events of an answer is joined ahead, so
an event costs one JSON string and two joins. Shapes: OpenAI's chat.completion(.chunk) and text_completion objects.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from serve_app.types import Chunk, Endpoint, Query, TokenLogprob, Usage

DONE = b"data: [DONE]\n\n"
"""The event that ends a whole stream."""
STOP_REASON: Final = "stop_reason"
"""Of a choice that a stop sequence ended: which one. Named as in vLLM; OpenAI's format has nothing of the kind."""


def answer_prefix(endpoint: Endpoint) -> str:
    """The prefix of an answer's id."""
    return "chatcmpl-" if endpoint == "chat" else "cmpl-"


class StreamEncoder:
    """Encodes one answer's chunks as SSE events; the first event of each choice carries the role.

    Args:
        query: gives the endpoint and whether log-probabilities are requested.
        model: the id that the caller sees.
        answer_id: without prefix; `chatcmpl-` or `cmpl-` is put before it.
        created: Unix time in seconds.

    `unfinished` counts the choices whose finish reason has not passed, `last_usage` is the usage that passed.
    """

    def __init__(self, query: Query, *, model: str, answer_id: str, created: int) -> None:
        self._chat = query.endpoint == "chat"
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        head = {"id": answer_prefix(query.endpoint) + answer_id, "object": kind, "created": created, "model": model}
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        self._plain: dict[int, bytes] = {}
        self._offsets: dict[int, int] = {}
        self.unfinished = query.sampling.n
        self.last_usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether every finish reason and the usage have passed."""
        return self.unfinished == 0 and self.last_usage is not None

    def encode_all(self, chunks: Iterable[Chunk]) -> bytes:
        """The events of several chunks."""
        return b"".join([self.encode(chunk) for chunk in chunks])

    def encode(self, chunk: Chunk) -> bytes:
        """One event: text, finish reason, log-probabilities and tool calls of the chunk, but not its usage."""
        opening = self._plain.get(chunk.index)
        if chunk.usage is not None:
            self.last_usage = chunk.usage
        if opening is None or chunk.finish_reason is not None or chunk.logprobs or chunk.tool_calls:
            return self._full(chunk)
        return opening + orjson.dumps(chunk.text) + (_CHAT_TAIL if self._chat else _TEXT_TAIL)

    def usage(self, usage: Usage) -> bytes:
        """The event with no choices and the usage of the whole answer."""
        return self._head + b'],"usage":' + orjson.dumps(usage.to_openai()) + b"}\n\n"

    def _full(self, chunk: Chunk) -> bytes:
        if chunk.finish_reason is not None:
            self.unfinished -= 1
        if self._chat:
            choice = self._chat_choice(chunk)
        else:
            start = self._offsets.get(chunk.index, 0)
            self._offsets[chunk.index] = start + sum(len(t.token) for t in chunk.logprobs)
            choice = _text_choice(chunk.index, chunk.text, chunk.logprobs, chunk.finish_reason, start)
        if chunk.stop_reason is not None:
            choice[STOP_REASON] = chunk.stop_reason
        if chunk.index not in self._plain:
            inner = b'"delta":{"content":' if self._chat else b'"text":'
            self._plain[chunk.index] = b'%b{"index":%d,%b' % (self._head, chunk.index, inner)
        return self._head + orjson.dumps(choice) + b"]}\n\n"

    def _chat_choice(self, chunk: Chunk) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if chunk.index not in self._plain:
            delta["role"] = "assistant"
        if chunk.text or (not chunk.tool_calls and "role" in delta):
            delta["content"] = chunk.text
        if chunk.tool_calls:
            delta["tool_calls"] = [dict(call) for call in chunk.tool_calls]
        logprobs = _chat_logprobs(chunk.logprobs) if chunk.logprobs else None
        return {"index": chunk.index, "delta": delta, "logprobs": logprobs, "finish_reason": chunk.finish_reason}


_CHAT_TAIL = b'},"logprobs":null,"finish_reason":null}]}\n\n'
_TEXT_TAIL = b',"logprobs":null,"finish_reason":null}]}\n\n'


def encode_answer(query: Query, chunks: Iterable[Chunk], *, model: str, answer_id: str, created: int) -> bytes:
    """The whole answer as OpenAI's response object; usage is the last one that the chunks carry."""
    by_choice: dict[int, list[Chunk]] = {}
    usage = Usage()
    for chunk in chunks:
        by_choice.setdefault(chunk.index, []).append(chunk)
        if chunk.usage is not None:
            usage = chunk.usage
    chat = query.endpoint == "chat"
    whole = _whole_message if chat else _whole_text
    kind = "chat.completion" if chat else "text_completion"
    head = {"id": answer_prefix(query.endpoint) + answer_id, "object": kind, "created": created, "model": model}
    choices = [whole(index, by_choice[index], query) for index in sorted(by_choice)]
    for choice in choices:
        if (reason := _stop_reason(by_choice[choice["index"]])) is not None:
            choice[STOP_REASON] = reason
    return orjson.dumps(head | {"choices": choices, "usage": usage.to_openai()})


def _whole_message(index: int, chunks: Sequence[Chunk], query: Query) -> dict[str, Any]:
    text = "".join(c.text for c in chunks)
    calls = _merged_calls(chunks)
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if calls:
        message["tool_calls"] = calls
    logprobs = _chat_logprobs([t for c in chunks for t in c.logprobs]) if query.sampling.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": _finish(chunks)}


def _whole_text(index: int, chunks: Sequence[Chunk], query: Query) -> dict[str, Any]:
    logprobs = [t for c in chunks for t in c.logprobs]
    return _text_choice(index, "".join(c.text for c in chunks), logprobs, _finish(chunks), 0, query.sampling.logprobs)


def _finish(chunks: Sequence[Chunk]) -> str | None:
    return next((c.finish_reason for c in reversed(chunks) if c.finish_reason is not None), None)


def _stop_reason(chunks: Sequence[Chunk]) -> str | None:
    return next((c.stop_reason for c in reversed(chunks) if c.stop_reason is not None), None)


def _text_choice(
    index: int, text: str, logprobs: Sequence[TokenLogprob], finish: str | None, start: int, requested: bool = False
) -> dict[str, Any]:
    found = _text_logprobs(logprobs, start) if logprobs or requested else None
    return {"index": index, "text": text, "logprobs": found, "finish_reason": finish}


def _chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [{**_entry(t.token, t.logprob), "top_logprobs": [_entry(*top) for top in t.top]} for t in logprobs]
    return {"content": content, "refusal": None}


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


def _text_logprobs(logprobs: Sequence[TokenLogprob], start: int) -> dict[str, Any]:
    offsets = []
    for t in logprobs:
        offsets.append(start)
        start += len(t.token)
    return {
        "tokens": [t.token for t in logprobs],
        "token_logprobs": [t.logprob for t in logprobs],
        "top_logprobs": [dict(t.top) for t in logprobs],
        "text_offset": offsets,
    }


def _merged_calls(chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """Tool calls put together from their pieces: names and ids once, arguments joined."""
    merged: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for position, piece in enumerate(chunk.tool_calls):
            call = merged.setdefault(piece.get("index", position), {"type": "function", "function": {}})
            call |= {key: piece[key] for key in ("id", "type") if piece.get(key)}
            made, function = call["function"], piece.get("function") or {}
            if function.get("name"):
                made["name"] = function["name"]
            made["arguments"] = made.get("arguments", "") + (function.get("arguments") or "")
    return [merged[index] for index in sorted(merged)]
