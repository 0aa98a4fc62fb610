import asyncio
from contextlib import aclosing
from dataclasses import replace
from time import monotonic

import pytest

from serve_app.cascade.base import Needs
from serve_app.cascade.serving.skipping import LatencyEstimate
from serve_app.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    JethroError,
    Overloaded,
    PoolUnavailable,
    RequestError,
    UpstreamError,
)
from serve_app.strategy import Context
from serve_app.types import Capabilities
from tests.cascade.fakes import (
    CALL,
    STRONG,
    SURE,
    UNSURE,
    WEAK,
    Doubt,
    Seen,
    engine_of,
    pool,
    pools,
    query,
    run,
    told,
)
from tests.cascade.serving.test_strategy import BOTH, cascade


@BOTH
@pytest.mark.parametrize("error", [UpstreamError("died"), PoolUnavailable("none"), Overloaded("full")])
async def test_a_level_that_fails_or_is_full_is_skipped(error: JethroError, stream: bool) -> None:
    both = pools(SURE) | {WEAK: pool(SURE, fail_after=0, error=error)}
    decision, said, spent = told(await run(cascade(both), stream=stream))
    assert (decision.pool, said) == (STRONG, "strong") and f"m-small failed: {error.code}" in decision.reason
    assert [(s.pool, s.wasted, s.failed) for s in spent.steps] == [(WEAK, True, True), (STRONG, False, False)]


@BOTH
async def test_without_the_last_level_the_best_answer_at_hand_is_given(stream: bool) -> None:
    both = pools(UNSURE) | {STRONG: pool("x", STRONG, fail_after=0, error=Overloaded("full"))}
    decision, said, spent = told(await run(cascade(both), stream=stream))
    assert (decision.pool, said) == (WEAK, UNSURE) and "m-large failed: overloaded" in decision.reason
    assert [(s.pool, s.wasted) for s in spent.steps] == [(WEAK, False), (STRONG, True)]


@BOTH
async def test_of_several_answers_at_hand_the_likeliest_is_given(stream: bool) -> None:
    class Length(Doubt):
        def value(self, judged: object) -> float:
            return len(judged.text) / 100  # type: ignore[attr-defined]

    three = {
        "tiny": pool("four", "tiny"),
        WEAK: pool("longest", WEAK),
        STRONG: pool("", STRONG, fail_after=0, error=UpstreamError("x")),
    }
    decision, said, spent = told(await run(cascade(three, Length()), stream=stream))
    assert (decision.pool, said) == (WEAK, "longest")
    assert [(s.pool, s.wasted) for s in spent.steps] == [("tiny", True), (WEAK, False), (STRONG, True)]


@BOTH
async def test_the_first_error_is_raised_when_all_fail(stream: bool) -> None:
    both = {
        WEAK: pool("x", fail_after=0, error=Overloaded("first")),
        STRONG: pool("x", STRONG, fail_after=0, error=UpstreamError("second")),
    }
    with pytest.raises(Overloaded, match="first"):
        await run(cascade(both), stream=stream)


@BOTH
async def test_the_callers_own_mistake_is_the_callers(stream: bool) -> None:
    both = pools(SURE) | {WEAK: pool(SURE, fail_after=0, error=RequestError("bad"))}
    with pytest.raises(RequestError, match="bad"):
        await run(cascade(both), stream=stream)
    assert engine_of(both[STRONG]).queries == []


@BOTH
@pytest.mark.parametrize(("limit", "falls"), [(4096, True), (8, False)])
async def test_too_long_a_prompt_goes_to_a_larger_context_only(limit: int, falls: bool, stream: bool) -> None:
    both = {
        WEAK: pool(SURE, capabilities=Capabilities(max_context_tokens=16)),
        STRONG: pool("strong", STRONG, capabilities=Capabilities(max_context_tokens=limit)),
    }
    asked = query("x" * 40)
    if falls:
        assert told(await run(cascade(both), asked, stream=stream))[0].pool == STRONG
    else:
        with pytest.raises(ContextLengthExceeded):
            await run(cascade(both), asked, stream=stream)


@BOTH
async def test_no_further_level_without_the_time_for_it(stream: bool) -> None:
    call = replace(CALL, deadline_s=monotonic() + 0.8)
    both = pools(UNSURE)
    decision, said, _ = told(await run(cascade(both), stream=stream, call=call))
    assert (decision.pool, said) == (WEAK, UNSURE) and "no time for m-large" in decision.reason
    assert engine_of(both[STRONG]).queries == []


@BOTH
async def test_a_level_that_is_late_is_cut_off_and_the_answer_at_hand_is_given(stream: bool) -> None:
    call = replace(CALL, deadline_s=monotonic() + 0.3)
    both = pools(UNSURE) | {STRONG: pool("x", STRONG, first_delay_s=5.0)}
    strategy = cascade(both, latency=LatencyEstimate(0.0))
    decision, said, _ = told(await run(strategy, stream=stream, call=call))
    assert (decision.pool, said) == (WEAK, UNSURE) and "m-large failed: deadline_exceeded" in decision.reason
    assert engine_of(both[STRONG]).running == 0


@BOTH
async def test_without_any_answer_the_deadline_is_an_error(stream: bool) -> None:
    call = replace(CALL, deadline_s=monotonic() + 0.2)
    both = pools() | {WEAK: pool("x", first_delay_s=5.0)}
    with pytest.raises(DeadlineExceeded):
        await run(cascade(both), stream=stream, call=call)


@BOTH
@pytest.mark.parametrize("signal", [Doubt(), Seen(needs=Needs(samples=2))])
@pytest.mark.parametrize("slow", [WEAK, STRONG])
async def test_a_cancelled_request_leaves_no_call_behind(slow: str, signal: object, stream: bool) -> None:
    if slow == STRONG:
        signal = Seen(sure=0.1, needs=signal.needs)  # type: ignore[attr-defined]
    both = pools() | {slow: pool("y" * 1000, slow, delay_s=0.01)}
    running = asyncio.create_task(run(cascade(both, signal), stream=stream))
    while not engine_of(both[slow]).running:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [engine_of(p).running for p in both.values()] == [0, 0]


async def test_a_closed_iterator_closes_the_stream_that_passes_through() -> None:
    both = pools(UNSURE) | {STRONG: pool("y" * 1000, STRONG, delay_s=0.001)}
    async with aclosing(cascade(both).run(query(), Context(CALL, True))) as events:
        await anext(events)
        await anext(events)
        assert engine_of(both[STRONG]).running == 1
    assert engine_of(both[STRONG]).running == 0
