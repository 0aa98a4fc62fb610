import asyncio
from contextlib import aclosing
from dataclasses import replace
from time import monotonic

import pytest

from serve_app.autoscaling.signals import Demand
from serve_app.cascade.base import Needs
from serve_app.cascade.serving.skipping import LatencyEstimate
from serve_app.cascade.serving.streaming import Race, StreamingCascade
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import DeadlineExceeded, JethroError, Overloaded, PoolUnavailable, RequestError, UpstreamError
from serve_app.strategy import Context, Spent
from serve_app.types import Decision, Query, Usage
from serve_app.wire.frames import Answer, Frame
from tests.cascade.fakes import (
    CALL,
    STRONG,
    TOOLS,
    WEAK,
    Seen,
    chain,
    engine_of,
    pool,
    pools,
    query,
    run,
    text,
    told,
)
from tests.cascade.serving.test_strategy import with_tools

BOTH = pytest.mark.parametrize("stream", [True, False])


SURE, UNSURE = "ab, and a long rest", "a?, and a long rest"


READ = len("what?") + 1


def cascade(
    all_pools: dict[str, LocalPool],
    signal: object | None = None,
    *,
    tokens: int = 2,
    prior: float | None = None,
    race: Race | None = None,
    limits: dict[str, float] | None = None,
    **rest: object,
) -> StreamingCascade:
    async def score(router: str, query: Query) -> float | None:
        return prior

    fitted = chain(signal, probe_tokens=tokens, levels=tuple(all_pools), limits=limits)
    return StreamingCascade("cascade-stream", fitted, all_pools, score, race=race, **rest)  # type: ignore[arg-type]


@BOTH
async def test_convincing_first_tokens_are_committed(stream: bool) -> None:
    both = pools(SURE)
    decision, said, spent = told(await run(cascade(both), stream=stream))
    assert (decision.pool, said, decision.score, decision.threshold) == (WEAK, SURE, 1.0, 0.5)
    assert [(s.pool, s.wasted, s.usage) for s in spent.steps] == [(WEAK, False, Usage(READ, len(SURE)))]
    assert engine_of(both[STRONG]).queries == []


@BOTH
async def test_doubtful_first_tokens_are_replaced_and_the_rest_is_never_written(stream: bool) -> None:
    both = {WEAK: pool(UNSURE, delay_s=0.005), STRONG: pool("strong", STRONG)}
    decision, said, spent = told(await run(cascade(both), stream=stream))
    assert (decision.pool, said) == (STRONG, "strong") and "doubt 0.2" in decision.reason
    lost, taken = spent.steps
    assert (lost.pool, lost.wasted, taken.pool, taken.wasted) == (WEAK, True, STRONG, False)
    assert lost.reason.startswith("replaced: doubt 0.2") and lost.usage == Usage(READ, 2)
    assert engine_of(both[WEAK]).cancelled == 1


async def test_only_the_first_tokens_are_judged_even_if_more_have_come() -> None:
    signal = Seen()
    await run(cascade(pools("abcdef"), signal, tokens=3), stream=True)
    assert [(j.text, j.finished) for j in signal.shown] == [("abc", False)]


async def test_with_log_probabilities_the_judge_sees_exactly_the_probe() -> None:
    signal = Seen(needs=Needs(logprobs=True))
    await run(cascade(pools("abcdef"), signal, tokens=3), stream=True)
    (judged,) = signal.shown
    assert (judged.text, len(judged.logprobs), judged.finished) == ("abc", 3, False)


async def test_an_answer_that_ends_within_the_probe_is_judged_whole() -> None:
    signal = Seen(needs=Needs(logprobs=True))
    decision, said, _ = told(await run(cascade(pools("ab"), signal, tokens=5), stream=True))
    (judged,) = signal.shown
    assert (judged.text, judged.finished, decision.pool, said) == ("ab", True, WEAK, "ab")


async def test_nothing_reaches_the_caller_before_the_verdict() -> None:
    gate = asyncio.Event()
    both = {WEAK: pool(SURE, gate=gate), STRONG: pool("strong", STRONG)}
    async with aclosing(cascade(both).run(query(), Context(CALL, True))) as events:
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.02)
        assert not first.done()
        gate.set()
        assert isinstance(await first, Decision)


async def test_what_is_committed_passes_on_without_being_parsed() -> None:
    both = {WEAK: pool(SURE, delay_s=0.001), STRONG: pool("strong", STRONG)}
    events = await run(cascade(both, Seen(), tokens=1), stream=True)
    frames = [e for e in events if isinstance(e, Frame)]
    assert len(frames) > 3 and all(f._parsed is None for f in frames[1:-1])


@BOTH
@pytest.mark.parametrize("endpoint", ["chat", "completions"])
async def test_the_caller_sees_what_the_pool_alone_would_say(endpoint: str, stream: bool) -> None:
    asked = replace(query(), endpoint=endpoint)
    both, alone = pools(SURE), pools(SURE)[WEAK]
    shown = (await run(cascade(both), asked, stream=stream))[1:-1]
    if stream:
        events = [e for frame in shown for e in frame.events]  # type: ignore[union-attr]
        assert events == [e async for frame in alone.stream(asked, CALL) for e in frame.events]
    else:
        assert shown[0].parsed == (await alone.complete(asked, CALL)).parsed  # type: ignore[union-attr]


@BOTH
@pytest.mark.parametrize("error", [UpstreamError("died"), PoolUnavailable("none"), Overloaded("full")])
@pytest.mark.parametrize("after", [0, 1])
async def test_a_level_that_fails_within_the_probe_is_skipped(error: JethroError, after: int, stream: bool) -> None:
    both = pools() | {WEAK: pool(SURE, fail_after=after, error=error, delay_s=0.002)}
    decision, said, spent = told(await run(cascade(both, tokens=3), stream=stream))
    assert (decision.pool, said) == (STRONG, "strong") and f"m-small failed: {error.code}" in decision.reason
    assert [(s.pool, s.wasted, s.failed) for s in spent.steps] == [(WEAK, True, True), (STRONG, False, False)]


async def test_a_level_that_fails_after_its_commitment_cuts_the_stream() -> None:
    both = pools() | {WEAK: pool(SURE, fail_after=4, error=UpstreamError("died"), delay_s=0.002)}
    seen = []
    with pytest.raises(UpstreamError, match="died"):
        async for event in cascade(both).run(query(), Context(CALL, True)):
            seen.append(event)  # noqa: PERF401
    assert isinstance(seen[0], Decision) and seen[0].pool == WEAK
    assert engine_of(both[STRONG]).queries == []


@BOTH
async def test_the_replaced_level_is_asked_again_if_nobody_else_answers(stream: bool) -> None:
    full = pool("x", STRONG, fail_after=0, error=Overloaded("full"))
    both = {WEAK: pool(UNSURE, delay_s=0.002), STRONG: full}
    decision, said, spent = told(await run(cascade(both), stream=stream))
    assert (decision.pool, said) == (WEAK, UNSURE)
    assert [(s.pool, s.wasted) for s in spent.steps] == [(WEAK, True), (STRONG, True), (WEAK, False)]


@BOTH
async def test_a_whole_answer_at_hand_is_given_if_nobody_else_answers(stream: bool) -> None:
    both = pools("a?") | {STRONG: pool("x", STRONG, fail_after=0, error=Overloaded("full"))}
    decision, said, spent = told(await run(cascade(both, tokens=5), stream=stream))
    assert (decision.pool, said) == (WEAK, "a?")
    assert [(s.pool, s.wasted, s.usage.completion_tokens) for s in spent.steps] == [(WEAK, False, 2), (STRONG, True, 0)]
    assert len(engine_of(both[WEAK]).queries) == 1


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
    both = pools() | {WEAK: pool(SURE, fail_after=0, error=RequestError("bad"))}
    with pytest.raises(RequestError, match="bad"):
        await run(cascade(both), stream=stream)
    assert engine_of(both[STRONG]).queries == []


@BOTH
async def test_a_level_without_the_capability_is_not_asked(stream: bool) -> None:
    both = pools() | {STRONG: pool("strong", STRONG, capabilities=TOOLS)}
    decision, said, _ = told(await run(cascade(both), with_tools(), stream=stream))
    assert (decision.pool, said) == (STRONG, "strong") and engine_of(both[WEAK]).queries == []


@BOTH
async def test_every_choice_must_convince(stream: bool) -> None:
    both = pools()
    engine_of(both[WEAK]).script = lambda q, i: list(UNSURE if i else SURE)
    decision, *_ = told(await run(cascade(both), query(n=2), stream=stream))
    assert decision.pool == STRONG
    engine_of(both[WEAK]).script = lambda q, i: list(SURE)
    events = await run(cascade(both), query(n=2), stream=stream)
    assert [text(events[1:-1], i) for i in (0, 1)] == [SURE, SURE]


@BOTH
async def test_three_levels_are_probed_in_turn(stream: bool) -> None:
    three = {"tiny": pool("t?xx", "tiny"), WEAK: pool("s?xx"), STRONG: pool("strong", STRONG)}
    decision, said, spent = told(await run(cascade(three), stream=stream))
    assert (decision.pool, said) == (STRONG, "strong")
    assert [(s.pool, s.wasted) for s in spent.steps] == [("tiny", True), (WEAK, True), (STRONG, False)]


@BOTH
async def test_without_any_first_token_the_deadline_is_an_error(stream: bool) -> None:
    call = replace(CALL, deadline_s=monotonic() + 0.2)
    with pytest.raises(DeadlineExceeded):
        await run(cascade({WEAK: pool("x", first_delay_s=5), STRONG: pool("y", STRONG)}), stream=stream, call=call)


@BOTH
async def test_no_further_level_without_the_time_for_it(stream: bool) -> None:
    call = replace(CALL, deadline_s=monotonic() + 0.5)
    both = pools("a?")
    decision, said, _ = told(await run(cascade(both, tokens=5), stream=stream, call=call))
    assert (decision.pool, said) == (WEAK, "a?") and "no time for m-large" in decision.reason


async def test_a_level_that_is_late_is_cut_off_and_the_answer_at_hand_is_given() -> None:
    call = replace(CALL, deadline_s=monotonic() + 0.3)
    both = {WEAK: pool("a?"), STRONG: pool("x", STRONG, first_delay_s=5.0)}
    decision, said, _ = told(await run(cascade(both, tokens=5, latency=LatencyEstimate(0.0)), stream=True, call=call))
    assert (decision.pool, said) == (WEAK, "a?") and engine_of(both[STRONG]).running == 0


async def test_every_call_is_told_to_the_demand() -> None:
    demand = Demand()
    async for _ in cascade(pools(UNSURE)).run(query(), Context(CALL, True, demand)):
        pass
    rates = demand.rates((WEAK, STRONG))
    assert rates["requested_per_s:small"] > 0 and rates["requested_per_s:large"] > 0


async def test_a_closed_iterator_closes_what_was_committed() -> None:
    both = pools() | {WEAK: pool("y" * 1000, delay_s=0.001)}
    async with aclosing(cascade(both).run(query(), Context(CALL, True))) as events:
        await anext(events)
        await anext(events)
        assert engine_of(both[WEAK]).running == 1
    assert engine_of(both[WEAK]).running == 0


async def test_an_answer_without_streaming_is_one_object() -> None:
    events = await run(cascade(pools(SURE)), stream=False)
    assert [type(e) for e in events] == [Decision, Answer, Spent]
