"""Guards on the way out: a strategy's events with what they may not say taken out, whole or in pieces.

A stream is held back no further than its guards need, see `spans`; with a classifier, which reads whole answers, to its
end. A choice that a guard stops ends with the finish reason `content_filter`. Its model runs to its end unread, so that
what it cost is known.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import orjson

from serve_app.guards.chain import STOPS, Guards
from serve_app.guards.spans import Recognizer, SpanStream
from serve_app.strategy import Context, Event, Spent
from serve_app.types import Chunk, Decision, Query, Usage
from serve_app.wire.answers import AnswerReader, text_of
from serve_app.wire.encoding import StreamEncoder, encode_answer
from serve_app.wire.frames import Answer, Frame
from serve_app.wire.rewriting import FILTERED, AnswerRewriter

Found = Callable[[Mapping[str, int]], None]
_OPEN_ENDED: Final = frozenset(("private_key",))
"""What begins such a span cannot be replaced in a stream: its end is not known."""


class GuardFilter:
    """Checks one text in pieces; a TextFilter. For every way to cut the text, what leaves is the same in the end."""

    def __init__(self, guards: Guards, recognizers: Sequence[Recognizer], found: Found) -> None:
        self.cut = False
        self._guards, self._found = guards, found
        self._spans = SpanStream(recognizers)
        self._text, self._from = "", 0

    def feed(self, piece: str) -> str:
        """What is known to be clean, or made so."""
        return self._released(piece, last=False)

    def end(self) -> str:
        """The rest."""
        return self._released("", last=True)

    def _released(self, piece: str, *, last: bool) -> str:
        self._text += piece
        groups, decided = self._spans.feed(piece, last=last)
        parts: list[str] = []
        for group in groups:
            start, end = group[0].start, max(span.end for span in group)
            self._found(Counter(f"{span.guard}.{span.category}" for span in group))
            action = self._guards.strongest(group)
            if action in STOPS or (action == "redact" and any(s.category in _OPEN_ENDED for s in group)):
                self.cut = True
                return "".join([*parts, self._taken(start)])
            if action == "redact":
                parts += [self._taken(start), f"[{group[0].category}]"]
                self._taken(end)
        return "".join([*parts, self._taken(decided)])

    def _taken(self, until: int) -> str:
        """The text up to a position of the whole, which is not returned again."""
        count = max(0, until - self._from)
        taken, self._text = self._text[:count], self._text[count:]
        self._from += count
        return taken


async def guarded(
    events: AsyncGenerator[Event], guards: Guards, query: Query, context: Context, found: Found
) -> AsyncGenerator[Event]:
    """The events with the answer checked; `found` is called with every finding. Closes `events`."""
    answer: _GuardedAnswer | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Decision):
                answer = _GuardedAnswer(guards, event.pool, query, context, found)
                yield event
            elif answer is None or not answer.checks:
                yield event
            elif isinstance(event, Frame):
                if (frame := answer.frame(event)) is not None:
                    yield frame
            elif isinstance(event, Answer):
                yield await answer.whole(event)
            elif isinstance(event, Spent):
                for frame in await answer.rest():
                    yield frame
                yield event


async def refusal_events(message: str, model: str, query: Query, context: Context) -> AsyncGenerator[Event]:
    """The answer to a request that guards stopped: each choice is the message, finished for `content_filter`."""
    call, last = context.call, query.sampling.n - 1
    chunks = [Chunk(index, text=message) for index in range(query.sampling.n)]
    chunks += [
        Chunk(index, finish_reason=FILTERED, usage=Usage() if index == last else None)
        for index in range(query.sampling.n)
    ]
    yield Decision(call.id, "guard", "", model, "a guard stopped the request", cause="guard")
    if context.stream:
        encoder = StreamEncoder(query, model=model, answer_id=call.id, created=call.created_s)
        yield Frame(encoder.encode_all(chunks) + encoder.usage(Usage()))
    else:
        yield Answer(encode_answer(query, chunks, model=model, answer_id=call.id, created=call.created_s))
    yield Spent(())


class _GuardedAnswer:
    """One answer of a pool."""

    def __init__(self, guards: Guards, pool: str, query: Query, context: Context, found: Found) -> None:
        self.checks = guards.checks("output", pool)
        self._guards, self._pool, self._query, self._context, self._found = guards, pool, query, context, found
        self._classifies = guards.classifies("output", pool)
        recognizers = guards.recognizers("output", pool)
        self._rewriter = AnswerRewriter(lambda name: GuardFilter(guards, recognizers, found), guards.config.message)
        self._held: list[Frame] = []

    def frame(self, frame: Frame) -> Frame | None:
        """What may leave of a piece now; nothing before a classifier has read all."""
        if self._classifies:
            self._held.append(frame)
            return None
        return self._rewriter.frame(frame)

    async def whole(self, answer: Answer) -> Answer:
        """A whole answer, checked."""
        if self._classifies:
            reader = AnswerReader(self._query)
            reader.answer(answer)
            await self._classify(reader)
        return self._rewriter.answer(answer)

    async def rest(self) -> list[Frame]:
        """What was held for a classifier, as far as it may leave."""
        if not self._held:
            return []
        reader = AnswerReader(self._query)
        for frame in self._held:
            reader.frame(frame)
        await self._classify(reader)
        ends = [self._end(index) for index in sorted(self._rewriter.cut)]
        return ends + [kept for frame in self._held if (kept := self._rewriter.frame(frame)) is not None]

    async def _classify(self, reader: AnswerReader) -> None:
        """Cut the choices that a classifier stops. The patterns' findings are counted as the text passes them."""
        for index, said in reader.choices.items():
            text = text_of(said)
            if (self._pool, text) in self._context.judged:
                continue
            verdict = await self._guards.check_output(text, self._query, self._context.call, self._pool)
            if verdict.stops:
                self._rewriter.cut.add(index)
                self._found(verdict.findings)

    def _end(self, index: int) -> Frame:
        """The last event of a choice that says nothing."""
        head = {name: value for name, value in self._held[0].events[0].items() if name not in ("choices", "usage")}
        piece: dict[str, object] = {"delta": {"role": "assistant"}} if self._query.endpoint == "chat" else {"text": ""}
        event = {**head, "choices": [{"index": index, **piece, "logprobs": None, "finish_reason": FILTERED}]}
        return Frame(b"data: " + orjson.dumps(event) + b"\n\n")
