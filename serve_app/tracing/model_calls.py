"""The span of one call to a model, by OpenTelemetry's conventions for generative AI.

Names, numbers and counts only. Messages and answers are on it if the operator has switched content on, and never for a
request of which nothing may be kept.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from serve_app.errors import JethroError
from serve_app.tracing.spans import TraceSpan, Value, current_span, error_type
from serve_app.types import Chunk, Message, Query
from serve_app.wire.answers import AnswerReader
from serve_app.wire.frames import Answer, Call, Frame, usage_from_openai

ATTEMPT: Final = "jethro.attempt_failed"
"""The event of a try at one address that failed; the call may try another."""
_LONGEST_CONTENT: Final = 64 * 1024
"""Characters of messages or answers on a span; of longer ones the beginning is kept."""
_OTHER: Final = "other"


class CallSpan:
    """The span of a call, filled in as the answer passes. It never raises for what an answer holds."""

    def __init__(self, span: TraceSpan, query: Query, *, quotes: bool) -> None:
        self._span, self._started = span, perf_counter()
        self._reader = AnswerReader(query) if quotes and span.may_quote else None
        self._begun = False
        self._finishes: dict[Any, str] = {}

    def headers(self) -> dict[str, str]:
        """Its trace context, for the request that it stands for."""
        return self._span.headers()

    def at(self, address: str, *, ours: bool) -> None:
        """The address that is called now; `ours`: a replica's."""
        from serve_app.tracing import names

        parts = urlsplit(address)
        provider = names.OURS if ours else names.provider_of(address)
        self._span.set(
            {names.PROVIDER: provider, names.SERVER_ADDRESS: parts.hostname, names.SERVER_PORT: parts.port},
        )

    def attempt_failed(self, address: str, error: BaseException) -> None:
        """A try at this address failed."""
        parts = urlsplit(address)
        self._span.event(
            ATTEMPT,
            {
                "server.address": parts.hostname,
                "server.port": parts.port,
                "error.type": error_type(error),
                "jethro.error": type(error).__name__,
            },
        )

    def frame(self, frame: Frame) -> None:
        """The next piece of the answer."""
        self._first()
        try:
            if self._reader is not None:
                self._reader.frame(frame)
            if frame.marked:
                for event in frame.events:
                    self._body(event)
        except JethroError:  # what is wrong with it, its reader says
            self._reader = None

    def answer(self, answer: Answer) -> None:
        """The whole answer."""
        self._first()
        try:
            if self._reader is not None:
                self._reader.answer(answer)
            self._body(answer.parsed)
        except (JethroError, orjson.JSONDecodeError):
            self._reader = None

    def chunk(self, chunk: Chunk) -> None:
        """The next piece, as an engine gives it."""
        from serve_app.tracing import names

        self._first()
        if chunk.finish_reason is not None:
            self._finishes[chunk.index] = chunk.finish_reason
        if chunk.usage is not None:
            usage = chunk.usage
            self._span.set(
                {names.INPUT_TOKENS: usage.prompt_tokens, names.OUTPUT_TOKENS: usage.completion_tokens},
            )

    def ended_by(self, error: BaseException) -> None:
        """Why it ended without a whole answer."""
        self._span.ended_by(error)

    def end(self) -> None:
        """The call is over."""
        from serve_app.tracing import names

        if self._finishes:
            self._span.set({names.FINISH_REASONS: [r for _, r in sorted(self._finishes.items(), key=_position)]})
        if self._reader is not None and self._reader.choices and self._span.may_quote:
            self._span.set({names.OUTPUT_MESSAGES: _json(_said(self._reader))})
        self._span.end()

    def _first(self) -> None:
        if not self._begun:
            from serve_app.tracing import names

            self._begun = True
            self._span.set({names.FIRST_CHUNK_S: perf_counter() - self._started})

    def _body(self, body: Mapping[str, Any]) -> None:
        """An event or an answer of OpenAI's shape; what is shaped otherwise is left out."""
        from serve_app.tracing import names

        found: dict[str, Value | None] = {}
        if isinstance(usage := body.get("usage"), dict):
            spent = usage_from_openai(usage)
            found = {names.INPUT_TOKENS: spent.prompt_tokens, names.OUTPUT_TOKENS: spent.completion_tokens}
        for key, name in (("model", names.RESPONSE_MODEL), ("id", names.RESPONSE_ID)):
            if isinstance(value := body.get(key), str):
                found[name] = value[:200]
        choices = body.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            reason = choice.get("finish_reason") if isinstance(choice, dict) else None
            if isinstance(reason, str):
                self._finishes[choice.get("index", 0)] = reason if reason in _REASONS else _OTHER
        self._span.set(found)


_REASONS: Final = {"stop", "length", "tool_calls", "function_call", "content_filter"}


def begin_call(query: Query, call: Call, pool: str, model: str, *, stream: bool = False) -> CallSpan | None:
    """The span of a call to a pool under the current one; None where nothing is recorded."""
    if (parent := current_span()) is None:
        return None
    from serve_app.tracing import names

    about: dict[str, Value | None] = {"jethro.pool": pool, "jethro.decision_id": call.decision_id, names.STREAM: stream}
    if parent.may_quote:
        about[names.INPUT_MESSAGES] = _json([_turn(m) for m in query.messages])
        about[names.TOOL_DEFINITIONS] = _json([dict(tool) for tool in query.tools]) if query.tools else None
    name = f"{names.OPERATIONS[query.endpoint]} {model}"
    return CallSpan(parent.child(name, "client", {**described(query, model), **about}), query, quotes=True)


def begin_engine(query: Query, model: str) -> CallSpan | None:
    """The span of an engine's work on a query under the current one; None where nothing is recorded."""
    if (parent := current_span()) is None:
        return None
    return CallSpan(parent.child(f"generate {model}", attributes=described(query, model)), query, quotes=False)


@contextmanager
def ending(span: CallSpan | None) -> Iterator[None]:
    """The body is what the span stands for: the span ends with it."""
    if span is None:
        yield
        return
    try:
        yield
    except BaseException as error:
        span.ended_by(error)
        raise
    finally:
        span.end()


def described(query: Query, model: str) -> dict[str, Value | None]:
    """What is requested of a model, but for content."""
    from serve_app.tracing import names

    sampling = query.sampling
    form = str((query.response_format or {}).get("type", ""))
    return {
        names.OPERATION: names.OPERATIONS[query.endpoint],
        names.PROVIDER: names.OURS,
        names.REQUEST_MODEL: model,
        names.CHOICES: sampling.n if sampling.n != 1 else None,
        names.MAX_TOKENS: sampling.max_tokens,
        names.TEMPERATURE: sampling.temperature,
        names.TOP_P: sampling.top_p,
        names.SEED: sampling.seed,
        names.FREQUENCY_PENALTY: sampling.frequency_penalty or None,
        names.PRESENCE_PENALTY: sampling.presence_penalty or None,
        names.OUTPUT_TYPE: "json" if form.startswith("json") else None,
        "jethro.adapter": query.adapter,
    }


async def watched(chunks: AsyncGenerator[Chunk, None], span: CallSpan) -> AsyncGenerator[Chunk, None]:
    """An engine's chunks as they are; the span ends with them."""
    try:
        async for chunk in chunks:
            span.chunk(chunk)
            yield chunk
    except BaseException as error:
        span.ended_by(error)
        raise
    finally:
        await chunks.aclose()
        span.end()


def _turn(message: Message) -> dict[str, Any]:
    """A turn of the query. Of an image it says that it is there, and nothing of what it shows or where it is."""
    turn = _message({"role": message.role, "content": message.content, **message.extra})
    turn["parts"] += [{"type": "image", "inline": image.inline} for image in message.images]
    return turn


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """In the conventions' shape: a role and parts."""
    parts: list[dict[str, Any]] = [{"type": "text", "content": message["content"]}] if message["content"] else []
    if message["role"] == "tool":
        parts = [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": message["content"]}]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        called = {"id": call.get("id"), "name": function.get("name"), "arguments": function.get("arguments")}
        parts.append({"type": "tool_call", **called})
    return {"role": message["role"], "parts": parts}


def _said(reader: AnswerReader) -> list[dict[str, Any]]:
    said = []
    for _, choice in sorted(reader.choices.items()):
        calls = [{"function": call} for _, call in sorted(choice.calls.items())]
        message = _message({"role": "assistant", "content": choice.text, "tool_calls": calls})
        said.append({**message, "finish_reason": choice.finish_reason})
    return said


def _json(value: Sequence[Mapping[str, Any]]) -> str:
    return orjson.dumps(value, default=dict).decode()[:_LONGEST_CONTENT]


def _position(item: tuple[Any, str]) -> str:
    return f"{item[0]:>8}"
