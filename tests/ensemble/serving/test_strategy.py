"""What an ensemble returns and reports when its members answer."""

from dataclasses import replace

import orjson
import pytest

from serve_app.autoscaling.signals import Demand
from serve_app.ensemble.base import Fused, MemberCalls
from serve_app.errors import RequestError, UnsupportedParameter
from serve_app.strategy import Context, Spent
from serve_app.types import Capabilities, Chunk, TokenLogprob, Usage
from serve_app.wire.frames import Answer, Frame
from tests.cascade.fakes import CALL, TOOLS, engine_of, pool, query, run, text, told
from tests.ensemble.serving.fakes import assert_nothing_is_open, ensemble, members, plan

BOTH = pytest.mark.parametrize("stream", [False, True])
READ = len("what?") + 1


@BOTH
async def test_the_plurality_wins_in_its_own_bytes(stream: bool) -> None:
    pools = members(a="four", b="five", c="four!")
    events = await run(ensemble(pools), stream=stream)
    decision, said, spent = told(events)
    assert (decision.pool, said) == ("c", "four!"), "of those that say the same the strongest, here the last"
    assert decision.score == pytest.approx(2 / 3) and decision.policy_version == "ensemble-test"
    alone = members(c="four!")["c"]
    if stream:
        found = [e for frame in events[1:-1] for e in frame.events]  # type: ignore[union-attr]
        assert found == [e async for frame in alone.stream(query(), CALL) for e in frame.events]
    else:
        assert events[1].body == (await alone.complete(query(), CALL)).body  # type: ignore[union-attr]
    assert {(s.pool, s.wasted) for s in spent.steps} == {("a", True), ("b", True), ("c", False)}
    assert spent.usage == Usage(3 * READ, len("four") + len("five") + len("four!"))
    assert decision.cause == "picked" and spent.answered == Usage(READ, len("four!"))
    assert_nothing_is_open(pools)


@BOTH
async def test_the_decision_shows_votes_and_who_won(stream: bool) -> None:
    pools = members(a="four", b="five", c="four")
    made = plan(("a", "b", "c"), expected={"quality": 0.9, "quality:a": 0.8, "quality:c": 0.5})
    decision, *_ = told(await run(ensemble(pools, made), stream=stream))
    assert decision.pool == "a", "the strongest by its quality as fitted"
    assert "3 candidates of" in decision.reason and "2 of 3 votes" in decision.reason
    assert decision.reason.endswith("m-a answers")
    assert decision.features == {"a:votes": 2, "c:votes": 2, "b:votes": 1}
    assert decision.expected == {"ensemble": {"quality": 0.9}, "a": {"quality": 0.8}, "c": {"quality": 0.5}}


@BOTH
async def test_samples_come_in_one_call_and_the_winner_is_shown_alone(stream: bool) -> None:
    pools = members(a="")
    engine_of(pools["a"]).script = lambda q, i: list(["one", "two", "two"][i])
    made = plan((MemberCalls("a", 3),))
    events = await run(ensemble(pools, made), query(temperature=0.0, seed=3), stream=stream)
    decision, said, spent = told(events)
    assert said == "two" and decision.features == {"a#1:votes": 2, "a#2:votes": 2, "a#0:votes": 1}
    (sent,) = engine_of(pools["a"]).queries
    assert (sent.sampling.n, sent.sampling.seed) == (3, 3) and sent.sampling.temperature > 0
    assert spent.usage == Usage(READ, 9) and [s.wasted for s in spent.steps] == [False]
    assert spent.answered == Usage(READ, 3), "one of three samples"
    bodies = [b for e in events[1:-1] for b in ([e.parsed] if isinstance(e, Answer) else e.events)]  # type: ignore[union-attr]
    assert {c["index"] for b in bodies for c in b["choices"]} == {0}


@BOTH
async def test_a_pool_that_takes_no_n_is_called_as_often(stream: bool) -> None:
    pools = members(a="")
    engine = engine_of(pools["a"])
    engine.script = lambda q, i: list(str(q.sampling.seed))
    check = engine._check

    def refuse(asked: object) -> None:
        check(asked)  # type: ignore[arg-type]
        if asked.sampling.n > 1:  # type: ignore[attr-defined]
            raise RequestError("one at a time", param="n")

    engine._check = refuse  # type: ignore[method-assign]
    strategy = ensemble(pools, plan((MemberCalls("a", 3),)))
    for calls in (4, 3):
        engine.queries.clear()
        decision, _, spent = told(await run(strategy, query(seed=7), stream=stream))
        assert len(engine.queries) == calls, "it is tried once"
        assert sorted(q.sampling.seed for q in engine.queries if q.sampling.n == 1) == [7, 8, 9]  # type: ignore[type-var]
        assert len(spent.steps) == 3 and sum(not s.wasted for s in spent.steps) == 1
        assert "3 candidates of a x3, 3 distinct" in decision.reason
    assert_nothing_is_open(pools)


@BOTH
async def test_several_choices_are_of_one_model(stream: bool) -> None:
    pools = members(a="", b="", c="")
    for name, says in {"a": ("x", "y"), "b": ("x", "z"), "c": ("v", "w")}.items():
        engine_of(pools[name]).script = lambda q, i, says=says: list(says[i])  # type: ignore[misc]
    events = await run(ensemble(pools), query(n=2), stream=stream)
    decision, *_ = told(events)
    assert decision.pool == "b", "what it says has the most votes: x has two of six"
    assert [text(events[1:-1], i) for i in (0, 1)] == ["x", "z"]


@BOTH
@pytest.mark.parametrize("sure", [True, False])
async def test_rounds_end_once_the_answer_is_sure(sure: bool, stream: bool) -> None:
    pools = members(a="four", b="four" if sure else "five", c="five")
    made = plan(("a", "b"), ("c",), stop_at=0.9)
    decision, said, spent = told(await run(ensemble(pools, made), stream=stream))
    assert said == ("four" if sure else "five") and len(spent.steps) == (2 if sure else 3)
    assert decision.threshold == 0.9
    assert ("stopped after round 1 of 2: 1.000 >= 0.900" in decision.reason) == sure
    assert ("continued after round 1 of 2: 0.500 < 0.900" in decision.reason) == (not sure)
    assert len(engine_of(pools["c"]).queries) == (0 if sure else 1)


class Trusts:
    """An agreement model that believes one member alone."""

    def __init__(self, member: str, probability: float) -> None:
        self.member, self.right = member, probability

    def for_query(self, query: object) -> "Trusts":
        return self

    def probability(self, votes: object) -> tuple[str, float]:
        return next(v.answer for v in votes if v.member == self.member), self.right  # type: ignore[attr-defined]

    def sure(self, votes: object) -> float:
        return self.probability(votes)[1]


@BOTH
async def test_the_agreement_model_says_which_answer_leads(stream: bool) -> None:
    pools = members(a="four", b="five", c="five")
    decision, said, _ = told(await run(ensemble(pools, agreement=Trusts("a", 0.7)), stream=stream))
    assert said == "four" and decision.score == 0.7 and "P(right) 0.700" in decision.reason


@BOTH
async def test_an_agreement_model_that_fails_leaves_the_plurality(stream: bool) -> None:
    pools = members(a="four", b="five", c="five")
    decision, said, _ = told(await run(ensemble(pools, agreement=Trusts("gone", 0.7)), stream=stream))
    assert said == "five" and "agreement model failed: StopIteration" in decision.reason


@BOTH
async def test_the_ranker_sees_each_answer_once(stream: bool) -> None:
    seen = []

    async def rank(source: str, texts: object, models: object) -> list[float]:
        seen.append((source, sorted(texts)))  # type: ignore[call-overload]
        return [float(len(t)) for t in texts]  # type: ignore[attr-defined]

    pools = members(a="four", b="Four.", c="longest", d="four")
    made = plan(("a", "b", "c", "d"), select="ranker")
    decision, said, _ = told(await run(ensemble(pools, made, rank=rank), stream=stream))
    assert said == "longest" and decision.features["c:score"] == 7.0 and decision.features["a:votes"] == 3
    ((source, texts),) = seen
    assert source == "what?" and len(texts) == 2 and "longest" in texts
    assert "ranked first of 2 with 7.000" in decision.reason


@BOTH
async def test_the_most_probable_answer_by_its_tokens(stream: bool) -> None:
    pools = members(a="four", b="five")
    for name, value in (("a", -0.1), ("b", -0.7)):
        engine = engine_of(pools[name])

        async def chunks(asked: object, says: str = "four" if name == "a" else "five", value: float = value):  # type: ignore[no-untyped-def]
            yield Chunk(0, says, logprobs=(TokenLogprob(says, value),))
            yield Chunk(0, finish_reason="stop", usage=Usage(1, 1))

        engine._chunks = chunks  # type: ignore[method-assign,assignment]
    events = await run(ensemble(pools, plan(("a", "b"), select="logprob")), stream=stream)
    decision, said, _ = told(events)
    assert said == "four" and "mean log-probability -0.1000" in decision.reason
    assert all(q.sampling.logprobs for p in pools.values() for q in engine_of(p).queries)
    bodies = [b for e in events[1:-1] for b in ([e.parsed] if isinstance(e, Answer) else e.events)]  # type: ignore[union-attr]
    assert not any(c.get("logprobs") for b in bodies for c in b["choices"]), "the caller requested none"


@BOTH
async def test_the_last_member_answers_as_it_writes(stream: bool) -> None:
    pools = members(a="four", b="five")
    made = plan(("a",), ("b",), select="last", stop_at=2.0)
    events = await run(ensemble(pools, made), stream=stream)
    decision, said, spent = told(events)
    assert (decision.pool, said) == ("b", "five")
    assert [(s.pool, s.wasted) for s in spent.steps] == [("a", True), ("b", False)]
    assert spent.usage == Usage(2 * READ, 8)


@BOTH
@pytest.mark.parametrize("number", [1, 50])
async def test_one_candidate_and_fifty(number: int, stream: bool) -> None:
    pools = members(a="")
    engine_of(pools["a"]).script = lambda q, i: list("odd" if i % 3 else "even")
    decision, said, spent = told(await run(ensemble(pools, plan((MemberCalls("a", number),))), stream=stream))
    assert said == ("even" if number == 1 else "odd")
    assert spent.usage.completion_tokens == sum(len("odd" if i % 3 else "even") for i in range(number))
    assert len(decision.features) <= 12


async def test_a_stream_that_is_compared_with_none_is_relayed_as_it_is_written() -> None:
    slow = pool("abc", "a", delay_s=0.02)
    events = ensemble({"a": slow}).run(query(), Context(CALL, True))
    arrived = [engine_of(slow).running async for event in events if isinstance(event, Frame)]
    assert len(arrived) > 2 and arrived[0] == 1


TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def calls_tool(made: object, arguments: str) -> None:
    async def chunks(asked: object):  # type: ignore[no-untyped-def]
        call = {"index": 0, "id": "c", "type": "function", "function": {"name": "add", "arguments": arguments}}
        yield Chunk(0, tool_calls=(call,))
        yield Chunk(0, finish_reason="tool_calls", usage=Usage(1, 1))

    engine_of(made)._chunks = chunks  # type: ignore[arg-type,method-assign,assignment]


@BOTH
async def test_tool_calls_are_compared_by_what_they_mean(stream: bool) -> None:
    pools = {n: pool("", n, capabilities=TOOLS) for n in "abc"} | {"d": pool("no tools", "d")}
    for name, arguments in {"a": '{"x":1,"y":2}', "b": '{"y": 2, "x": 1}', "c": '{"x":9,"y":2}'}.items():
        calls_tool(pools[name], arguments)
    asked = replace(query(), tools=(TOOL,))
    events = await run(ensemble(pools), asked, stream=stream)
    decision, *_ = told(events)
    assert decision.pool == "b" and "2 of 3 votes" in decision.reason
    assert "m-d does not support tools" in decision.reason and not engine_of(pools["d"]).queries
    body = b"".join(e.body if isinstance(e, Answer) else e.data for e in events[1:-1])  # type: ignore[union-attr]
    assert orjson.dumps('{"y": 2, "x": 1}') in body


async def test_what_no_member_can_is_refused() -> None:
    with pytest.raises(UnsupportedParameter, match=r"tools .*m-a or m-b"):
        await run(ensemble(members(a="x", b="y")), replace(query(), tools=(TOOL,)))


@BOTH
async def test_adapters_are_called_by_name(stream: bool) -> None:
    able = Capabilities(adapters=True, max_context_tokens=4096)
    pools = {"a": pool("x", "a", capabilities=able), "b": pool("x", "b")}
    made = plan((MemberCalls("a", adapter="legal"), MemberCalls("b", adapter="none"), "a"))
    decision, _, spent = told(await run(ensemble(pools, made), stream=stream))
    assert sorted(str(q.adapter) for q in engine_of(pools["a"]).queries) == ["None", "legal"]
    assert "m-b does not support model" in decision.reason and len(spent.steps) == 2
    assert set(decision.features) == {"a:votes", "a/legal:votes"}


@BOTH
async def test_every_call_is_demand(stream: bool) -> None:
    demand, pools = Demand(), members(a="x", b="y")
    made = plan((MemberCalls("a", 2), "b"))
    async for _ in ensemble(pools, made).run(query(), Context(CALL, stream, demand)):
        pass
    rates = demand.rates(("a", "b"))
    assert rates["requested_per_s:a"] > 0 and rates["requested_per_s:b"] > 0


async def fuse_all(source: str, texts: object) -> Fused:
    return Fused(" and ".join(texts), tuple(range(len(texts))))  # type: ignore[arg-type]


@BOTH
async def test_the_best_are_fused(stream: bool) -> None:
    pools = members(a="four", b="five", c="four")
    made = plan(("a", "b", "c"), fuse_top=2)
    events = await run(ensemble(pools, made, fuse=fuse_all), stream=stream)
    decision, said, spent = told(events)
    assert said == "four and five" and decision.reason.endswith("fused from c, b") and decision.cause == "fused"
    assert {(s.pool, s.wasted) for s in spent.steps} == {("a", True), ("b", False), ("c", False)}
    last = events[-2]
    usage = last.parsed["usage"] if isinstance(last, Answer) else last.usage  # type: ignore[union-attr]
    assert usage == spent.usage.to_openai()


@BOTH
async def test_a_pool_fuses_by_prompt(stream: bool) -> None:
    pools = members(a="four", b="five", c="fused")
    strategy = ensemble(pools, plan(("a", "b"), fuse_top=2), fuse_pool="c")
    decision, said, spent = told(await run(strategy, stream=stream))
    assert (decision.pool, said) == ("c", "fused") and decision.reason.endswith("m-c fuses b, a")
    (asked,) = engine_of(pools["c"]).queries
    assert asked.messages[-1].content.startswith("what?")
    assert asked.messages[-1].content.index("five") < asked.messages[-1].content.index("four")
    assert [s.wasted for s in spent.steps] == [False] * 3
    assert spent.answered == Usage(READ, len("fused")), "one model would have read the query, not the candidates"


@BOTH
@pytest.mark.parametrize(
    ("asked", "why"),
    [({"n": 2}, "n > 1"), ({"logprobs": True}, "logprobs"), ({"stop": ("x",)}, "stop"), ({"max_tokens": 2}, "length")],
)
async def test_what_holds_for_a_models_own_answer_is_not_fused(asked: dict, why: str, stream: bool) -> None:
    pools = members(a="four", b="five")
    decision, said, _ = told(
        await run(ensemble(pools, plan(("a", "b"), fuse_top=2), fuse=fuse_all), query(**asked), stream=stream)
    )
    assert said in ("four", "five", "fi") and "not fused" in decision.reason and why in decision.reason


async def test_route_shows_the_plan_and_calls_no_pool() -> None:
    pools = members(a="x", b="y")
    made = plan((MemberCalls("a", 4),), ("b",), stop_at=0.8, expected={"quality": 0.9})
    decision = await ensemble(pools, made).decide(query(), "d9")
    assert decision.id == "d9" and decision.threshold == 0.8 and decision.pool == "a"
    assert decision.reason == "calls a x4; then b; picks by vote"
    assert not engine_of(pools["a"]).queries


async def test_completions_are_answered_too() -> None:
    events = await run(ensemble(members(a="x", b="x")), replace(query(), endpoint="completions"))
    assert isinstance(events[1], Answer) and isinstance(events[-1], Spent)
    assert events[1].parsed["choices"][0]["text"] == "x"
