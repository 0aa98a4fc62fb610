"""Members that hang, die, say nothing or garbage; the caller who leaves. No call is ever left open."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engines.local_pool import LocalPool
from serve_app.ensemble.base import Fused, MemberCalls
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
from serve_app.types import Capabilities, Query
from serve_app.wire.frames import Answer, Call, Frame
from tests.cascade.fakes import CALL, engine_of, pool, query, run, told
from tests.ensemble.serving.fakes import assert_nothing_is_open, ensemble, members, plan
from tests.ensemble.serving.test_strategy import BOTH


def hanging(name: str) -> LocalPool:
    return pool("never", name, gate=asyncio.Event())


def dying(name: str, error: JethroError, after: int = 0) -> LocalPool:
    return pool("half an answer", name, fail_after=after, error=error)


@BOTH
async def test_a_member_that_hangs_stalls_nothing(stream: bool) -> None:
    pools = members(a="four", b=hanging("b"), c="four", d=hanging("d"))
    made = plan(tuple(pools), deadline_s=0.1, quorum=2)
    started = monotonic()
    decision, said, spent = told(await run(ensemble(pools, made, rank_s=9.0), stream=stream))
    assert said == "four" and monotonic() - started < 2.0
    assert "b was late" in decision.reason and "d was late" in decision.reason
    assert {s.pool: s.reason for s in spent.steps if s.pool in "bd"} == {"b": "late", "d": "late"}
    assert all(s.wasted for s in spent.steps if s.pool in "bd")
    assert_nothing_is_open(pools)
    assert [engine_of(pools[n]).cancelled for n in "bd"] == [1, 1], "their slots are free"


@BOTH
async def test_a_vote_that_is_decided_waits_for_no_one(stream: bool) -> None:
    pools = members(a="four", b="four", c="four", d=hanging("d"), e=hanging("e"))
    decision, said, _ = told(await run(ensemble(pools), stream=stream))
    assert said == "four" and "d was not needed" in decision.reason
    assert_nothing_is_open(pools)


@BOTH
async def test_a_vote_that_is_not_decided_waits_for_the_quorum(stream: bool) -> None:
    """Two of five may still be overtaken, and before the quorum is there the plan's deadline does not count."""
    pools = members(a="four", b=pool("four", "b", first_delay_s=0.3), c=hanging("c"), d=hanging("d"))
    started = monotonic()
    made = plan(tuple(pools), deadline_s=0.05, quorum=2)
    decision, said, _ = told(await run(ensemble(pools, made), stream=stream))
    assert said == "four" and 0.25 < monotonic() - started < 2.0 and "2 candidates of" in decision.reason


@BOTH
async def test_the_callers_deadline_counts_too(stream: bool) -> None:
    pools = members(a="four", b=hanging("b"), c=hanging("c"))
    call = replace(CALL, deadline_s=monotonic() + 0.5)
    decision, said, _ = told(await run(ensemble(pools), stream=stream, call=call))
    assert said == "four" and monotonic() < call.deadline_s  # type: ignore[operator]
    assert "b was late" in decision.reason and decision.reason.endswith("m-a answers")
    assert_nothing_is_open(pools)


@BOTH
async def test_without_any_answer_the_deadline_is_an_error(stream: bool) -> None:
    pools = members(a=hanging("a"), b=hanging("b"))
    with pytest.raises(DeadlineExceeded):
        await run(ensemble(pools), stream=stream, call=replace(CALL, deadline_s=monotonic() + 0.2))
    assert_nothing_is_open(pools)


@BOTH
@pytest.mark.parametrize("after", [0, 3])
async def test_a_member_that_dies_is_left_out(after: int, stream: bool) -> None:
    pools = members(a=dying("a", UpstreamError("died"), after), b="five")
    decision, said, spent = told(await run(ensemble(pools), stream=stream))
    assert (decision.pool, said) == ("b", "five") and "a failed: upstream_error" in decision.reason
    assert [(s.pool, s.failed, s.wasted) for s in spent.steps] == [("a", True, True), ("b", False, False)]


@BOTH
async def test_a_pool_that_breaks_its_contract_is_left_out(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(LocalPool):
        async def complete(self, asked: Query, call: Call) -> Answer:
            raise ZeroDivisionError

        async def stream(self, asked: Query, call: Call) -> AsyncGenerator[Frame]:
            raise ZeroDivisionError
            yield

    pools = members(a="four") | {"b": Broken("b", engine_of(pool("x", "b")))}
    decision, said, _ = told(await run(ensemble(pools), stream=stream))
    assert said == "four" and "b failed: upstream_error" in decision.reason and "pool b failed" in caplog.text


@BOTH
@pytest.mark.parametrize("select", ["vote", "ranker", "logprob", "last"])
async def test_answers_that_say_nothing_do_not_win(select: str, stream: bool) -> None:
    async def rank(source: str, texts: list[str], models: list[str]) -> list[float]:
        return [-float(len(text)) for text in texts]

    pools = members(a="four", b="", c="  ", d="")
    strategy = ensemble(pools, plan(tuple(pools), select=select), rank=rank)  # type: ignore[arg-type]
    decision, said, _ = told(await run(strategy, stream=stream))
    assert (decision.pool, said) == ("a", "four") and "b says nothing" in decision.reason


@BOTH
async def test_answers_that_were_cut_off_do_not_win(stream: bool) -> None:
    pools = members(a="four", b="five and more", c="five and more")
    decision, said, _ = told(await run(ensemble(pools), query(max_tokens=4), stream=stream))
    assert said == "four" and "b was cut off by its length" in decision.reason


@BOTH
async def test_json_that_was_requested_and_is_none_does_not_win(stream: bool) -> None:
    can = Capabilities(guided=True, max_context_tokens=4096)
    pools = {n: pool(s, n, capabilities=can) for n, s in {"a": '{"x": 1}', "b": "x is 1", "c": "x is 1"}.items()}
    asked = replace(query(), response_format={"type": "json_object"})
    decision, said, _ = told(await run(ensemble(pools), asked, stream=stream))
    assert said == '{"x": 1}' and "b is not the JSON requested" in decision.reason


class Garbage(LocalPool):
    """Sends what is no answer of OpenAI's shape."""

    async def complete(self, asked: Query, call: Call) -> Answer:
        return Answer(b'{"choices": [{"index": 0, "message": 7')

    async def stream(self, asked: Query, call: Call) -> AsyncGenerator[Frame]:
        yield Frame(b'data: {"choices": [{"index": 0, "delta": 7}]}\n\n')


@BOTH
async def test_garbage_is_left_out(stream: bool) -> None:
    pools = members(a="four") | {"b": Garbage("b", engine_of(pool("x", "b")))}
    decision, said, _ = told(await run(ensemble(pools), stream=stream))
    assert said == "four" and "b failed: upstream_error" in decision.reason


@BOTH
@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ((Overloaded("first"), UpstreamError("second")), Overloaded),
        ((UpstreamError("first"), DeadlineExceeded("second")), DeadlineExceeded),
        ((UpstreamError("first"), RequestError("second")), RequestError),
        ((ContextLengthExceeded("first"), UpstreamError("second")), ContextLengthExceeded),
    ],
)
async def test_where_all_fail_the_most_relevant_error_is_raised(
    errors: tuple[JethroError, ...], raised: type[JethroError], stream: bool
) -> None:
    pools = {n: dying(n, error) for n, error in zip("ab", errors, strict=True)}
    strategy, context = ensemble(pools), Context(CALL, stream)
    with pytest.raises(raised):
        async for _ in strategy.run(query(), context):
            pass
    assert [(s.pool, s.failed) for s in context.ledger.standing()] == [("a", True), ("b", True)]
    assert_nothing_is_open(pools)


@BOTH
async def test_where_all_are_asleep_one_is_waited_for(stream: bool) -> None:
    class Asleep(LocalPool):
        def stream(self, asked: Query, call: Call) -> AsyncGenerator[Frame]:
            if not call.may_wait:
                raise PoolUnavailable("asleep")
            return super().stream(asked, call)

        async def complete(self, asked: Query, call: Call) -> Answer:
            if not call.may_wait:
                raise PoolUnavailable("asleep")
            return await super().complete(asked, call)

    pools: dict[str, LocalPool] = {n: Asleep(n, engine_of(pool("four", n))) for n in "ab"}
    _, said, spent = told(await run(ensemble(pools), stream=stream))
    assert said == "four" and [s.failed for s in spent.steps] == [True, True, False, False]


@BOTH
async def test_a_second_round_that_fails_leaves_the_first(stream: bool) -> None:
    pools = members(a="four", b="five", c=dying("c", UpstreamError("died")))
    for select in ("vote", "last"):
        made = plan(("a", "b"), ("c",), select=select, stop_at=0.9)  # type: ignore[arg-type]
        decision, said, _ = told(await run(ensemble(pools, made), stream=stream))
        assert said == "five" and "c failed: upstream_error" in decision.reason


@BOTH
async def test_no_round_begins_after_the_plans_deadline(stream: bool) -> None:
    pools = members(a=pool("four", "a", first_delay_s=0.1), b="five")
    made = plan(("a",), ("b",), select="last", stop_at=2.0, deadline_s=0.05)
    decision, said, _ = told(await run(ensemble(pools, made), stream=stream))
    assert said == "four" and "no time for round 2 of 2" in decision.reason and not engine_of(pools["b"]).queries


@BOTH
async def test_a_last_member_that_hangs_is_replaced_by_what_there_is(stream: bool) -> None:
    pools = members(a="four", b=hanging("b"))
    made = plan(("a",), ("b",), select="last", stop_at=2.0, deadline_s=0.1)
    decision, said, _ = told(await run(ensemble(pools, made), stream=stream))
    assert (decision.pool, said) == ("a", "four")
    assert_nothing_is_open(pools)


async def hang(*_: object) -> object:
    await asyncio.Event().wait()
    return None


async def explode(*_: object) -> object:
    raise ValueError("no")


async def nonsense(*_: object) -> object:
    return [float("nan")]


@BOTH
@pytest.mark.parametrize(
    ("rank", "why"),
    [
        (hang, "the ranker gave no scores in time: by vote"),
        (explode, "the ranker failed (ValueError): by vote"),
        (nonsense, "the ranker failed (ValueError): by vote"),
        (None, "the ranker failed (LookupError): by vote"),
    ],
)
async def test_a_ranker_that_fails_or_is_late_leaves_the_vote(
    rank: Callable[..., object], why: str, stream: bool
) -> None:
    pools = members(a="four", b="five", c="four")
    made = plan(tuple(pools), select="ranker", expected={"quality:b": 0.9})
    decision, said, _ = told(await run(ensemble(pools, made, rank=rank, rank_s=0.05), stream=stream))
    assert said == "four" and why in decision.reason
    pools = members(a="four", b="five", c="six")
    decision, said, _ = told(await run(ensemble(pools, made, rank=rank, rank_s=0.05), stream=stream))
    assert said == "five" and why in decision.reason, "without a plurality the best member of the fit"


async def unused(*_: object) -> Fused:
    return Fused("four", reason="the candidates do not fit")


async def empty(*_: object) -> Fused:
    return Fused(" ", (0, 1))


@BOTH
@pytest.mark.parametrize(
    ("fuser", "why"),
    [
        (hang, "in time"),
        (explode, "failed (ValueError)"),
        (unused, "the candidates do not fit"),
        (empty, "wrote nothing"),
    ],
)
async def test_a_fuser_that_fails_or_is_late_leaves_the_best(
    fuser: Callable[..., object], why: str, stream: bool
) -> None:
    pools = members(a="four", b="five", c="four")
    made = plan(tuple(pools), fuse_top=2)
    decision, said, spent = told(await run(ensemble(pools, made, fuse=fuser, fuse_s=0.05), stream=stream))
    assert said == "four" and "not fused: " in decision.reason and why in decision.reason
    assert sum(not s.wasted for s in spent.steps) == 1


@BOTH
@pytest.mark.parametrize("fuser", [hanging("f"), dying("f", UpstreamError("died"))], ids=["hangs", "dies"])
async def test_a_pool_that_fails_to_fuse_leaves_the_best(fuser: LocalPool, stream: bool) -> None:
    pools = members(a="four", b="five", c="four", f=fuser)
    made = plan(("a", "b", "c"), fuse_top=2)
    decision, said, spent = told(await run(ensemble(pools, made, fuse_pool="f", fuse_s=0.05), stream=stream))
    assert said == "four" and decision.pool == "c" and [s.wasted for s in spent.steps if s.pool == "f"] == [True]
    assert_nothing_is_open(pools)


@BOTH
@pytest.mark.parametrize("number", [2, 50])
async def test_the_caller_who_leaves_cancels_every_call(number: int, stream: bool) -> None:
    pools = {f"p{i}": pool("y" * 1000, f"p{i}", delay_s=0.01) for i in range(number)} | members(a="four")
    context = Context(CALL, stream)
    running = asyncio.create_task(consume(ensemble(pools), context))
    while sum(engine_of(p).running for p in pools.values()) < number:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()  # the server and the request's own watch both do
    with pytest.raises(asyncio.CancelledError):
        await running
    assert_nothing_is_open(pools)
    steps = context.ledger.standing()
    assert len(steps) == number + 1 and all(s.wasted for s in steps)
    assert {s.reason for s in steps if s.pool != "a"} == {"cancelled"}
    assert next(s for s in steps if s.pool == "a").usage.completion_tokens == 4


async def consume(strategy: object, context: Context) -> None:
    async with aclosing(strategy.run(query(), context)) as events:  # type: ignore[attr-defined]
        async for _ in events:
            pass


async def test_a_reader_who_leaves_a_relayed_stream_closes_it() -> None:
    pools = members(a="four", b=pool("y" * 1000, "b", delay_s=0.001))
    made = plan(("a",), ("b",), select="last", stop_at=2.0)
    async with aclosing(ensemble(pools, made).run(query(), Context(CALL, True))) as events:
        await anext(events)
        await anext(events)
        assert engine_of(pools["b"]).running == 1
    assert_nothing_is_open(pools)


BEHAVIOURS = ("answers", "differs", "nothing", "hangs", "dies", "half", "full", "refuses", "slow")


def behaving(kind: str, name: str) -> LocalPool:
    made: dict[str, Callable[[], LocalPool]] = {
        "answers": lambda: pool("four", name),
        "differs": lambda: pool(f"five {name}", name),
        "nothing": lambda: pool("", name),
        "hangs": lambda: hanging(name),
        "dies": lambda: dying(name, UpstreamError("died")),
        "half": lambda: dying(name, UpstreamError("died"), 4),
        "full": lambda: dying(name, Overloaded("full")),
        "refuses": lambda: dying(name, RequestError("bad")),
        "slow": lambda: pool("four", name, first_delay_s=0.02),
    }
    return made[kind]()


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(BEHAVIOURS), min_size=1, max_size=5),
    select=st.sampled_from(["vote", "ranker", "logprob", "last"]),
    split=st.integers(0, 4),
    samples=st.integers(1, 3),
    leaves=st.sampled_from([None, 0, 1, 5]),
    stream=st.booleans(),
    fuses=st.sampled_from([None, explode, unused]),
)
def test_no_call_is_open_after_any_run(  # type: ignore[no-untyped-def]
    kinds, select, split, samples, leaves, stream, fuses
) -> None:
    asyncio.run(no_call_is_open(kinds, select, split, samples, leaves, stream, fuses))


async def no_call_is_open(kinds, select, split, samples, leaves, stream, fuses) -> None:  # type: ignore[no-untyped-def]
    pools = {f"p{i}": behaving(kind, f"p{i}") for i, kind in enumerate(kinds)}
    calls = [MemberCalls(name, samples) for name in pools]
    rounds = [part for part in (calls[:split], calls[split:]) if part]
    made = plan(*rounds, select=select, stop_at=0.9, deadline_s=0.03, fuse_top=2)
    strategy = ensemble(pools, made, rank=explode, fuse=fuses, rank_s=0.01, fuse_s=0.01)
    context = Context(replace(CALL, deadline_s=monotonic() + 0.15), stream)
    with suppress(JethroError):
        async with aclosing(strategy.run(query(), context)) as events:
            taken = 0
            async for _ in events:
                taken += 1
                if taken == leaves:
                    break
    assert_nothing_is_open(pools)
    assert len(context.ledger.standing()) >= len(rounds[0])


@BOTH
async def test_a_pool_that_cannot_read_all_candidates_fuses_fewer(stream: bool) -> None:
    pools = members(a="four" * 200, b="five", c="six" * 3)
    pools["f"] = pool("fused", "f", capabilities=Capabilities(max_context_tokens=1500))
    made = plan(("a", "b", "c"), fuse_top=3, expected={"quality:b": 0.9, "quality:c": 0.8, "quality:a": 0.1})
    decision, said, spent = told(await run(ensemble(pools, made, fuse_pool="f"), stream=stream))
    assert said == "fused" and decision.reason.endswith("m-f fuses b, c")
    assert [s.failed for s in spent.steps if s.pool == "f"] == [True, False]
