"""Requests what a signal needs of a model, and shows the caller only what the caller requested.

Streams are cut by bytes, not parsed: a quote inside a JSON string is escaped, so the patterns below only match keys.
"""

import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, Final

import orjson

from serve_app.cascade.base import Needs
from serve_app.cascade.serving.stages import StageResult
from serve_app.types import Query
from serve_app.wire.answers import whole_answer
from serve_app.wire.frames import Answer, Frame, usage_from_openai

_CHAT: Final = re.compile(rb'"logprobs":\{"content":\[.*?\],"refusal":null\}(?=[,}])')
_TEXT: Final = re.compile(rb'"logprobs":\{"tokens":.*?"text_offset":\[[^\]]*\]\}(?=[,}])')
_LEFT: Final = re.compile(rb'"logprobs": *\{')
_NONE: Final = b'"logprobs":null'


def with_needs(query: Query, needs: Needs) -> Query:
    """The query with the log-probabilities that the signal needs; the same query if it needs none."""
    sampling = query.sampling
    if not needs.logprobs or (sampling.logprobs and sampling.top_logprobs >= needs.top_logprobs):
        return query
    top = max(sampling.top_logprobs, needs.top_logprobs)
    return replace(query, sampling=replace(sampling, logprobs=True, top_logprobs=top))


class ResponseFilter:
    """From the answer to `sent` back to the answer to `query`, which differs in its log-probabilities only.

    Raises UpstreamError for an event that is not JSON, where it must be parsed.
    """

    def __init__(self, query: Query, sent: Query) -> None:
        self._same = query.sampling == sent.sampling
        self._kept = query.sampling.top_logprobs if query.sampling.logprobs else None
        self._quick = _CHAT if query.endpoint == "chat" else _TEXT

    def answer(self, answer: Answer) -> Answer:
        """A whole answer."""
        if self._same:
            return answer
        return Answer(orjson.dumps(self._trimmed(answer.parsed)))

    def frame(self, frame: Frame) -> Frame:
        """A piece of a stream."""
        if self._same or b'"logprobs"' not in frame.data:
            return frame
        if self._kept is None:
            data = self._quick.sub(_NONE, frame.data)
            if _LEFT.search(data) is None:
                return Frame(data)
        return Frame(b"".join(b"data: " + orjson.dumps(self._trimmed(event)) + b"\n\n" for event in frame.events))

    def _trimmed(self, body: dict[str, Any]) -> dict[str, Any]:
        choices = [{**c, "logprobs": self._of(c.get("logprobs"))} for c in body.get("choices") or ()]
        return {**body, "choices": choices} if choices else body

    def _of(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """Log-probabilities with as many alternatives as requested, the likeliest first."""
        kept = self._kept
        if found is None or kept is None:
            return None
        if "content" in found:
            cut = [{**t, "top_logprobs": (t.get("top_logprobs") or [])[:kept]} for t in found["content"] or ()]
            return {**found, "content": cut}
        tops = [dict(list((top or {}).items())[:kept]) for top in found.get("top_logprobs") or ()]
        return {**found, "top_logprobs": tops}


async def relay(result: StageResult, query: Query, *, stream: bool) -> AsyncGenerator[Frame | Answer]:
    """The answer of `result` as `query` requests it: the frames held so far, then those still to come; or one Answer.

    An open stream passes through unparsed, and its usage is recorded at its end. Raises what the pool raises.
    """
    shown = ResponseFilter(query, result.sent)
    if stream:
        yield shown.frame(Frame(b"".join(frame.data for frame in result.frames)))
    if result.stream is not None:
        usage = next((frame.usage for frame in reversed(result.frames) if frame.usage), None)
        while (frame := await result.stream.next()) is not None:
            usage = frame.usage or usage
            if stream:
                yield shown.frame(frame)
            else:
                result.frames.append(frame)
        reason = "taken" if result.confidence is None else str(result.confidence)
        result.record(reason, usage_from_openai(usage))
    if stream:
        return
    if result.answer is not None:
        yield shown.answer(result.answer)
    else:
        frames = [shown.frame(frame) for frame in result.frames]
        yield whole_answer(frames, query, result.call, result.stage.pool.model)
