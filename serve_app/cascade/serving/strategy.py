"""The confidence cascade: call the weakest model, check its answer, escalate to the next where it does not convince.

Chen, Zaharia & Zou 2024 (FrugalGPT, arXiv 2305.05176, section 3) and AutoMix (arXiv 2310.12963) over a fitted Chain. A
checked answer is held whole; that of the last level passes through. A level that fails, is full or cannot finish in
time is skipped, and the best answer so far is returned if there is none better.
"""

import asyncio

from serve_app.cascade.serving.calls import call_and_assess
from serve_app.cascade.serving.run import Cascade, CascadeRun, late
from serve_app.cascade.serving.stages import StageResult
from serve_app.errors import DeadlineExceeded, UpstreamError
from serve_app.pools.pending import PendingStream
from serve_app.strategy import Context
from serve_app.types import Query


class CascadeStrategy(Cascade):
    """The confidence cascade over whole answers; see the module."""

    def new_run(self, query: Query, context: Context) -> CascadeRun:
        """A run up the chain."""
        return _ConfidenceRun(self, query, context)


class _ConfidenceRun(CascadeRun):
    async def call(self, result: StageResult) -> None:
        if result.stage.checked:
            await call_checked(self, result)
        else:
            await pass_through(self, result)


async def pass_through(run: CascadeRun, result: StageResult) -> None:
    """Call a stage whose answer is taken whatever it is: a stream until its first frame, otherwise to its end."""
    if run.context.stream:
        result.stream = PendingStream(result.stage.pool, result.sent, result.call)
        await first_frame(result, run.within_s)
        return
    try:
        async with asyncio.timeout(run.within_s):
            answer = await result.stage.pool.complete(result.sent, result.call)
    except TimeoutError:
        raise late(result) from None
    result.record("taken", answer.usage)
    result.answer = answer
    run.took(result)


async def call_checked(run: CascadeRun, result: StageResult) -> None:
    """Call a stage for a whole answer and the confidence in it, in the time left. Raises JethroError.

    An answer that is whole when the time is up counts, without a confidence.
    """
    try:
        async with asyncio.timeout(run.cascade.latency.left_s(result.call)):
            await call_and_assess(result, run.prior, stream=run.context.stream)
    except TimeoutError:
        if not result.whole:
            raise late(result) from None
    else:
        run.took(result)


async def first_frame(result: StageResult, within_s: float | None) -> None:
    """Wait for the first frame of the stage's stream. Raises the pool's error, or DeadlineExceeded."""
    model = result.stage.pool.model
    assert result.stream is not None
    try:
        async with asyncio.timeout(within_s):
            frame = await result.stream.next()
    except TimeoutError as e:
        raise DeadlineExceeded(f"{model} did not begin before the deadline") from e
    if frame is None:
        raise UpstreamError(f"{model} ended its stream without an answer")
    result.frames.append(frame)
