"""Tiers, checks and escalation, over engines that say what a test has them say."""

import asyncio
import json
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from math import exp
from typing import Any

import pytest

from serve_app.config.guards import GuardsConfig
from serve_app.config.orchestration import TaskConfig
from serve_app.config.placement import PersonalDataConfig
from serve_app.errors import ModelNotFound, RequestError, UnsupportedParameter, UpstreamError
from serve_app.gateway.orchestration import judge_of
from serve_app.guards.answers import guarded
from serve_app.guards.chain import Guards
from serve_app.orchestration.tasks import sent_to
from serve_app.strategy import Context
from serve_app.types import Capabilities, Message, Query, Sampling
from serve_app.wire.frames import Answer, Frame
from tests.cascade.fakes import CALL, run, told
from tests.orchestration.fakes import ABLE, call, engine_of, orchestration, pool, tool

BOTH = pytest.mark.parametrize("stream", [False, True])
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
JSON = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


def row(**settings: Any) -> TaskConfig:
    return TaskConfig.model_validate({"tiers": [{"pool": "small"}, {"pool": "large"}], **settings})


def ask(text: str = "what?", **fields: Any) -> Query:
    return Query((Message("user", text),), fields.pop("sampling", Sampling()), **fields)


@BOTH
async def test_the_first_tier_answers_what_passes(stream: bool) -> None:
    small, large = pool("small", "fine"), pool("large")
    decision, said, spent = told(await run(orchestration([small, large]), ask(), stream=stream))
    assert (said, decision.pool, decision.task, decision.strategy) == ("fine", "small", "default", "orchestrate")
    assert (decision.score, decision.threshold, decision.expected, decision.features) == (None, None, {}, {})
    assert decision.reason == "small: passed its checks; task default (no task); m-small answers"
    assert (decision.cause, decision.confidences) == ("accepted", {}), "checks say nothing of a probability"
    assert [step.wasted for step in spent.steps] == [False] and not engine_of(large).queries


@BOTH
@pytest.mark.parametrize(
    ("says", "query", "why"),
    [
        ("no json", {"response_format": JSON}, "it is no JSON"),
        ('{"n": "one"}', {"response_format": JSON}, "does not fit its schema: $.n breaks 'type'"),
        ("[]", {"response_format": {"type": "json_object"}}, "it is no JSON object"),
        ("", {}, "it says nothing"),
    ],
)
async def test_an_answer_that_fails_is_not_sent(says: str, query: dict[str, Any], why: str, stream: bool) -> None:
    small, large = pool("small", says), pool("large", '{"n": 1}')
    decision, said, spent = told(await run(orchestration([small, large]), ask(**query), stream=stream))
    assert said == '{"n": 1}' and decision.pool == "large" and why in decision.reason
    assert decision.cause == "escalated"
    assert [(s.pool, s.wasted) for s in spent.steps] == [("small", True), ("large", False)]


@BOTH
async def test_operators_checks(stream: bool) -> None:
    checks = {"matches": r"\d+", "declines": ["only know"]}
    for says in ("many", "i only know small tasks"):
        strategy = orchestration([pool("small", says), pool("large", "7")], default=row(checks=checks))
        assert told(await run(strategy, ask(), stream=stream))[1] == "7"


@BOTH
async def test_a_guards_verdict_escalates_and_its_text_is_never_sent(stream: bool) -> None:
    words = {
        "name": "words",
        "kind": "patterns",
        "texts": ["output"],
        "patterns": [{"category": "code", "words": ["xyzzy"]}],
    }
    config = GuardsConfig.model_validate({"chain": [words]})
    guards = Guards(config, config.chain, PersonalDataConfig(), {})
    strategy = orchestration([pool("small", "say xyzzy"), pool("large", "fine")], judge=judge_of(guards))
    decision, said, _ = told(await run(strategy, ask(), stream=stream))
    assert said == "fine" and "guards stop it (words.code)" in decision.reason and "xyzzy" not in decision.reason


@BOTH
@pytest.mark.parametrize(("verdicts", "said"), [(("safe",), "one"), (("unsafe violence", "safe"), "two")])
async def test_a_classifier_judges_an_answer_once(stream: bool, verdicts: tuple[str, ...], said: str) -> None:
    """Orchestration asks it to know whether to escalate; the guard of the way out has nothing to ask again."""
    judge = pool("judge", *verdicts, can=Capabilities(logprobs=False))
    config = GuardsConfig.model_validate(
        {"chain": [{"name": "judge", "kind": "classifier", "pool": "judge", "texts": ["output"]}]}
    )
    guards = Guards(config, config.chain, PersonalDataConfig(), {"judge": judge})
    strategy = orchestration([pool("small", "one"), pool("large", "two")], judge=judge_of(guards))
    context, texts, found = Context(CALL, stream), "", Counter[str]()
    async for event in guarded(strategy.run(ask(), context), guards, ask(), context, found.update):
        for body in event.events if isinstance(event, Frame) else [event.parsed] if isinstance(event, Answer) else []:
            for choice in body["choices"]:
                texts += (choice.get("delta") or choice.get("message") or {}).get("content") or ""
    assert texts == said and len(engine_of(judge).queries) == len(verdicts)


async def test_an_answer_that_failed_a_check_is_not_returned_where_the_next_tier_fails() -> None:
    large = pool("large", fail_after=0, error=UpstreamError("away"))
    engine_of(large).turns = ("x",)

    async def broken(query: Query) -> Any:
        raise UpstreamError("away")
        yield

    engine_of(large)._chunks = broken  # type: ignore[method-assign]
    strategy = orchestration([pool("small", "no json"), large])
    with pytest.raises(UpstreamError, match="away"):
        await run(strategy, ask(response_format=JSON))


@BOTH
async def test_low_confidence_escalates_and_its_logprobs_stay_here(stream: bool) -> None:
    default = row(tiers=[{"pool": "small", "min_confidence": 0.9}, {"pool": "large"}])
    for sure, answers in ((-0.5, "large"), (-0.01, "small")):
        small = pool("small", "a", sure=sure)
        events = await run(orchestration([small, pool("large", "b")], default=default), ask(), stream=stream)
        assert told(events)[0].pool == answers
        assert told(events)[0].confidences == {"small": pytest.approx(exp(sure))}
        assert engine_of(small).queries[0].sampling.logprobs
        assert b'"logprobs":{' not in b"".join(getattr(e, "data", getattr(e, "body", b"")) for e in events[1:-1])


async def test_a_prompt_too_long_for_the_first_tier_goes_to_one_with_room() -> None:
    tiny = Capabilities(guided=True, max_context_tokens=8)
    decision, said, _ = told(await run(orchestration([pool("small", can=tiny), pool("large", "ok")]), ask("x" * 50)))
    assert (decision.pool, said) == ("large", "ok") and "context_length_exceeded" in decision.reason


async def test_only_tiers_that_can_do_what_it_takes_are_called() -> None:
    poor = Capabilities(max_context_tokens=4096)
    small, large = pool("small", can=poor), pool("large", '{"n": 2}')
    decision, *_ = told(await run(orchestration([small, large]), ask(response_format=JSON)))
    assert decision.pool == "large" and not engine_of(small).queries
    assert "m-small does not support response_format" in decision.reason
    with pytest.raises(UnsupportedParameter):
        await run(orchestration([pool("small", can=poor), pool("large", can=poor)]), ask(response_format=JSON))


@BOTH
async def test_a_tier_with_an_adapter_costs_what_the_adapter_does(stream: bool) -> None:
    costs = []
    for adapter in (None, "sort"):
        small = pool("small", "fine", can=replace(ABLE, adapters=True))
        small.price.adapters["sort"] = 1.5
        default = row(tiers=[{"pool": "small", "adapter": adapter}, {"pool": "large"}])
        _, said, spent = told(await run(orchestration([small, pool("large")], default=default), ask(), stream=stream))
        assert said == "fine"
        costs.append(spent.cost_usd)
    assert costs[1] == pytest.approx(1.5 * costs[0]) and costs[0] > 0


async def test_the_tasks_prompt_sampling_and_adapter_are_sent() -> None:
    small = pool("small", "fine")
    rows = {
        "short": row(
            patterns=["^shorten"],
            tiers=[{"pool": "small", "adapter": "short"}, {"pool": "large"}],
            system="Be brief.",
            template="Text: {input}",
            temperature=0.0,
            max_tokens=9,
        )
    }
    decision, *_ = told(await run(orchestration([small, pool("large")], rows), ask("Shorten this")))
    sent = engine_of(small).queries[0]
    assert [m.content for m in sent.messages] == ["Be brief.", "Text: Shorten this"]
    assert (sent.adapter, sent.sampling.temperature, sent.sampling.max_tokens) == ("short", 0.0, 9)
    assert (decision.task, decision.adapter) == ("short", "short")


async def test_an_adapter_that_was_removed_is_the_next_tiers_case() -> None:
    small = pool("small")

    async def gone(query: Query) -> Any:
        raise ModelNotFound("no adapter 'short'")
        yield

    engine_of(small)._chunks = gone  # type: ignore[method-assign]
    default = row(tiers=[{"pool": "small", "adapter": "short"}, {"pool": "large"}])
    decision, said, _ = told(await run(orchestration([small, pool("large", "ok")], default=default), ask()))
    assert said == "ok" and "adapter_missing" in decision.reason


async def test_what_the_caller_sets_stays() -> None:
    small = pool("small", "fine")
    default = row(temperature=0.0, max_tokens=9, response_format={"type": "json_object"})
    own = ask(sampling=Sampling(temperature=0.7, max_tokens=3), response_format={"type": "text"})
    await run(orchestration([small, pool("large")], default=default), own)
    sent = engine_of(small).queries[0]
    assert (sent.sampling.temperature, sent.sampling.max_tokens, sent.response_format) == (0.7, 3, {"type": "text"})
    assert sent_to(ask(), default, default.tiers[0]).sampling.temperature == 0.0
    set_to_one = ask(sampling=Sampling(temperature=1.0, stated=("temperature",)))
    assert sent_to(set_to_one, default, default.tiers[0]).sampling.temperature == 1.0


async def test_a_hint_names_the_task_and_an_unknown_one_is_refused() -> None:
    strategy = orchestration([pool("small"), pool("large")], {"sort": row(), "other": row(patterns=["."])})
    assert told(await run(strategy, ask(task="sort")))[0].task == "sort"
    assert told(await run(strategy, ask(task="default")))[0].task == "default"
    assert told(await run(strategy, ask()))[0].task == "other"
    with pytest.raises(RequestError, match="sort, other, default"):
        strategy.run(ask(task="none"), Context(CALL, False))


async def test_the_router_sends_hard_queries_past_the_first_tier() -> None:
    async def prior(router: str, query: Query) -> float:
        return 0.9 if "hard" in query.text else 0.1

    default = row(tiers=[{"pool": "small"}, {"pool": "large", "strong": True}])
    small = pool("small", "ok")
    strategy = orchestration([small, pool("large", "big")], default=default, prior=prior, router="r", router_note="?")
    decision, said, _ = told(await run(strategy, ask("hard")))
    assert (said, decision.warning) == ("big", "?") and "win rate 0.900" in decision.reason
    assert told(await run(strategy, ask("easy")))[1] == "ok"


@BOTH
async def test_a_hard_query_stays_in_front_where_the_strong_tier_cannot_have_it_or_fails(stream: bool) -> None:
    async def prior(router: str, query: Query) -> float:
        return 0.9

    default = row(tiers=[{"pool": "small"}, {"pool": "large", "strong": True}])
    local = ask("hard", reach=frozenset({"small"}))
    strategy = orchestration([pool("small", "ok"), pool("large")], default=default, prior=prior, router="r")
    decision, said, _ = told(await run(strategy, local, stream=stream))
    assert (decision.pool, said) == ("small", "ok") and "m-large may not see the request" in decision.reason
    large = pool("large", fail_after=0)

    async def away(query: Query) -> Any:
        raise UpstreamError("away")
        yield

    engine_of(large)._chunks = away  # type: ignore[method-assign]
    strategy = orchestration([pool("small", "ok"), large], default=default, prior=prior, router="r")
    decision, said, _ = told(await run(strategy, ask("hard"), stream=stream))
    assert (decision.pool, said) == ("small", "ok") and "m-large failed" in decision.reason


@BOTH
async def test_tools_run_on_the_server_until_there_is_an_answer(stream: bool) -> None:
    small = pool("small", call("double", a=21), "it is 42")
    tools = {"double": tool("double")}
    strategy = orchestration([small, pool("large")], default=row(tools=["double"]), tools=tools)
    decision, said, spent = told(await run(strategy, ask("twice 21?"), stream=stream))
    assert said == "it is 42" and decision.pool == "small"
    first, second = engine_of(small).queries
    assert [t["function"]["name"] for t in first.tools] == ["double"]
    assert [m.role for m in second.messages] == ["user", "assistant", "tool"]
    assert second.messages[-1].content == "42"
    assert second.messages[1].extra["tool_calls"][0]["id"] == second.messages[2].extra["tool_call_id"]
    assert [s.wasted for s in spent.steps] == [False, False] and spent.usage.completion_tokens == 2


async def test_a_tool_that_fails_hands_the_work_to_the_next_tier() -> None:
    tools = {"double": tool("double"), "fail": tool("fail")}
    small = pool("small", call("double", a=4), call("fail", a=1))
    large = pool("large", "the rest")
    strategy = orchestration([small, large], default=row(tools=list(tools)), tools=tools)
    decision, said, spent = told(await run(strategy, ask("go")))
    assert said == "the rest" and decision.pool == "large" and "tool_failed" in decision.reason
    received = engine_of(large).queries[0].messages
    assert [m.role for m in received] == ["user", "assistant", "tool", "assistant", "tool"]
    assert received[2].content == "8" and received[4].content.startswith("error: ValueError: no 1 here")
    assert all(step.wasted for step in spent.steps if step.pool == "small")


async def test_the_last_tier_hears_of_a_failed_tool_and_answers() -> None:
    tools = {"fail": tool("fail")}
    large = pool("large", call("fail", a=3), "it did not work")
    strategy = orchestration(
        [large], default=TaskConfig.model_validate({"tiers": [{"pool": "large"}], "tools": ["fail"]}), tools=tools
    )
    assert told(await run(strategy, ask()))[1] == "it did not work"


async def test_a_model_that_never_stops_calling_tools_is_stopped() -> None:
    tools = {"double": tool("double")}
    small = pool("small", call("double", a=1))
    strategy = orchestration([small, pool("large", "enough")], default=row(tools=["double"]), tools=tools, steps=2)
    assert told(await run(strategy, ask()))[1] == "enough"
    assert len(engine_of(small).queries) == 3


async def test_calls_of_the_callers_own_tools_go_back_to_the_caller() -> None:
    own = {"type": "function", "function": {"name": "mine", "parameters": SCHEMA}}
    small = pool("small", call("mine", n=1))
    strategy = orchestration([small, pool("large")], default=row(tools=["double"]), tools={"double": tool("double")})
    events = await run(strategy, ask(tools=(own,)))
    answer = events[1].parsed["choices"][0]  # type: ignore[union-attr]
    assert answer["finish_reason"] == "tool_calls"
    assert json.loads(answer["message"]["tool_calls"][0]["function"]["arguments"]) == {"n": 1}
    assert engine_of(small).queries[0].extra["parallel_tool_calls"] is False


async def test_arguments_that_break_the_callers_schema_escalate() -> None:
    own = {"type": "function", "function": {"name": "mine", "parameters": SCHEMA}}
    strategy = orchestration([pool("small", call("mine", n="x")), pool("large", call("mine", n=1))])
    decision, *_ = told(await run(strategy, ask(tools=(own,))))
    assert decision.pool == "large" and "$.n breaks 'type'" in decision.reason


async def test_a_caller_who_leaves_ends_calls_and_tools() -> None:
    gate = asyncio.Event()
    small = pool("small", "x", gate=gate)

    async def waits(query: Query) -> Any:
        await gate.wait()
        yield

    engine_of(small)._chunks = waits  # type: ignore[method-assign]
    strategy = orchestration([small, pool("large")])
    events = strategy.run(ask(), Context(CALL, True))
    async with aclosing(events):
        task = asyncio.ensure_future(anext(events))
        while not engine_of(small).running:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert engine_of(small).running == 0 and engine_of(small).cancelled == 1


async def test_decide_plans_without_a_call() -> None:
    small = pool("small")
    rows = {"sort": row(tiers=[{"pool": "small", "adapter": "sort"}, {"pool": "large"}], patterns=["sort"])}
    decision = await orchestration([small, pool("large")], rows).decide(ask("sort 2 1"), "d")
    assert (decision.task, decision.adapter, decision.pool) == ("sort", "sort", "small")
    assert not engine_of(small).queries


async def test_a_recognized_tasks_rules_of_placement_hold() -> None:
    def narrow(query: Query, task: str) -> Query:
        return replace(query, reach=frozenset({"large"})) if task == "sort" else query

    small = pool("small", "no")
    strategy = orchestration([small, pool("large", "ok")], {"sort": row(patterns=["^sort"])}, narrow=narrow)
    decision, *_ = told(await run(strategy, ask("sort 2 1")))
    assert decision.pool == "large" and "m-small may not see the request" in decision.reason
    assert not engine_of(small).queries
    assert told(await run(strategy, ask("other")))[0].pool == "small"
