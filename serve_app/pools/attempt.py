"""Calls pools in order until one answers with a first byte; every call is recorded as a Step.

Also checks which parameters of a query a pool supports, before any call. Only the engine knows the length of a prompt
in tokens: it raises ContextLengthExceeded, and the strategy then tries a pool with a larger context.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

from serve_app.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    JethroError,
    PlacementForbidden,
    UnsupportedParameter,
    UpstreamError,
)
from serve_app.images import Image
from serve_app.pools.base import Pool
from serve_app.types import Capabilities, Query, Step, Usage
from serve_app.wire.frames import Answer, Call, Frame, usage_from_openai
from serve_app.wire.parameters import NEEDED

Failure = tuple[JethroError, Capabilities]
"""A pool's error, and the pool's capabilities."""


@dataclass(slots=True)
class Attempt:
    """One query over `pools` (at least one). `pool` is the one that answers; `steps` grow as calls end."""

    pools: Sequence[Pool]
    query: Query
    call: Call
    steps: list[Step] = field(default_factory=list)
    pool: Pool | None = None
    _started: float = 0.0

    async def stream(self) -> AsyncGenerator[Frame]:
        """Frames of the first pool that answers; raises the most relevant error if none does.

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
        """The answer of the first pool that answers; raises the most relevant error if none does."""
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
        """Record the wasted call; raise the most relevant error unless another pool may succeed."""
        pool, others = self.pools[position], self.pools[position + 1 :]
        latency_ms = (perf_counter() - self._started) * 1e3
        step = Step(pool.name, f"failed: {error.code}", latency_ms=latency_ms, wasted=True, failed=True)
        self.steps.append(step)
        failures.append((error, pool.capabilities))
        if not any(may_fall_back(error, pool.capabilities, other.capabilities) for other in others):
            raise most_relevant(failures)

    def _answered(self, pool: Pool, usage: Usage) -> None:
        reason = "fallback" if self.steps else "chosen"
        latency_ms = (perf_counter() - self._started) * 1e3
        self.steps.append(Step(pool.name, reason, usage, pool.price.cost_usd(usage, self.query.adapter), latency_ms))


def may_fall_back(error: JethroError, tried: Capabilities, other: Capabilities) -> bool:
    """Whether another pool may succeed: after a failed or full pool, or if it has a larger context."""
    if isinstance(error, ContextLengthExceeded):
        limit = tried.max_context_tokens
        return limit is not None and (other.max_context_tokens is None or other.max_context_tokens > limit)
    return error.retryable


def most_relevant(failures: Sequence[Failure]) -> JethroError:
    """The error to return to the caller, of those (at least one) of pools called in turn, with the pools' capabilities.

    In this order: a passed deadline, a fault of the query, the first retryable error. A prompt that is too long is a
    fault of the query, unless a pool with a larger context failed for another reason.
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
"""Parameters of vLLM that constrain the answer."""


def unmet(query: Query, can: Capabilities) -> str | None:
    """The first parameter of the query that exceeds the capabilities `can`; None if all are supported."""
    if query.tools and not can.tools:
        return "tools"
    if query.response_format and not can.guided and query.response_format.get("type", "text") != "text":
        return "response_format"
    if query.sampling.logprobs and not can.logprobs:
        return "logprobs"
    if query.extra and (key := _unhonoured(query.extra, can)) is not None:
        return key
    if query.adapter and not can.adapters:
        return "model"
    if query.images and (lack := _unseen(query.images, can)) is not None:
        return lack
    limit, max_tokens = can.max_context_tokens, query.sampling.max_tokens
    if limit is not None and max_tokens is not None and max_tokens >= limit:
        return "max_tokens"
    return None


def _unhonoured(extra: Mapping[str, Any], can: Capabilities) -> str | None:
    """The first of the further parameters that exceeds the capabilities `can`."""
    if not can.guided:
        for key in _GUIDED:
            if key in extra:
                return key
    return next((key for key in extra if key in NEEDED and key not in can.parameters), None)


_IMAGE: Final = "images: "
_IMAGE_URL: Final = "images by URL: "
"""What a pool lacks that cannot see, or fetches nothing; the place of the image in the request follows."""


def _unseen(images: Sequence[Image], can: Capabilities) -> str | None:
    """The first image that is beyond the capabilities `can`."""
    if not can.vision:
        return _IMAGE + images[0].param
    if can.image_urls:
        return None
    return next((_IMAGE_URL + image.param for image in images if not image.inline), None)


BARRED: Final = "the request's privacy class"
"""What a pool lacks that may not see the query."""


def lacking(query: Query, pool: Pool) -> str | None:
    """Why a pool cannot be called for a query: BARRED, or the first parameter that it does not support; None if it can.

    No strategy may call a pool without this answer being None.
    """
    if not query.may_reach(pool.name):
        return BARRED
    return unmet(query, pool.capabilities)


def why_skipped(model: str, lack: str) -> str:
    """For a Decision's reason: why a model was skipped."""
    if lack.startswith((_IMAGE, _IMAGE_URL)):
        return f"{model} cannot see images" if lack.startswith(_IMAGE) else f"{model} fetches no images"
    return f"{model} may not see the request" if lack == BARRED else f"{model} does not support {lack}"


def refusal(param: str, models: str) -> JethroError:
    """The error for a parameter that none of `models` supports, or for models that may not see the query."""
    if param == BARRED:
        return PlacementForbidden(
            f"{models} may not see this request by its privacy class: use a model that it may reach, or a wider class "
            "in x-jethro-privacy if your key may",
            param="model",
        )
    if param == "max_tokens":
        return ContextLengthExceeded(
            f"max_tokens leaves no room for a prompt in the context of {models}: request fewer tokens", param=param
        )
    for lack, why in (
        (_IMAGE, "cannot see images: leave it out or use a model that can"),
        (_IMAGE_URL, "fetches no images: send its bytes as a data: URI"),
    ):
        if param.startswith(lack):
            param = param.removeprefix(lack)
            return UnsupportedParameter(f"{param}: {models} {why}", param=param)
    return UnsupportedParameter(f"{param} is not supported by {models}: leave it out or use another model", param=param)
