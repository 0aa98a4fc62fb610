import asyncio
from contextlib import aclosing

import pytest

from serve_app.errors import (
    ContextLengthExceeded,
    JethroError,
    Overloaded,
    PoolUnavailable,
    RequestError,
    UnsupportedParameter,
    UpstreamError,
)
from serve_app.routing.strategy import DirectStrategy, RouteStrategy
from serve_app.strategy import Context, Event, Spent, Strategy
from serve_app.types import Capabilities, Decision, Query, Sampling, Usage
from serve_app.wire.frames import Answer, Frame
from tests.routing.fakes import CALL, FakePool, FakeRouter, query, served


def route(score: float = 0.9, weak: FakePool | None = None, strong: FakePool | None = None) -> RouteStrategy:
    return RouteStrategy(
        "route", served(FakeRouter(score)), 0.5, (weak or FakePool("small"), strong or FakePool("large"))
    )


async def events(strategy: Strategy, asked: Query | None = None, *, stream: bool = True) -> list[Event]:
    return [e async for e in strategy.run(asked or query(), Context(CALL, stream))]


@pytest.mark.parametrize(("score", "pool"), [(0.5, "large"), (0.499, "small"), (1.0, "large"), (0.0, "small")])
async def test_score_against_threshold_picks_the_pool(score: float, pool: str) -> None:
    decision = (await events(route(score)))[0]
    assert isinstance(decision, Decision)
    assert (decision.pool, decision.model, decision.score, decision.threshold) == (pool, f"m-{pool}", score, 0.5)
    assert decision.id == "d1" and decision.router == "fake" and decision.policy_version == "fake@0.5"
    assert decision.cause == ("score_above" if pool == "large" else "score_below")


async def test_stream_gives_decision_then_frames_then_spent() -> None:
    told = await events(route())
    assert isinstance(told[0], Decision) and isinstance(told[-1], Spent)
    assert len(told) == 5 and all(isinstance(e, Frame) for e in told[1:-1])
    assert told[-1].usage == Usage(7, 2)
    assert told[-1].cost_usd == pytest.approx((7 * 1 + 2 * 10) / 1e6)
    assert [(s.pool, s.reason, s.wasted) for s in told[-1].steps] == [("large", "chosen", False)]


async def test_one_shot_gives_decision_answer_spent() -> None:
    decision, answer, spent = await events(route(), stream=False)
    assert isinstance(decision, Decision) and isinstance(answer, Answer) and isinstance(spent, Spent)
    assert answer.parsed["model"] == "m-large" and spent.usage == Usage(7, 2)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("score", [0.9, 0.1])
@pytest.mark.parametrize("error", [UpstreamError("died"), PoolUnavailable("none"), Overloaded("full")])
async def test_failure_before_the_first_byte_falls_back_either_way(
    error: JethroError, score: float, stream: bool
) -> None:
    chosen, other = ("large", "small") if score > 0.5 else ("small", "large")
    pools = {chosen: FakePool(chosen, error=error), other: FakePool(other)}
    told = await events(route(score, pools["small"], pools["large"]), stream=stream)
    assert isinstance(told[0], Decision) and isinstance(told[-1], Spent)
    assert told[0].pool == other and told[0].model == f"m-{other}"
    assert f"fallback to m-{other}: m-{chosen} failed: {error.code}" in told[0].reason
    assert told[0].cause == "fallback"
    assert [(s.pool, s.wasted) for s in told[-1].steps] == [(chosen, True), (other, False)]
    assert told[-1].usage == Usage(7, 2)


async def test_an_empty_stream_counts_as_a_failure() -> None:
    told = await events(route(0.9, strong=FakePool("large", empty=True)))
    assert isinstance(told[0], Decision) and told[0].pool == "small"


@pytest.mark.parametrize("stream", [True, False])
async def test_the_first_of_two_passing_errors_is_raised_when_both_fail(stream: bool) -> None:
    first, second = Overloaded("first", retry_after_s=3), UpstreamError("second")
    strategy = route(0.9, FakePool("small", error=second), FakePool("large", error=first))
    with pytest.raises(Overloaded, match="first"):
        await events(strategy, stream=stream)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_callers_own_mistake_does_not_fall_back(stream: bool) -> None:
    weak = FakePool("small")
    with pytest.raises(RequestError, match="bad"):
        await events(route(0.9, weak, FakePool("large", error=RequestError("bad"))), stream=stream)
    assert weak.asked == 0


@pytest.mark.parametrize(("limit", "falls"), [(64, True), (32, False), (None, True)])
async def test_too_long_a_prompt_goes_to_a_larger_context_only(limit: int | None, falls: bool) -> None:
    weak = FakePool("small", error=ContextLengthExceeded("long"), can=Capabilities(max_context_tokens=32))
    strong = FakePool("large", can=Capabilities(max_context_tokens=limit))
    if not falls:
        with pytest.raises(ContextLengthExceeded):
            await events(route(0.1, weak, strong))
        return
    told = await events(route(0.1, weak, strong))
    assert isinstance(told[0], Decision) and told[0].pool == "large"


async def test_an_error_after_the_first_byte_is_final() -> None:
    weak = FakePool("small")
    told: list[Event] = []
    with pytest.raises(UpstreamError, match="cut"):
        async for event in route(0.9, weak, FakePool("large", cut=UpstreamError("cut"))).run(
            query(), Context(CALL, True)
        ):
            told.append(event)  # noqa: PERF401 - what came before the error is wanted
    assert [type(e) for e in told] == [Decision, Frame] and weak.asked == 0


@pytest.mark.parametrize("direct", [True, False])
async def test_nothing_is_chosen_or_asked_before_the_first_event_is_wanted(direct: bool) -> None:
    pool, asked = FakePool("large"), query(tools=({"type": "function"},))
    strategy: Strategy = DirectStrategy(pool) if direct else route(0.9, FakePool("small"), pool)
    run = strategy.run(asked, Context(CALL, True))
    with pytest.raises(UnsupportedParameter):
        await anext(run)
    assert pool.asked == 0


@pytest.mark.parametrize("direct", [True, False])
async def test_closing_the_iterator_closes_the_pools(direct: bool) -> None:
    pool = FakePool("large")
    strategy: Strategy = DirectStrategy(pool) if direct else route(0.9, strong=pool)
    async with aclosing(strategy.run(query(), Context(CALL, True))) as run:
        await anext(run)
        await anext(run)
        assert (pool.asked, pool.closed) == (1, 0)
    assert pool.closed == 1


async def test_cancelling_the_reader_closes_the_pools_iterator() -> None:
    pool = FakePool("large", hang=True)
    task = asyncio.ensure_future(events(route(0.9, strong=pool)))
    await pool.yielded.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.closed == 1


NEEDS = [
    ("tools", query(tools=({"type": "function"},)), Capabilities(tools=True)),
    ("response_format", query(response_format={"type": "json_object"}), Capabilities(guided=True)),
    ("logprobs", query(sampling=Sampling(logprobs=True)), Capabilities(logprobs=True)),
    ("guided_regex", query(extra={"guided_regex": "a+"}), Capabilities(guided=True)),
]


@pytest.mark.parametrize(("param", "asked", "able"), NEEDS)
async def test_a_pool_that_cannot_is_passed_over_and_never_asked(param: str, asked: Query, able: Capabilities) -> None:
    unable = Capabilities(logprobs=False)
    strategy = route(0.9, FakePool("small", can=able), strong := FakePool("large", can=unable))
    decision = (await events(strategy, asked))[0]
    assert isinstance(decision, Decision)
    assert decision.pool == "small" and f"m-large does not support {param}" in decision.reason
    assert decision.cause == "unable"
    assert strong.asked == 0


@pytest.mark.parametrize(("param", "asked", "able"), NEEDS)
async def test_no_fallback_to_a_pool_that_cannot(param: str, asked: Query, able: Capabilities) -> None:
    weak = FakePool("small", can=Capabilities(logprobs=False))
    strong = FakePool("large", can=able, error=UpstreamError("died"))
    with pytest.raises(UpstreamError):
        await events(route(0.9, weak, strong), asked)
    assert weak.asked == 0


@pytest.mark.parametrize(("param", "asked", "able"), NEEDS)
async def test_refused_by_name_if_no_pool_can(param: str, asked: Query, able: Capabilities) -> None:
    unable = Capabilities(logprobs=False)
    strategy = route(0.9, FakePool("small", can=unable), FakePool("large", can=unable))
    for refused in (strategy, DirectStrategy(FakePool("large", can=unable))):
        with pytest.raises(UnsupportedParameter) as raised:
            await refused.decide(asked, "d")
        assert raised.value.param == param and "m-large" in raised.value.message


async def test_max_tokens_beyond_every_context_is_a_context_error() -> None:
    strategy = DirectStrategy(FakePool("large", can=Capabilities(max_context_tokens=32)))
    with pytest.raises(ContextLengthExceeded, match="max_tokens"):
        await strategy.decide(query(sampling=Sampling(max_tokens=32)), "d")


async def test_text_response_format_needs_nothing() -> None:
    assert (await route(0.9).decide(query(response_format={"type": "text"}), "d")).pool == "large"


async def test_features_are_told_by_decide_and_spared_on_the_hot_path() -> None:
    assert (await route().decide(query(), "d")).features == {"bias": 1.5}
    decision = (await events(route()))[0]
    assert isinstance(decision, Decision) and decision.features == {} and decision.decision_ms > 0


async def test_direct_asks_its_pool_alone_and_raises_its_error() -> None:
    told = await events(DirectStrategy(FakePool("small")))
    assert isinstance(told[0], Decision)
    assert (told[0].strategy, told[0].pool, told[0].score) == ("direct", "small", None)
    with pytest.raises(Overloaded):
        await events(DirectStrategy(FakePool("small", error=Overloaded("full"))))


@pytest.mark.parametrize("stream", [True, False])
async def test_without_a_score_the_strong_pool_answers_and_the_decision_says_so(stream: bool) -> None:
    told = await events(route(float("nan")), stream=stream)
    assert isinstance(told[0], Decision) and isinstance(told[-1], Spent)
    assert (told[0].pool, told[0].score, told[0].threshold, told[0].router) == ("large", None, 0.5, "fake")
    assert "score nan is not in [0, 1]" in told[0].reason and told[0].cause == "no_score"
    assert (await route(float("nan"), strong=FakePool("large", error=Overloaded("full"))).decide(query(), "d")).pool


async def test_without_a_score_a_failed_strong_pool_still_falls_back() -> None:
    told = await events(route(float("nan"), strong=FakePool("large", error=Overloaded("full"))))
    assert isinstance(told[0], Decision) and told[0].pool == "small" and "fallback to m-small" in told[0].reason


async def test_traffic_is_watched_and_explained_but_not_what_is_only_asked_about() -> None:
    class Watching:
        seen: list[float] = []  # noqa: RUF012

        def observe(self, query: Query, score: float) -> None:
            self.seen.append(score)

    router = served(FakeRouter(0.75))
    router.watch = Watching()  # type: ignore[assignment]
    strategy = RouteStrategy("route", router, 0.5, (FakePool("small"), FakePool("large")), explained=True)
    await strategy.decide(query(), "d")
    assert Watching.seen == []
    decision = (await events(strategy, query("abc")))[0]
    assert isinstance(decision, Decision) and decision.features == {"bias": 1.5} and Watching.seen == [0.75]


async def test_an_answer_does_not_wait_for_its_explanation() -> None:
    strategy, read = route(0.7), []

    class Features(dict[str, float]):
        def __len__(self) -> int:
            read.append("len")
            return super().__len__()

    decision, _ = await strategy._choose(query(), "d", Features(a=1.0))
    assert read == [] and decision.features == {"a": 1.0}
