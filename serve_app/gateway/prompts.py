"""Several prompts in one request for completions: each is decided and answered by itself, and the answers are one.

As in OpenAI's API, the choices of the first prompt come first: the index of a choice is prompt * n + choice. The usage
is that of all, and so are the calls that the answer shows. Token ids are for one model: only a request that names it
may have them, and none that something here has to read.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from serve_app.errors import RequestError, UnsupportedParameter, UpstreamError
from serve_app.strategy import Context, Event, Ledger, Spent, Strategy
from serve_app.types import Decision, Query, Step, Usage
from serve_app.wire.frames import Answer, Frame, usage_from_openai

_AT_ONCE: Final = 16
"""Prompts of one request that are answered at the same time: one caller's list must not fill every replica."""
_AHEAD: Final = 64
"""Events that wait for a slow caller."""

Run = Callable[[Query, Context], AsyncGenerator[Event]]


def check_prompts(strategy: Strategy, query: Query, *, reads_text: bool) -> None:
    """Raises RequestError for token ids where there is no one model that they are of, or something reads the text.

    `reads_text`: guards or the detection of personal data do.
    """
    if not any(message.extra for message in query.messages):
        return
    if strategy.name != "direct":
        raise RequestError(
            "prompt: token ids are those of one model: name that model instead of a strategy, or send text.",
            param="prompt",
            code="invalid_value",
        )
    if reads_text:
        raise UnsupportedParameter("prompt: what is checked here must be text: send no token ids.", param="prompt")


def each_prompt(run: Run, query: Query, context: Context) -> AsyncGenerator[Event]:
    """The events of a query by `run`, a strategy's; those of several prompts as of one answer."""
    several = query.endpoint == "completions" and len(query.messages) > 1
    return _run_each(run, query, context) if several else run(query, context)


async def _run_each(run: Run, query: Query, context: Context) -> AsyncGenerator[Event]:
    """The Decision is the first that is made; each call names its pool."""
    queries = [replace(query, messages=(message,)) for message in query.messages]
    runs = [_PromptRun(run, each, context, index) for index, each in enumerate(queries)]
    context.ledger.standing = lambda: tuple(step for each in runs for step in each.steps)
    said: Said = asyncio.Queue(_AHEAD)
    room = asyncio.Semaphore(_AT_ONCE)
    tasks = [asyncio.create_task(each.tell(said, room)) for each in runs]
    joined = _Joined(query.sampling.n, context)
    try:
        left = len(runs)
        while left:
            each, event = await said.get()
            if event is None:
                left -= 1
            elif isinstance(event, Exception):
                raise event
            elif (shown := joined.shown(each.index, event)) is not None:
                yield shown
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    yield joined.last()
    yield Spent(tuple(step for each in runs for step in each.steps), _total([each.answered for each in runs]))


@dataclass(eq=False)
class _PromptRun:
    """One prompt's run. Its calls have ids of their own, which begin with that of the request's decision."""

    run: Run
    query: Query
    outer: Context
    index: int
    ledger: Ledger = field(default_factory=Ledger)
    spent: Spent | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """The calls so far."""
        return self.ledger.standing() if self.spent is None else self.spent.steps

    @property
    def answered(self) -> Usage:
        """Tokens of its answer, as `RequestRecord.answer_usage` has them."""
        if self.spent is not None and self.spent.answered is not None:
            return self.spent.answered
        return next((step.usage for step in self.steps if not step.wasted), Usage())

    async def tell(self, said: "Said", room: asyncio.Semaphore) -> None:
        """Put its events into the queue, and None or the error at the end."""
        end: Exception | None = None
        call = replace(self.outer.call, id=f"{self.outer.call.id}-{self.index}")
        context = Context(call, self.outer.stream, self.outer.demand, self.ledger, self.outer.judged)
        async with room:
            try:
                async with aclosing(self.run(self.query, context)) as events:
                    async for event in events:
                        if isinstance(event, Spent):
                            self.spent = event
                        else:
                            await said.put((self, event))
            except Exception as e:
                end = e
        await said.put((self, end))


Said = asyncio.Queue[tuple[_PromptRun, Event | Exception | None]]


class _Joined:
    """The answers of all prompts as one."""

    def __init__(self, n: int, context: Context) -> None:
        self._n, self._context = n, context
        self._decided = False
        self._model: Any = None
        self._usages: list[Usage] = []
        self._answers: dict[int, dict[str, Any]] = {}

    def shown(self, prompt: int, event: Event) -> Event | None:
        """What the caller gets of an event now."""
        if isinstance(event, Decision):
            if self._decided:
                return None
            self._decided = True
            return replace(event, id=self._context.call.id)
        if isinstance(event, Frame):
            parsed = [(orjson.dumps(e), e) for e in (self._event(prompt, e) for e in event.events) if e is not None]
            return Frame.of(parsed) if parsed else None
        if isinstance(event, Answer):
            self._answers[prompt] = event.parsed
        return None

    def last(self) -> Event:
        """The whole answer, or the usage of a stream."""
        if self._context.stream:
            body = {**self._head("text_completion"), "choices": [], "usage": _total(self._usages).to_openai()}
            return Frame.of([(orjson.dumps(body), body)])
        parts = [part for _, part in sorted(self._answers.items())]
        if not parts:
            raise UpstreamError("The strategy ended without an answer.")
        choices = [c for prompt, part in sorted(self._answers.items()) for c in self._choices(prompt, part)]
        usage = _total([usage_from_openai(part.get("usage")) for part in parts])
        head = {**parts[0], "id": f"cmpl-{self._context.call.id}"}
        return Answer(orjson.dumps({**head, "choices": choices, "usage": usage.to_openai()}))

    def _event(self, prompt: int, event: dict[str, Any]) -> dict[str, Any] | None:
        if event.get("error"):
            return event
        self._model = event.get("model", self._model)
        if usage := event.get("usage"):
            self._usages.append(usage_from_openai(usage))
            if not event.get("choices"):
                return None
            event = {name: value for name, value in event.items() if name != "usage"}
        return {**event, "id": f"cmpl-{self._context.call.id}", "choices": self._choices(prompt, event)}

    def _choices(self, prompt: int, body: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            return [{**c, "index": prompt * self._n + int(c.get("index") or 0)} for c in body.get("choices") or ()]
        except (AttributeError, TypeError, ValueError) as e:
            raise UpstreamError("The model sent an answer of an unknown shape.") from e

    def _head(self, kind: str) -> dict[str, Any]:
        call = self._context.call
        return {"id": f"cmpl-{call.id}", "object": kind, "created": call.created_s, "model": self._model}


def _total(usages: Sequence[Usage]) -> Usage:
    return Usage(sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages))
