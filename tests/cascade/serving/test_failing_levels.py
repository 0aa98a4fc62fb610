"""Levels that fail, of every cascade: the answer still comes where anybody has one, and else the telling error does."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from serve_app.cascade.routing.router import Answered
from serve_app.cascade.serving.routed import RoutedCascade
from serve_app.cascade.serving.streaming import StreamingCascade
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    JethroError,
    PoolUnavailable,
    RequestError,
    UpstreamError,
)
from serve_app.strategy import Strategy
from serve_app.types import Capabilities, Price, Query
from serve_app.wire.frames import Call
from tests.cascade.fakes import CALL, STRONG, SURE, UNSURE, WEAK, engine, engine_of, pool, pools, query, run, told
from tests.cascade.serving.test_routed import FakeRouter
from tests.cascade.serving.test_strategy import cascade as whole
from tests.cascade.serving.test_streaming import cascade as early
from tests.cascade.serving.test_streaming_race import ByPrior

BOTH = pytest.mark.parametrize("stream", [True, False])
MIDDLE = "middle"


def routed(all_pools: dict[str, LocalPool]) -> RoutedCascade:
    """Asks in the order of the pools until one is sure."""

    def in_order(answers: Sequence[Answered], without: Sequence[str]) -> tuple[str | None, str | None]:
        asked = [a.pool for a in answers]
        take = asked[-1] if asked else None
        if answers and answers[-1].signal > 0.5:
            return None, take
        return next((p for p in all_pools if p not in asked and p not in without), None), take

    router = FakeRouter(in_order, tuple(all_pools))
    router.signals = dict.fromkeys(all_pools, router.signals[WEAK])
    return RoutedCascade("cascade-route", router, all_pools)  # type: ignore[arg-type]


EACH = pytest.mark.parametrize("made", [whole, early, routed])


def made_of(made: object, all_pools: dict[str, LocalPool]) -> Strategy:
    return made(all_pools)  # type: ignore[operator, no-any-return]


def failing(name: str, error: JethroError, size: int = 4096) -> LocalPool:
    return pool("x", name, fail_after=0, error=error, capabilities=Capabilities(max_context_tokens=size))


@EACH
@BOTH
async def test_a_deadline_is_told_of_though_the_first_level_was_away(made: object, stream: bool) -> None:
    both = {WEAK: failing(WEAK, PoolUnavailable("none")), STRONG: failing(STRONG, DeadlineExceeded("late"))}
    with pytest.raises(DeadlineExceeded):
        await run(made_of(made, both), stream=stream)


@EACH
@BOTH
async def test_a_larger_context_that_is_away_is_told_of_and_not_the_length(made: object, stream: bool) -> None:
    both = {
        WEAK: pool("x", capabilities=Capabilities(max_context_tokens=16)),
        STRONG: failing(STRONG, PoolUnavailable("none")),
    }
    with pytest.raises(PoolUnavailable):
        await run(made_of(made, both), query("y" * 40), stream=stream)


@EACH
@BOTH
async def test_too_long_a_prompt_passes_a_level_of_no_larger_context(made: object, stream: bool) -> None:
    small = Capabilities(max_context_tokens=16)
    three = {
        WEAK: pool("x", capabilities=small),
        MIDDLE: pool("x", MIDDLE, capabilities=small),
        STRONG: pool("strong", STRONG),
    }
    decision, said, _ = told(await run(made_of(made, three), query("y" * 40), stream=stream))
    assert (decision.pool, said) == (STRONG, "strong")


@EACH
@BOTH
@pytest.mark.parametrize("error", [RequestError("bad"), ContextLengthExceeded("long")])
async def test_an_answer_in_doubt_is_given_whatever_the_levels_above_refuse(
    made: object, error: JethroError, stream: bool
) -> None:
    three = {WEAK: pool("a?" + UNSURE, delay_s=0.001), MIDDLE: failing(MIDDLE, error), STRONG: failing(STRONG, error)}
    decision, said, spent = told(await run(made_of(made, three), stream=stream))
    assert (decision.pool, said) == (WEAK, "a?" + UNSURE)
    assert sum(not step.wasted for step in spent.steps) == 1


async def test_who_does_not_read_a_stream_is_answered_by_another_if_the_taken_level_breaks() -> None:
    both = {WEAK: pool("ab" * 9, fail_after=5, error=UpstreamError("broke")), STRONG: pool("strong", STRONG)}
    decision, said, spent = told(await run(early(both)))
    assert (decision.pool, said) == (STRONG, "strong")
    assert [(s.pool, s.failed, s.wasted) for s in spent.steps] == [(WEAK, True, True), (STRONG, False, False)]


async def test_what_has_been_sent_of_a_stream_is_never_followed_by_another_answer() -> None:
    both = {WEAK: pool("ab" * 9, fail_after=5, error=UpstreamError("broke"), delay_s=0.001), STRONG: pool("s", STRONG)}
    with pytest.raises(UpstreamError, match="broke"):
        await run(early(both), stream=True)
    assert not engine_of(both[STRONG]).queries


@BOTH
@pytest.mark.parametrize("made", ["whole", "early"])
async def test_a_level_that_was_ruled_out_answers_where_the_others_fail(made: str, stream: bool) -> None:
    async def score(router: str, asked: object) -> float | None:
        return 0.9

    both = {WEAK: pool(SURE), STRONG: failing(STRONG, PoolUnavailable("none"))}
    strategy: Strategy
    if made == "whole":
        strategy = whole(both, ByPrior(), prior=score, limits={WEAK: 0.5})
    else:
        strategy = early(both, ByPrior(), prior=0.9, limits={WEAK: 0.5})
    decision, said, _ = told(await run(strategy, stream=stream))
    assert (decision.pool, said) == (WEAK, SURE)
    assert "no answer of m-small" in decision.reason


class _Waits(LocalPool):
    """Keeps whether its callers would wait for a replica."""

    waits: list[bool]

    async def stream(self, query: Query, call: Call):  # type: ignore[no-untyped-def]
        self.waits.append(call.may_wait)
        async for frame in super().stream(query, call):
            yield frame


@pytest.mark.parametrize(("weak", "waits"), [("fails", True), ("in doubt", False)])
async def test_the_last_level_waits_for_a_replica_if_nobody_else_can_answer(weak: str, waits: bool) -> None:
    strong = _Waits(STRONG, engine("strong", STRONG), Price())
    strong.waits = []
    small = failing(WEAK, PoolUnavailable("none")) if weak == "fails" else pool("a?" + UNSURE)
    strategy = early({WEAK: small, STRONG: strong})
    assert isinstance(strategy, StreamingCascade)
    told(await run(strategy, stream=True))
    assert strong.waits == [waits]


async def test_a_pool_without_log_probabilities_is_not_asked_for_them_by_a_cascade_router() -> None:
    both = pools(SURE)
    weak = engine_of(both[WEAK])
    weak.capabilities = replace(weak.capabilities, logprobs=False)
    decision, said, _ = told(await run(routed(both), stream=True, call=CALL))
    assert (decision.pool, said) == (WEAK, SURE) and not weak.queries[0].sampling.logprobs
