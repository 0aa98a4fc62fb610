"""Fakes that tests and benchmarks put in the place of real models. Never imported by serve_app."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from serve_app.engines.base import EngineHealth
from serve_app.errors import ContextLengthExceeded, UnsupportedParameter
from serve_app.types import Capabilities, Chunk, FinishReason, Query, TokenLogprob, Usage

Script = Callable[[Query, int], Sequence[str]]
"""The pieces (tokens) that choice number `index` of a query says, before stop strings and max_tokens cut them."""


def echo(query: Query, index: int) -> list[str]:
    """Says the last message again, a character a token."""
    return list(query.messages[-1].content)


@dataclass
class FakeEngine:
    """An engine that says what its script says. With no delays it yields without ever waiting.

    It honours n, max_tokens, stop, logprobs and the context bound (a character a token), so that it passes the
    engines' conformance suite. `fail_after` pieces of a query it raises `error`; with `gate` it waits for the event
    before each piece; `delay_s` and `first_delay_s` are real sleeps.
    """

    model: str = "fake"
    script: Script = echo
    delay_s: float = 0.0
    first_delay_s: float = 0.0
    fail_after: int | None = None
    error: Exception = field(default_factory=lambda: RuntimeError("the fake engine was told to fail"))
    gate: asyncio.Event | None = None
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(max_context_tokens=4096))
    queries: list[Query] = field(default_factory=list)
    running: int = 0
    finished: int = 0
    cancelled: int = 0
    started: bool = False
    closed: bool = False
    ok: bool = True

    async def start(self) -> None:
        self.started = True

    async def stream(self, query: Query) -> AsyncGenerator[Chunk, None]:
        self.queries.append(query)
        self._check(query)
        self.running += 1
        try:
            async for chunk in self._chunks(query):
                yield chunk
            self.finished += 1
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def count_tokens(self, query: Query) -> int:
        return self._prompt_tokens(query)

    def health(self) -> EngineHealth:
        return EngineHealth(ok=self.ok, running=self.running)

    def metrics(self) -> str:
        return f"fake_running {self.running}\n"

    async def aclose(self) -> None:
        self.closed = True

    def _check(self, query: Query) -> None:
        for name, asked, can in (
            ("response_format", query.response_format, self.capabilities.guided),
            ("tools", query.tools, self.capabilities.tools),
            ("adapter", query.adapter, self.capabilities.adapters),
        ):
            if asked and not can:
                raise UnsupportedParameter(f"{name} is not supported by {self.model}", param=name)
        limit, used = self.capabilities.max_context_tokens, self._prompt_tokens(query)
        if limit is not None and used + (query.sampling.max_tokens or 1) > limit:
            raise ContextLengthExceeded(f"the context is {limit} tokens, the prompt has {used}", param="messages")

    def _prompt_tokens(self, query: Query) -> int:
        return sum(len(m.content) + 1 for m in query.messages)

    async def _chunks(self, query: Query) -> AsyncGenerator[Chunk, None]:
        choices = [_cut(query, self.script(query, i)) for i in range(query.sampling.n)]
        said = 0
        last = max(range(len(choices)), key=lambda i: len(choices[i][0]))
        usage = Usage(self._prompt_tokens(query), sum(len(pieces) for pieces, _, _ in choices))
        for position in range(len(choices[last][0]) + 1):
            await self._pace(position)
            for index, (pieces, finish, _) in enumerate(choices):
                if self.fail_after is not None and said >= self.fail_after:
                    raise self.error
                if position < len(pieces):
                    said += 1
                    yield _piece(query, index, pieces[position])
                elif position == len(pieces) and index != last:
                    yield Chunk(index, finish_reason=finish, stop_reason=choices[index][2])
        yield Chunk(last, finish_reason=choices[last][1], usage=usage, stop_reason=choices[last][2])

    async def _pace(self, position: int) -> None:
        if self.gate is not None:
            await self.gate.wait()
        wait_s = self.first_delay_s if position == 0 else self.delay_s
        if wait_s:
            await asyncio.sleep(wait_s)


def _piece(query: Query, index: int, text: str) -> Chunk:
    if not query.sampling.logprobs:
        return Chunk(index, text)
    top = ((text, -0.5), ("?", -2.0), ("!", -3.0))[: query.sampling.top_logprobs]
    return Chunk(index, text, logprobs=(TokenLogprob(text, -0.5, top),))


def _cut(query: Query, pieces: Sequence[str]) -> tuple[list[str], FinishReason, str | None]:
    """The pieces up to max_tokens or the first stop string, why they end, and that stop string."""
    said: list[str] = []
    for piece in pieces:
        if query.sampling.max_tokens is not None and len(said) >= query.sampling.max_tokens:
            return said, "length", None
        said.append(piece)
        text = "".join(said)
        ends = [(text.find(stop), stop) for stop in query.sampling.stop if stop in text]
        if ends:
            return [text[: min(ends)[0]]], "stop", min(ends)[1]
    return said, "stop", None
