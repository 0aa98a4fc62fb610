"""Members that return nothing, and empty texts that are answers nevertheless."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from time import monotonic

import orjson
import pytest

from serve_app.engines.local_pool import LocalPool
from serve_app.errors import DeadlineExceeded, UpstreamError
from serve_app.strategy import Context
from serve_app.types import Decision, Query
from serve_app.wire.frames import Answer, Call, Frame
from tests.cascade.fakes import CALL, TOOLS, engine_of, pool, query, run, text, told
from tests.ensemble.serving.fakes import assert_nothing_is_open, ensemble, members, plan
from tests.ensemble.serving.test_failures import hanging
from tests.ensemble.serving.test_strategy import BOTH


@BOTH
@pytest.mark.parametrize("select", ["vote", "ranker", "logprob", "last"])
async def test_where_all_say_nothing_there_is_no_answer(select: str, stream: bool) -> None:
    pools = members(a="", b=" \n")
    strategy, context = ensemble(pools, plan(tuple(pools), select=select)), Context(CALL, stream)  # type: ignore[arg-type]
    with pytest.raises(UpstreamError, match="m-a returned an empty answer") as caught:
        async for _ in strategy.run(query(), context):
            pass
    assert caught.value.status == 502
    steps = context.ledger.standing()
    assert {(s.pool, s.reason, s.wasted) for s in steps} == {(n, "says nothing", True) for n in "ab"}
    assert sum(s.usage.prompt_tokens for s in steps) > 0, "what was billed counts"


@BOTH
async def test_nothing_and_no_answer_in_time_is_a_deadline(stream: bool) -> None:
    pools = members(a="", b=hanging("b"))
    with pytest.raises(DeadlineExceeded, match="m-b"):
        await run(ensemble(pools), stream=stream, call=replace(CALL, deadline_s=monotonic() + 0.2))
    assert_nothing_is_open(pools)


@BOTH
async def test_a_round_that_says_nothing_is_followed_by_the_next(stream: bool) -> None:
    pools = members(a="", b="four")
    decision, said, spent = told(await run(ensemble(pools, plan(("a",), ("b",), stop_at=0.9)), stream=stream))
    assert (decision.pool, said) == ("b", "four") and "a says nothing" in decision.reason
    assert [(s.pool, s.wasted) for s in spent.steps] == [("a", True), ("b", False)]


async def test_a_relayed_stream_that_says_nothing_leaves_what_there_is() -> None:
    pools = members(a="four", b="  ")
    made = plan(("a",), ("b",), select="last", stop_at=2.0)
    decision, said, spent = told(await run(ensemble(pools, made), stream=True))
    assert (decision.pool, said) == ("a", "four") and "b failed: upstream_error" in decision.reason
    failed = next(s for s in spent.steps if s.pool == "b")
    assert failed.failed and failed.usage.prompt_tokens > 0


async def test_a_relayed_stream_that_says_nothing_is_an_error_if_there_is_nothing_else() -> None:
    with pytest.raises(UpstreamError, match="m-a returned an empty answer"):
        await run(ensemble(members(a="")), stream=True)


async def test_what_a_relayed_stream_sent_before_it_said_anything_is_relayed_too() -> None:
    pools = members(a=pool([" ", "\n", "four"], "a"))
    events = await run(ensemble(pools), stream=True)
    assert text(events[1:-1]) == " \nfour"
    direct = [e async for frame in pool([" ", "\n", "four"], "a").stream(query(), CALL) for e in frame.events]
    assert [e for frame in events[1:-1] for e in frame.events] == direct  # type: ignore[union-attr]


class Shaped(LocalPool):
    """Answers with this message, whole or as one delta."""

    message: Mapping[str, object]
    finish = "stop"

    async def complete(self, asked: Query, call: Call) -> Answer:
        choice = {"index": 0, "message": {"role": "assistant", **self.message}, "finish_reason": self.finish}
        return Answer(orjson.dumps({"choices": [choice]}))

    async def stream(self, asked: Query, call: Call) -> AsyncGenerator[Frame]:
        choice = {"index": 0, "delta": {"role": "assistant", **self.message}, "finish_reason": self.finish}
        yield Frame(b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n")


def shaped(name: str, finish: str = "stop", **message: object) -> LocalPool:
    made = Shaped(name, engine_of(pool("", name, capabilities=TOOLS)))
    made.message, made.finish = message, finish
    return made


TOOL = {"index": 0, "id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}


@BOTH
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("finish", "message"),
    [
        ("tool_calls", {"content": "", "tool_calls": [TOOL]}),
        ("stop", {"content": None, "tool_calls": [TOOL]}),
        ("stop", {"content": None, "refusal": "I will not."}),
        ("stop", {"content": "", "reasoning_content": "hm"}),
        ("length", {"content": ""}),
        ("content_filter", {"content": ""}),
    ],
)
async def test_an_empty_text_that_explains_itself_is_an_answer(
    finish: str, message: dict[str, object], number: int, stream: bool
) -> None:
    pools = {f"p{i}": shaped(f"p{i}", finish, **message) for i in range(number)}
    asked = replace(query(), tools=({"type": "function", "function": {"name": "now"}},))
    decision, *middle, _ = await run(ensemble(pools), asked, stream=stream)
    assert isinstance(decision, Decision)
    shown = middle[0].parsed["choices"][0] if not stream else middle[0].events[0]["choices"][0]  # type: ignore[union-attr]
    assert shown["finish_reason"] == finish
    assert {**shown.get("message", {}), **shown.get("delta", {})} == {"role": "assistant", **message}


@BOTH
async def test_an_empty_text_is_an_answer_where_a_stop_sequence_may_have_ended_it(stream: bool) -> None:
    asked = query(stop=("!",))
    decision, said, _ = told(await run(ensemble(members(a="", b="")), asked, stream=stream))
    assert said == "" and "a says nothing" in decision.reason
    assert text((await run(ensemble(members(a="")), asked, stream=stream))[1:-1]) == ""
    assert told(await run(ensemble(members(a="", b="four")), asked, stream=stream))[1] == "four"
