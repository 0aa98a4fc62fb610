import asyncio
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from time import monotonic

import pytest

from serve_app.cascade.base import Needs
from serve_app.cascade.serving.streaming import Race, RaceMeter
from serve_app.data.answers import AnswerEvidence
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import DeadlineExceeded, Overloaded, UpstreamError
from serve_app.strategy import Context
from serve_app.types import Chunk, Decision, Price, Query
from serve_app.wire.frames import Frame
from tests.cascade.fakes import (
    CALL,
    STRONG,
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
from tests.cascade.serving.test_streaming import BOTH, READ, SURE, UNSURE, cascade
from tests.fakes import FakeEngine


def full_meter() -> RaceMeter:
    return RaceMeter(all_tokens=1000.0)


PRIOR = Needs(prior="mine")


@dataclass(frozen=True)
class ByPrior:
    """As sure as the router that the weak model will do."""

    needs: Needs = PRIOR
    name: str = "by-prior"

    def value(self, judged: AnswerEvidence) -> float:
        return math.nan if judged.prior is None else 1 - judged.prior


@BOTH
async def test_a_borderline_query_races_and_the_loser_is_cancelled(stream: bool) -> None:
    race = Race("mine", 0.3, 0.7, 0.5, full_meter())
    both = {WEAK: pool(SURE, first_delay_s=0.03), STRONG: pool("strong", STRONG, delay_s=0.002)}
    decision, said, spent = told(await run(cascade(both, prior=0.4, race=race), stream=stream))
    assert (decision.pool, said) == (WEAK, SURE)
    taken, lost = spent.steps
    assert (taken.pool, taken.wasted, lost.pool, lost.wasted) == (WEAK, False, STRONG, True)
    assert lost.reason == "raced in vain" and lost.usage.prompt_tokens == READ
    assert engine_of(both[STRONG]).cancelled == 1 and engine_of(both[STRONG]).running == 0
    meter = race.meter
    assert (meter.races, meter.lost, meter.reserved_tokens) == (1, 1, 0)
    assert meter.wasted_tokens == lost.usage.total_tokens
    assert meter.all_tokens == 1000 + spent.usage.total_tokens


@BOTH
async def test_a_race_that_the_strong_level_wins_wastes_no_prefill(stream: bool) -> None:
    race = Race("mine", 0.3, 0.7, 0.5, full_meter())
    both = {WEAK: pool(UNSURE, first_delay_s=0.05, delay_s=0.01), STRONG: pool("strong", STRONG, first_delay_s=0.05)}
    began = monotonic()
    decision, said, spent = told(await run(cascade(both, prior=0.5, race=race), stream=stream))
    assert (decision.pool, said) == (STRONG, "strong") and monotonic() - began < 5
    assert [(s.pool, s.wasted) for s in spent.steps] == [(WEAK, True), (STRONG, False)]
    assert (race.meter.lost, race.meter.wasted_tokens, race.meter.reserved_tokens) == (0, 0, 0)
    assert len(engine_of(both[STRONG]).queries) == 1


@pytest.mark.parametrize(("prior", "share"), [(0.1, 0.5), (0.9, 0.5), (None, 0.5), (0.5, 0.0)])
async def test_no_race_where_it_is_not_borderline_or_over_the_cap(prior: float | None, share: float) -> None:
    race = Race("mine", 0.3, 0.7, share, full_meter())
    both = pools(SURE)
    await run(cascade(both, prior=prior, race=race), stream=True)
    assert race.meter.races == 0 and engine_of(both[STRONG]).queries == []


async def test_a_raced_level_that_fails_does_not_harm_the_one_that_answers() -> None:
    race = Race("mine", 0.3, 0.7, 0.5, full_meter())
    both = {WEAK: pool(SURE, first_delay_s=0.02), STRONG: pool("x", STRONG, fail_after=0, error=Overloaded("full"))}
    decision, said, spent = told(await run(cascade(both, prior=0.5, race=race), stream=True))
    assert (decision.pool, said) == (WEAK, SURE) and race.meter.reserved_tokens == 0
    assert (race.meter.lost, race.meter.wasted_tokens) == (0, 0)
    assert [(s.pool, s.failed) for s in spent.steps] == [(WEAK, False), (STRONG, True)]
    assert "m-large failed: overloaded" in decision.reason


async def test_the_routers_score_is_asked_once_and_judged_with() -> None:
    decision, *_ = told(await run(cascade(pools(SURE), ByPrior(), prior=0.8), stream=True))
    assert decision.pool == STRONG and decision.features["prior"] == 0.8


@BOTH
@pytest.mark.parametrize("raced", [True, False])
@pytest.mark.parametrize("slow", [WEAK, STRONG])
async def test_a_cancelled_request_leaves_no_call_behind(slow: str, raced: bool, stream: bool) -> None:
    race = Race("mine", 0.3, 0.7, 0.5, full_meter()) if raced else None
    both = pools(UNSURE) | {slow: pool("y" * 1000, slow, first_delay_s=0.02, delay_s=0.01)}
    signal = Seen(sure=0.1) if slow == STRONG else Doubt()
    running = asyncio.create_task(run(cascade(both, signal, prior=0.5, race=race), stream=stream))
    while not engine_of(both[slow]).running:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [engine_of(p).running for p in both.values()] == [0, 0]
    assert race is None or race.meter.reserved_tokens == 0


class SlowToStop(FakeEngine):
    """Takes its time to stop once it is cancelled, as a connection does that must be closed."""

    async def stream(self, query: Query) -> AsyncGenerator[Chunk, None]:
        try:
            async for chunk in super().stream(query):
                yield chunk
        finally:
            await asyncio.sleep(0.05)


@BOTH
async def test_who_leaves_while_the_loser_of_a_race_is_being_cancelled_is_not_answered_on(stream: bool) -> None:
    race = Race("mine", 0.3, 0.7, 0.5, full_meter())
    weak = pool("ab" + "y" * 1000, delay_s=0.005)
    strong = SlowToStop("m-large", script=lambda query, index: ["x"], first_delay_s=1.0)
    both = {WEAK: weak, STRONG: LocalPool(STRONG, strong, Price(1.0, 1.0))}
    running = asyncio.create_task(run(cascade(both, prior=0.5, race=race), stream=stream))
    while not strong.cancelled:  # the weak answer is committed, the strong one is on its way out
        await asyncio.sleep(0.001)
    running.cancel()
    done, _ = await asyncio.wait((running,), timeout=2.0)  # the weak answer would take 5 s
    assert done and running.cancelled()
    assert (strong.running, engine_of(weak).running) == (0, 0)
    assert (engine_of(weak).cancelled, race.meter.reserved_tokens) == (1, 0)


@BOTH
async def test_a_deadline_in_the_middle_of_a_race_ends_both_calls(stream: bool) -> None:
    race = Race("mine", 0.3, 0.7, 0.5, full_meter())
    both = {WEAK: pool("ab", first_delay_s=5.0), STRONG: pool("strong", STRONG, first_delay_s=5.0)}
    call = replace(CALL, deadline_s=monotonic() + 0.15)
    with pytest.raises(DeadlineExceeded, match=r"m-small .*deadline"):
        await run(cascade(both, prior=0.5, race=race), stream=stream, call=call)
    assert [engine_of(p).running for p in both.values()] == [0, 0]
    assert race.meter.reserved_tokens == 0 and race.meter.wasted_tokens > 0


async def test_a_weak_answer_that_breaks_after_it_is_committed_leaves_no_reservation() -> None:
    race = Race("mine", 0.3, 0.7, 0.5, full_meter())
    weak = pool(SURE, first_delay_s=0.02, fail_after=6, error=UpstreamError("gone"))
    both = {WEAK: weak, STRONG: pool("strong", STRONG, first_delay_s=1.0)}
    context = Context(CALL, True)
    events = cascade(both, prior=0.5, race=race).run(query(), context)
    told = [await anext(events), await anext(events)]
    with pytest.raises(UpstreamError, match="gone"):
        [_ async for _ in events]
    assert [type(event) for event in told] == [Decision, Frame]  # the caller has read of it: nobody else is asked
    calls = [(s.pool, s.reason, s.wasted) for s in context.ledger.standing()]
    assert calls == [(WEAK, "cancelled", True), (STRONG, "raced in vain", True)]
    assert context.ledger.standing()[0].usage.completion_tokens >= 2
    assert [engine_of(p).running for p in both.values()] == [0, 0]
    assert race.meter.reserved_tokens == 0 and engine_of(both[STRONG]).cancelled == 1


@BOTH
async def test_who_leaves_between_commit_and_first_byte_leaves_nothing_behind(stream: bool) -> None:
    """The decision is told and then nothing more is read: the caller has gone."""
    both = {WEAK: pool("ab" + "y" * 1000, delay_s=0.005), STRONG: pool("strong", STRONG)}
    events = cascade(both).run(query(), Context(CALL, stream))
    if stream:
        assert isinstance(await anext(events), Decision)
    else:
        running = asyncio.ensure_future(anext(events))
        while not engine_of(both[WEAK]).running:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    await events.aclose()
    assert (engine_of(both[WEAK]).running, engine_of(both[WEAK]).cancelled) == (0, 1)


@BOTH
async def test_a_strong_level_that_is_full_gives_way_to_the_weak_answer(stream: bool) -> None:
    both = {WEAK: pool(UNSURE, delay_s=0.002), STRONG: pool("x", STRONG, fail_after=0, error=Overloaded("full"))}
    decision, said, spent = told(await run(cascade(both), stream=stream))
    assert (decision.pool, said) == (WEAK, UNSURE) and "m-large failed: overloaded" in decision.reason
    assert [(s.pool, s.wasted, s.failed) for s in spent.steps] == [
        (WEAK, True, False),
        (STRONG, True, True),
        (WEAK, False, False),
    ]


async def test_route_tells_the_first_level_and_the_chain() -> None:
    decision = await cascade(pools(), ByPrior(), prior=0.25).decide(query(), "d9")
    assert (decision.pool, decision.features) == (WEAK, {"prior": 0.25})
    assert all(part in decision.reason for part in ("m-small", "by-prior", "0.500", "then m-large"))


@BOTH
@pytest.mark.parametrize("again_after", range(12))
@pytest.mark.parametrize("kind", [FakeEngine, SlowToStop])
async def test_who_is_cancelled_again_and_again_leaves_neither_call_of_a_race_behind(
    kind: type[FakeEngine], again_after: int, stream: bool
) -> None:
    """The server and the request's own watch both cancel when a caller leaves, the second one amid the cleaning up."""
    race = Race("mine", 0.3, 0.7, 0.5, full_meter())
    weak, strong = (kind(f"m-{name}", script=lambda q, i: ["x"], first_delay_s=5.0) for name in ("small", "large"))
    both = {WEAK: LocalPool(WEAK, weak, Price(1.0, 1.0)), STRONG: LocalPool(STRONG, strong, Price(1.0, 1.0))}
    running = asyncio.create_task(run(cascade(both, prior=0.5, race=race), stream=stream))
    while not (weak.running and strong.running):
        await asyncio.sleep(0.001)
    while not running.done():
        running.cancel()
        for _ in range(again_after + 1):
            await asyncio.sleep(0)
    assert running.cancelled()
    assert [p.load().in_flight for p in both.values()] == [0, 0] and race.meter.reserved_tokens == 0
    assert (weak.running, strong.running) == (0, 0) and (weak.cancelled, strong.cancelled) == (1, 1)
