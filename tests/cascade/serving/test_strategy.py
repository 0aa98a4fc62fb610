from contextlib import aclosing
from dataclasses import replace

import pytest

from serve_app.autoscaling.signals import Demand
from serve_app.cascade.base import Needs
from serve_app.cascade.serving.strategy import CascadeStrategy
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import (
    UnsupportedParameter,
    UpstreamError,
)
from serve_app.images import Session
from serve_app.strategy import Context, Spent
from serve_app.types import Capabilities, Price, Query, Usage
from serve_app.wire.frames import Answer
from tests.cascade.fakes import (
    CALL,
    STRONG,
    SURE,
    TOOLS,
    UNSURE,
    WEAK,
    chain,
    engine_of,
    pool,
    pools,
    query,
    run,
    text,
    told,
)

BOTH = pytest.mark.parametrize("stream", [False, True])


def cascade(
    all_pools: dict[str, LocalPool],
    signal: object | None = None,
    limits: dict[str, float] | None = None,
    **options: object,
) -> CascadeStrategy:
    fitted = chain(signal, levels=tuple(all_pools), limits=limits)
    return CascadeStrategy("cascade", fitted, all_pools, **options)  # type: ignore[arg-type]


@BOTH
async def test_a_convincing_answer_is_taken_and_nobody_else_is_asked(stream: bool) -> None:
    both = pools(SURE)
    decision, said, spent = told(await run(cascade(both), stream=stream))
    assert (decision.pool, decision.model, said) == (WEAK, "m-small", SURE)
    assert (decision.score, decision.threshold, decision.policy_version) == (1.0, 0.5, "cascade-test")
    assert (decision.cause, decision.confidences) == ("accepted", {WEAK: 1.0})
    assert [(s.pool, s.wasted) for s in spent.steps] == [(WEAK, False)]
    assert engine_of(both[STRONG]).queries == []


@BOTH
async def test_an_answer_in_doubt_is_replaced_and_counted_as_wasted(stream: bool) -> None:
    both = pools(UNSURE)
    decision, said, spent = told(await run(cascade(both), stream=stream))
    assert (decision.pool, said) == (STRONG, "strong")
    assert "doubt 0.2, P(correct) 0.200 < 0.500" in decision.reason and "m-large answers" in decision.reason
    assert (decision.cause, decision.confidences) == ("escalated", {WEAK: 0.2})
    assert [(s.pool, s.wasted) for s in spent.steps] == [(WEAK, True), (STRONG, False)]
    read = len("what?") + 1
    assert spent.usage == Usage(2 * read, len(UNSURE) + len("strong"))
    weak, strong = Price(1, 10), Price(100, 1000)
    cost = weak.cost_usd(Usage(read, len(UNSURE))) + strong.cost_usd(Usage(read, len("strong")))
    assert spent.cost_usd == pytest.approx(cost)


@BOTH
async def test_the_decision_records_each_step(stream: bool) -> None:
    decision, *_ = told(await run(cascade(pools(UNSURE)), stream=stream))
    assert decision.features == {"small:doubt": 0.2, "small:probability": 0.2, "small:threshold": 0.5}
    assert decision.expected["small"] == {"quality": 0.2} and decision.expected["chain"] == {"quality": 0.9}
    assert decision.decision_ms >= 0


@BOTH
@pytest.mark.parametrize("says", [SURE, UNSURE])
async def test_log_probabilities_that_only_the_judge_wants_are_not_shown(says: str, stream: bool) -> None:
    both = pools(says)
    events = await run(cascade(both), stream=stream)
    assert engine_of(both[WEAK]).queries[0].sampling.logprobs
    assert engine_of(both[WEAK]).queries[0].sampling.top_logprobs == 2
    assert all(not q.sampling.logprobs for q in engine_of(both[STRONG]).queries)
    bodies = [b for e in events[1:-1] for b in ([e.parsed] if isinstance(e, Answer) else e.events)]  # type: ignore[union-attr]
    assert bodies and [c["logprobs"] for b in bodies for c in b["choices"]] == [
        None for b in bodies for c in b["choices"]
    ]


@BOTH
async def test_what_is_shown_is_what_the_pool_alone_would_say(stream: bool) -> None:
    both, alone = pools(SURE), pools(SURE)[WEAK]
    shown = (await run(cascade(both), stream=stream))[1:-1]
    if stream:
        events = [e for frame in shown for e in frame.events]  # type: ignore[union-attr]
        assert events == [e async for frame in alone.stream(query(), CALL) for e in frame.events]
    else:
        assert shown[0].parsed == (await alone.complete(query(), CALL)).parsed  # type: ignore[union-attr]


@BOTH
async def test_a_caller_sees_as_many_alternatives_as_asked_for(stream: bool) -> None:
    asked = query(logprobs=True, top_logprobs=1)
    events = await run(cascade(pools(SURE)), asked, stream=stream)
    bodies = [b for e in events[1:-1] for b in ([e.parsed] if isinstance(e, Answer) else e.events)]  # type: ignore[union-attr]
    entries = [t for b in bodies for c in b["choices"] if c["logprobs"] for t in c["logprobs"]["content"]]
    assert len(entries) == len(SURE) and {len(t["top_logprobs"]) for t in entries} == {1}


def with_tools() -> Query:
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    return replace(query(), tools=(tool,))


@BOTH
async def test_a_level_without_the_capability_is_not_asked(stream: bool) -> None:
    both = pools(SURE) | {STRONG: pool("strong", STRONG, capabilities=TOOLS)}
    decision, said, spent = told(await run(cascade(both), with_tools(), stream=stream))
    assert (decision.pool, said) == (STRONG, "strong") and "m-small does not support tools" in decision.reason
    assert engine_of(both[WEAK]).queries == [] and len(spent.steps) == 1


@BOTH
async def test_the_only_level_that_can_is_taken_unjudged(stream: bool) -> None:
    both = pools(UNSURE) | {WEAK: pool(UNSURE, capabilities=TOOLS)}
    decision, said, _ = told(await run(cascade(both), with_tools(), stream=stream))
    assert (decision.pool, said, decision.score) == (WEAK, UNSURE, None)
    assert (decision.cause, decision.confidences) == ("unchecked", {})


async def test_what_no_level_can_is_refused() -> None:
    with pytest.raises(UnsupportedParameter, match="tools"):
        await run(cascade(pools()), with_tools())


@BOTH
async def test_a_level_that_cannot_be_judged_is_asked_last_of_all(stream: bool) -> None:
    dumb = Capabilities(logprobs=False, max_context_tokens=4096)
    both = {WEAK: pool(SURE, capabilities=dumb), STRONG: pool("strong", STRONG)}
    decision, *_ = told(await run(cascade(both), stream=stream))
    assert decision.pool == STRONG and "without log-probabilities" in decision.reason
    both[STRONG] = pool("x", STRONG, fail_after=0, error=UpstreamError("died"))
    decision, said, _ = told(await run(cascade(both), stream=stream))
    assert (decision.pool, said, decision.cause) == (WEAK, SURE, "fallback")


@BOTH
async def test_of_several_choices_the_most_doubtful_counts(stream: bool) -> None:
    both = pools()
    engine_of(both[WEAK]).script = lambda q, i: list(SURE if i == 0 else UNSURE)
    decision, *_ = told(await run(cascade(both), query(n=2), stream=stream))
    assert decision.pool == STRONG and decision.score == 0.2
    engine_of(both[WEAK]).script = lambda q, i: list(SURE)
    events = await run(cascade(both), query(n=2), stream=stream)
    assert [text(events[1:-1], i) for i in (0, 1)] == [SURE, SURE]


async def test_every_level_gets_the_callers_parameters() -> None:
    both = pools(UNSURE)
    asked = query(stop=("zzz",), seed=7, max_tokens=50, temperature=0.5)
    await run(cascade(both), asked)
    for each in both.values():
        sent = engine_of(each).queries[0].sampling
        assert replace(sent, logprobs=False, top_logprobs=0) == asked.sampling


@BOTH
async def test_every_further_call_is_told_to_the_demand(stream: bool) -> None:
    demand = Demand()
    async with aclosing(cascade(pools(UNSURE)).run(query(), Context(CALL, stream, demand))) as events:
        async for _ in events:
            pass
    rates = demand.rates((WEAK, STRONG))
    assert rates["requested_per_s:small"] > 0 and rates["requested_per_s:large"] > 0


class Broken:
    """A judge that fails."""

    name, needs = "broken", Needs()

    def value(self, judged: object) -> float:
        raise ValueError("broken")


async def test_a_judge_that_fails_loses_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    decision, said, _ = told(await run(cascade(pools(SURE), Broken())))
    assert (decision.pool, said) == (STRONG, "strong") and "broken is undefined" in decision.reason
    assert "signal broken" in caplog.text


async def test_a_signal_that_tells_nothing_escalates() -> None:
    decision, *_ = told(await run(cascade(pools(""))))
    assert decision.pool == STRONG and "doubt is undefined" in decision.reason


async def test_route_tells_the_first_level_and_the_chain() -> None:
    both = pools()
    decision = await cascade(both).decide(query(), "d9")
    assert (decision.pool, decision.threshold, decision.id) == (WEAK, 0.5, "d9")
    assert all(part in decision.reason for part in ("m-small", "by doubt", "0.500", "then m-large"))
    assert engine_of(both[WEAK]).queries == []


async def test_completions_are_judged_too() -> None:
    asked = replace(query(), endpoint="completions")
    events = await run(cascade(pools(SURE)), asked)
    assert isinstance(events[1], Answer) and isinstance(events[-1], Spent)
    assert events[1].parsed["choices"][0]["text"] == SURE and events[1].parsed["choices"][0]["logprobs"] is None


@BOTH
async def test_an_escalated_conversation_stays_up(stream: bool) -> None:
    both = pools(SURE)
    asked = replace(query(), session=Session(STRONG, stays=True))
    decision, said, _ = told(await run(cascade(both), asked, stream=stream))
    assert (decision.pool, said, decision.cause) == (STRONG, "strong", "session")
    assert "the conversation stays with m-large" in decision.reason
    assert engine_of(both[WEAK]).queries == []


@BOTH
async def test_one_that_began_below_may_still_move_up(stream: bool) -> None:
    asked = replace(query(), session=Session(WEAK, stays=True))
    decision, *_ = told(await run(cascade(pools(UNSURE)), asked, stream=stream))
    assert (decision.pool, decision.cause) == (STRONG, "escalated")
    decision, *_ = told(await run(cascade(pools(SURE)), asked, stream=stream))
    assert (decision.pool, decision.cause) == (WEAK, "session")


@BOTH
async def test_a_conversation_comes_down_only_if_nothing_above_answers(stream: bool) -> None:
    both = pools(SURE)
    engine_of(both[STRONG]).fail_after = 0
    engine_of(both[STRONG]).error = UpstreamError("died")
    asked = replace(query(), session=Session(STRONG, stays=True))
    decision, *_ = told(await run(cascade(both), asked, stream=stream))
    assert (decision.pool, decision.cause) == (WEAK, "fallback")
