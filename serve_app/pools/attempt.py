"""Asks pools in order until one gives a first byte; every call made is kept as a Step.

Which parameters of a query a pool can honour, known before any model is asked.

The length of a prompt in tokens is known to the engine alone; it answers ContextLengthExceeded, and the strategy
then tries a pool with a larger context.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter

from serve_app.errors import ContextLengthExceeded, DeadlineExceeded, JethroError, UnsupportedParameter, UpstreamError
from serve_app.pools.base import Pool
from serve_app.types import Capabilities, Query, Step, Usage
from serve_app.wire.frames import Answer, Call, Frame, usage_from_openai

Failure = tuple[JethroError, Capabilities]
"""A pool's error, and what the pool can do."""


@dataclass(slots=True)
class Attempt:
    """One query's way through `pools` (at least one). `pool` is the one that answers; `steps` grow as calls end."""

    pools: Sequence[Pool]
    query: Query
    call: Call
    steps: list[Step] = field(default_factory=list)
    pool: Pool | None = None
    _started: float = 0.0

    async def stream(self) -> AsyncGenerator[Frame]:
        """Frames of the first pool that gives one; raises the most telling error if none does.

        Once a frame is out, an error of that pool is final. Closing this iterator closes the pool's.
        """
        failures: list[Failure] = []
        for position, pool in enumerate(self.pools):
            self._started = perf_counter()
            async with aclosing(pool.stream(self.query, self.call)) as frames:
                try:
                    frame = await anext(frames, None)
                    if frame is None:
                        raise UpstreamError(f"{pool.model} ended its stream without an answer")
                except JethroError as error:
                    self._failed(position, error, failures)
                    continue
                self.pool = pool
                usage = frame.usage
                yield frame
                async for frame in frames:
                    if frame.marked:
                        usage = frame.usage or usage
                    yield frame
                self._answered(pool, usage_from_openai(usage))
                return

    async def complete(self) -> Answer:
        """The answer of the first pool that gives one; raises the most telling error if none does."""
        failures: list[Failure] = []
        for position, pool in enumerate(self.pools):
            self._started = perf_counter()
            try:
                answer = await pool.complete(self.query, self.call)
            except JethroError as error:
                self._failed(position, error, failures)
                continue
            self.pool = pool
            self._answered(pool, answer.usage)
            return answer
        raise AssertionError("an attempt has at least one pool")

    def _failed(self, position: int, error: JethroError, failures: list[Failure]) -> None:
        """Note the wasted call; raise the most telling error unless another pool may do better."""
        pool, rest = self.pools[position], self.pools[position + 1 :]
        latency_ms = (perf_counter() - self._started) * 1e3
        step = Step(pool.name, f"failed: {error.code}", latency_ms=latency_ms, wasted=True, failed=True)
        self.steps.append(step)
        failures.append((error, pool.capabilities))
        if not any(may_fall_back(error, pool.capabilities, other.capabilities) for other in rest):
            raise most_telling(failures)

    def _answered(self, pool: Pool, usage: Usage) -> None:
        reason = "fallback" if self.steps else "chosen"
        latency_ms = (perf_counter() - self._started) * 1e3
        self.steps.append(Step(pool.name, reason, usage, pool.price.cost_usd(usage), latency_ms))


def may_fall_back(error: JethroError, tried: Capabilities, other: Capabilities) -> bool:
    """Whether another pool may do better: after a failed or full pool, or a context that the other's exceeds."""
    if isinstance(error, ContextLengthExceeded):
        limit = tried.max_context_tokens
        return limit is not None and (other.max_context_tokens is None or other.max_context_tokens > limit)
    return error.retryable


def most_telling(failures: Sequence[Failure]) -> JethroError:
    """Of the errors (at least one) of pools that were asked in turn, each with what its pool can do, the caller's.

    A deadline that has passed, whoever failed before; then what is wrong with the query itself; then the first that a
    retry may mend. A prompt too long is wrong with the query, unless a pool with a larger context failed otherwise.
    """
    late = [error for error, _ in failures if isinstance(error, DeadlineExceeded)]
    if late:
        return late[-1]
    too_long = [(error, can) for error, can in failures if isinstance(error, ContextLengthExceeded)]
    for error, _ in failures:
        if not error.retryable and not isinstance(error, ContextLengthExceeded):
            return error
    for error, can in failures:
        if error.retryable and all(may_fall_back(refusal, refused, can) for refusal, refused in too_long):
            return error
    return too_long[-1][0]


_GUIDED = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""Further parameters by which vLLM constrains the answer."""


def unmet(query: Query, can: Capabilities) -> str | None:
    """The first parameter of the query that needs more than `can`; None if all can be honoured."""
    if query.tools and not can.tools:
        return "tools"
    if query.response_format and not can.guided and query.response_format.get("type", "text") != "text":
        return "response_format"
    if query.sampling.logprobs and not can.logprobs:
        return "logprobs"
    if query.extra and not can.guided:
        for key in _GUIDED:
            if key in query.extra:
                return key
    if query.adapter and not can.adapters:
        return "model"
    limit, asked = can.max_context_tokens, query.sampling.max_tokens
    if limit is not None and asked is not None and asked >= limit:
        return "max_tokens"
    return None


def refusal(param: str, models: str) -> JethroError:
    """The error for a parameter that none of `models` can honour."""
    if param == "max_tokens":
        return ContextLengthExceeded(
            f"max_tokens leaves no room for a prompt in the context of {models}: ask for fewer tokens", param=param
        )
    return UnsupportedParameter(f"{param} is not supported by {models}: leave it out or ask another model", param=param)
