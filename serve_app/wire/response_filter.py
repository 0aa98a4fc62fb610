"""Shows the caller only what the caller requested of an answer whose log-probabilities someone else needed.

Streams are cut by bytes, not parsed: a quote inside a JSON string is escaped, so the patterns below only match keys.
"""

import re
from dataclasses import replace
from typing import Any, Final

import orjson

from serve_app.types import Query
from serve_app.wire.frames import Answer, Frame

_CHAT: Final = re.compile(rb'"logprobs":\{"content":\[.*?\],"refusal":null\}(?=[,}])')
_TEXT: Final = re.compile(rb'"logprobs":\{"tokens":.*?"text_offset":\[[^\]]*\]\}(?=[,}])')
_LEFT: Final = re.compile(rb'"logprobs": *\{')
_NONE: Final = b'"logprobs":null'


def with_logprobs(query: Query, top: int = 0) -> Query:
    """The query with log-probabilities and at least `top` alternatives; the same query if it has them."""
    sampling = query.sampling
    if sampling.logprobs and sampling.top_logprobs >= top:
        return query
    return replace(query, sampling=replace(sampling, logprobs=True, top_logprobs=max(sampling.top_logprobs, top)))


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
