""""""

import json

import pytest

from serve_app.errors import (
    ConfigError,
    ContextLengthExceeded,
    Overloaded,
    PoolUnavailable,
    RequestError,
    UpstreamError,
)
from serve_app.grading.calls import JudgeCalls
from serve_app.wire.frames import Answer
from tests.grading.fake_judge import FakeJudge

PROMPTS = [f"p{i}" for i in range(20)]


def counting() -> FakeJudge:
    """Says how often it was asked before."""
    judge = FakeJudge(lambda _: str(len(judge.queries)))
    return judge


async def test_replies_are_in_the_order_of_the_prompts_and_equal_prompts_are_asked_once():
    judge = counting()
    asking = JudgeCalls(judge, concurrency=1)
    assert await asking.replies(["a", "b", "a", "c", "b"]) == ["1", "2", "1", "3", "2"]
    assert judge.prompts == ["a", "b", "c"]
    assert (asking.usage.prompt_tokens, asking.usage.completion_tokens) == (300, 30)
    assert asking.cost_usd == pytest.approx(600e-6)


async def test_it_asks_greedily_and_no_more_at_once_than_it_may():
    judge = counting()
    await JudgeCalls(judge, concurrency=3, max_tokens=77).replies(PROMPTS)
    assert judge.most == 3
    assert {(q.sampling.temperature, q.sampling.max_tokens, q.sampling.n) for q in judge.queries} == {(0.0, 77, 1)}


async def test_what_may_pass_is_tried_again_after_the_wait_that_is_asked_for():
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    errors = [
        Overloaded("full", retry_after_s=7.0),
        PoolUnavailable("gone"),
        UpstreamError("died"),
        PoolUnavailable("x"),
    ]
    judge = FakeJudge(lambda _: "fine", errors)
    assert await JudgeCalls(judge, sleep=sleep).replies(["a"]) == ["fine"]
    assert waits == [7.0, 4.0, 8.0, 16.0]
    judge.errors = [PoolUnavailable(str(i), retry_after_s=999.0) for i in range(5)]
    with pytest.raises(PoolUnavailable, match="4"):
        await JudgeCalls(judge, sleep=sleep).replies(["a"])
    assert waits[4:] == [30.0] * 4


async def test_what_will_not_pass_is_told_at_once():
    judge = FakeJudge(lambda _: "fine", [RequestError("too long")])
    with pytest.raises(RequestError, match="too long"):
        await JudgeCalls(judge, concurrency=2).replies(PROMPTS)
    assert len(judge.queries) < 6


async def test_a_run_cut_short_pays_for_no_reply_twice(tmp_path):
    journal = tmp_path / "new" / "journal.jsonl"
    judge = counting()
    judge.script = lambda _: str(len(judge.queries)) if len(judge.queries) < 6 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        await JudgeCalls(judge, concurrency=1, journal=journal).replies(PROMPTS)
    with journal.open("a") as file:
        file.write('\n{"key": "cut sho')
    again = counting()
    assert (await JudgeCalls(again, journal=journal).replies(PROMPTS))[:5] == ["1", "2", "3", "4", "5"]
    assert again.prompts == PROMPTS[5:]
    third = counting()
    await JudgeCalls(third, journal=journal).replies(PROMPTS)
    assert third.queries == []


async def test_the_journal_keeps_models_and_bounds_apart(tmp_path):
    journal = tmp_path / "journal.jsonl"
    for model, most in (("a", 5), ("b", 5), ("a", 6), ("a", 5)):
        judge = counting()
        judge.model = model
        asking = JudgeCalls(judge, max_tokens=most, journal=journal)
        assert await asking.replies(["p"]) == ["1"]
    assert len([line for line in journal.read_text().splitlines() if line and json.loads(line)]) == 3


async def test_a_prompt_that_is_too_long_stops_nobody_and_is_asked_again_next_time(tmp_path):
    journal = tmp_path / "journal.jsonl"
    judge = FakeJudge(lambda _: "fine", [ContextLengthExceeded("9 tokens too many")])
    replies = await JudgeCalls(judge, concurrency=1, journal=journal).replies(["long", "short"])
    assert replies == ["(not sent: 9 tokens too many)", "fine"]
    assert await JudgeCalls(judge, journal=journal).replies(["long", "short"]) == ["fine", "fine"]
    assert judge.prompts == ["long", "short", "long"]


async def test_a_journal_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        await JudgeCalls(counting(), journal=tmp_path).replies(["a"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        await JudgeCalls(counting(), journal=tmp_path / "file" / "journal").replies(["a"])


async def test_progress_is_told():
    lines = []
    await JudgeCalls(counting(), concurrency=1).replies([str(i) for i in range(150)], lines.append)
    assert lines == ["100 of 150 replies", "150 of 150 replies"]
    assert await JudgeCalls(counting()).replies([]) == []


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b"[1]"])
async def test_an_upstream_that_answers_something_else_is_told(body):
    judge = counting()

    async def complete(query, call):
        return Answer(body)

    judge.complete = complete
    with pytest.raises(UpstreamError, match=r"pool 'large' .*chat completion"):
        await JudgeCalls(judge).replies(["a"])


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"max_tokens": 0}])
def test_bounds_are_checked(wrong):
    with pytest.raises(ConfigError, match="1 or more"):
        JudgeCalls(counting(), **wrong)
