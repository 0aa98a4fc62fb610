import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

import pytest

from serve_app.cascade.routing.router import Advice, Answered, Prompt
from serve_app.cascade.serving.routed import RoutedCascade
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import ConfigError, Overloaded, UnsupportedParameter, UpstreamError
from serve_app.strategy import Context
from serve_app.types import Usage
from tests.cascade.fakes import CALL, STRONG, SURE, UNSURE, WEAK, Doubt, engine_of, pool, pools, query, run, told
from tests.cascade.serving.test_strategy import with_tools

BOTH = pytest.mark.parametrize("stream", [False, True])
Plan = Callable[[Sequence[Answered], Sequence[str]], tuple[str | None, str | None]]


@dataclass
class FakeRouter:
    """Advises by `plan`: from answers and excluded pools to whom to ask, and whose answer to take."""

    plan: Plan
    pools: tuple[str, ...] = (WEAK, STRONG)
    signals: dict[str, object] = field(default_factory=lambda: {WEAK: Doubt(), STRONG: Doubt()})
    models: tuple[str, ...] = ()
    encoder: str | None = None
    version: str = "cascade-routing-test"
    expected: dict[str, float] = field(default_factory=dict)
    seen: list[tuple[Prompt, tuple[Answered, ...], tuple[str, ...]]] = field(default_factory=list)

    def after(self, prompt: Prompt, answers: Sequence[Answered], without: Sequence[str] = ()) -> Advice:
        self.seen.append((prompt, tuple(answers), tuple(without)))
        ask, take = self.plan(answers, without)
        quality = {WEAK: 0.6, STRONG: 0.9} | {a.pool: a.signal for a in answers}
        return Advice(ask, take, quality, {})


def cheapest_first(answers: Sequence[Answered], without: Sequence[str]) -> tuple[str | None, str | None]:
    """Weak, then strong where the weak answer is in doubt; the last answer is taken."""
    asked = [a.pool for a in answers]
    take = asked[-1] if asked else None
    if answers and answers[-1].signal > 0.5:
        return None, take
    return next((p for p in (WEAK, STRONG) if p not in asked and p not in without), None), take


def cascade(both: dict[str, LocalPool], plan: Plan = cheapest_first) -> tuple[RoutedCascade, FakeRouter]:
    router = FakeRouter(plan)
    return RoutedCascade("cascade-route", router, both, rng=random.Random(1)), router  # type: ignore[arg-type]


@BOTH
async def test_it_stops_where_the_router_does(stream: bool) -> None:
    both = pools(SURE)
    strategy, router = cascade(both)
    decision, said, spent = told(await run(strategy, stream=stream))
    assert (decision.pool, said, decision.score, decision.threshold) == (WEAK, SURE, 1.0, None)
    assert decision.cause == "accepted"
    assert decision.policy_version == "cascade-routing-test" and "P(correct) 1.000" in decision.reason
    assert engine_of(both[STRONG]).queries == []
    (answered,) = router.seen[-1][1]
    assert (answered.pool, answered.signal, answered.text) == (WEAK, 1.0, SURE)
    assert answered.cost_usd == spent.cost_usd > 0


@BOTH
async def test_it_goes_on_where_the_router_does(stream: bool) -> None:
    strategy, router = cascade(pools(UNSURE))
    decision, said, spent = told(await run(strategy, stream=stream))
    assert (decision.pool, said) == (STRONG, "strong")
    assert [(s.pool, s.wasted) for s in spent.steps] == [(WEAK, True), (STRONG, False)]
    assert [s.reason for s in spent.steps] == ["doubt 0.2, P(correct) 0.200", "doubt 1, P(correct) 1.000"]
    assert (decision.cause, decision.confidences) == ("escalated", {WEAK: 0.2, STRONG: 1.0})
    assert decision.features["small:probability"] == 0.2 and decision.features["large:probability"] == 1.0
    assert len({prompt.coin for prompt, *_ in router.seen}) == 1
    assert router.seen[0][0].characters == len("what?")


@BOTH
async def test_who_leaves_is_told_of_with_all_that_was_asked(stream: bool) -> None:
    both = pools(UNSURE) | {STRONG: pool("late", STRONG, first_delay_s=5.0)}
    context = Context(CALL, stream)
    assert context.ledger.standing() == ()
    running = asyncio.ensure_future(anext(cascade(both)[0].run(query(), context)))
    while not engine_of(both[STRONG]).running:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    weak, strong = context.ledger.standing()
    assert (weak.pool, weak.wasted, weak.usage.completion_tokens) == (WEAK, True, len(UNSURE)) and weak.cost_usd > 0
    assert (strong.pool, strong.wasted, strong.reason) == (STRONG, True, "cut off")
    assert strong.usage == Usage(weak.usage.prompt_tokens, 0)


@BOTH
async def test_a_pool_may_be_skipped_and_an_earlier_answer_taken(stream: bool) -> None:
    def strong_first(answers: Sequence[Answered], without: Sequence[str]) -> tuple[str | None, str | None]:
        order = [STRONG, WEAK]
        return (order[len(answers)], None) if len(answers) < 2 else (None, STRONG)

    decision, said, spent = told(await run(cascade(pools(SURE), strong_first)[0], stream=stream))
    assert (decision.pool, said) == (STRONG, "strong")
    assert [(s.pool, s.wasted) for s in spent.steps] == [(STRONG, False), (WEAK, True)]


@BOTH
async def test_who_fails_is_not_asked_again(stream: bool) -> None:
    both = pools(SURE) | {WEAK: pool("x", fail_after=0, error=Overloaded("full"))}
    strategy, router = cascade(both)
    decision, said, _ = told(await run(strategy, stream=stream))
    assert (decision.pool, said) == (STRONG, "strong") and router.seen[1][2] == (WEAK,)


@BOTH
async def test_the_best_at_hand_is_given_if_the_next_fails(stream: bool) -> None:
    both = pools(UNSURE) | {STRONG: pool("x", STRONG, fail_after=0, error=Overloaded("full"))}
    decision, said, _ = told(await run(cascade(both)[0], stream=stream))
    assert (decision.pool, said) == (WEAK, UNSURE)


async def test_the_first_error_is_raised_when_all_fail() -> None:
    both = {
        WEAK: pool("x", fail_after=0, error=Overloaded("first")),
        STRONG: pool("x", STRONG, fail_after=0, error=UpstreamError("second")),
    }
    with pytest.raises(Overloaded, match="first"):
        await run(cascade(both)[0])


@BOTH
async def test_no_further_pool_without_the_time_for_it(stream: bool) -> None:
    call = replace(CALL, deadline_s=monotonic() + 0.8)
    decision, said, _ = told(await run(cascade(pools(UNSURE))[0], stream=stream, call=call))
    assert (decision.pool, said) == (WEAK, UNSURE) and "no time for m-large" in decision.reason


async def test_who_cannot_honour_the_query_is_left_out() -> None:
    from tests.cascade.fakes import TOOLS

    both = pools(SURE) | {STRONG: pool("strong", STRONG, capabilities=TOOLS)}
    strategy, router = cascade(both)
    decision, *_ = told(await run(strategy, with_tools()))
    assert decision.pool == STRONG and router.seen[0][2] == (WEAK,)
    with pytest.raises(UnsupportedParameter):
        await run(cascade(pools())[0], with_tools())


async def test_a_cancelled_request_leaves_no_call_behind() -> None:
    both = pools(UNSURE) | {STRONG: pool("y" * 1000, STRONG, delay_s=0.01)}
    running = asyncio.create_task(run(cascade(both)[0]))
    while not engine_of(both[STRONG]).running:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [engine_of(p).running for p in both.values()] == [0, 0]


async def test_route_tells_whom_the_router_asks_first() -> None:
    both = pools()
    decision = await cascade(both)[0].decide(query(), "d9")
    assert decision.pool == WEAK and "small 0.600, large 0.900" in decision.reason
    assert engine_of(both[WEAK]).queries == []


def test_a_router_of_recorded_confidences_cannot_judge_what_is_served() -> None:
    router = FakeRouter(cheapest_first, signals={WEAK: None, STRONG: Doubt()})
    with pytest.raises(ConfigError, match="pool small"):
        RoutedCascade("cascade-route", router, pools())  # type: ignore[arg-type]
