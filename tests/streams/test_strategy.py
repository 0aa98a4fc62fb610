"""`jethro-stream-NAME`, over a Learner in this process and pools with scripted answers."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from serve_app.errors import RequestError, UpstreamError
from serve_app.strategy import Spent
from serve_app.streams.base import StreamCreate
from serve_app.streams.online.base import Episode
from serve_app.types import Capabilities, Decision, Message, Sampling
from serve_app.wire.frames import Answer, Frame
from tests.streams.fakes import spec
from tests.streams.gateways import MODEL, asked, gateway, learned, query, taught, text, until


async def test_the_llm_answers_first_and_the_small_level_once_it_has_learned(streams, pools):
    first = await asked(streams)
    assert text(first) == "joy"
    assert first["Decision"].pool == "large"
    assert first["Decision"].cause != "other"
    assert [s.pool for s in first["Spent"].steps] == ["large"]
    assert first["Spent"].cost_usd > 0
    await learned(streams, 1)
    await asked(streams)
    await learned(streams, 2)
    last = await asked(streams)
    assert text(last) == "joy"
    assert (last["Decision"].pool, last["Decision"].model) == ("logistic", MODEL)
    assert last["Decision"].score == pytest.approx(0.1)
    assert "confident, deferral 0.100" in last["Decision"].reason and last["Decision"].cause == "confident"
    assert last["Decision"].policy_version == "mood@2"
    assert last["Spent"] == Spent(())
    assert last["Answer"].parsed["usage"]["total_tokens"] == 0
    assert len(pools["large"].queries) == 2


async def test_a_streamed_answer_has_the_same_text(streams):
    found = await asked(streams, stream=True)
    events = found["Frame"].events
    assert "".join(c["delta"].get("content", "") for e in events for c in e["choices"]) == "joy"
    assert events[-1]["usage"]["total_tokens"] == 8
    assert isinstance(found["Frame"], Frame)


async def test_the_llm_sees_the_streams_instruction_and_the_text_alone(streams, pools):
    await asked(streams, query("so dark", sampling=Sampling(temperature=0.7, max_tokens=500)))
    sent = pools["large"].queries[0]
    assert [m.role for m in sent.messages] == ["system", "user"]
    assert sent.messages[1].content == "so dark"
    assert sent.sampling.temperature == 0
    assert sent.response_format is not None  # this pool can be held to the labels
    pools["large"].capabilities = Capabilities()
    await asked(streams)
    assert pools["large"].queries[1].response_format is None


@pytest.mark.parametrize("said", ["anger", "", "joy or fear"])
async def test_an_answer_that_names_no_label_is_given_as_it_is_counted_and_not_learned_from(streams, pools, said):
    pools["large"].words = (said,)
    found = await asked(streams)
    assert text(found) == said
    assert "names no label" in found["Decision"].reason

    async def counted():
        return (await streams.get("mood", None))["figures"]["unparsed"] == 1

    await until(counted)
    told = (await streams.get("mood", None))["figures"]
    assert (told["labelled"], told["learner"]["updates"], told["queries"]) == (0, 0, 1)


async def test_a_failed_llm_gives_way_to_the_small_level_if_that_knows_anything(streams, pools):
    await taught(streams, 1)
    pools["large"].error = UpstreamError("gone")
    found = await asked(streams)
    assert text(found) == "joy"
    assert (found["Decision"].pool, found["Decision"].model) == ("logistic", MODEL)
    assert "fallback to logistic: lab-large failed" in found["Decision"].reason
    assert found["Decision"].cause == "fallback"
    assert [(s.pool, s.wasted) for s in found["Spent"].steps] == [("large", True)]

    async def counted():
        return (await streams.get("mood", None))["figures"]["failed"] == 1

    await until(counted)


async def test_an_audit_whose_llm_fails_is_answered_by_the_small_level(learner, pools):
    streams = gateway(learner, pools, coin=lambda: 0.05)
    streams.start()
    await streams.create(StreamCreate(spec(audit_share=0.1)))
    pools["large"].error = UpstreamError("gone")
    found = await asked(streams)
    assert found["Decision"].reason.startswith("stream mood: audit")
    assert text(found) == "joy"
    await streams.aclose()


async def test_a_stream_whose_llm_pool_was_taken_out_of_the_config_says_so_and_its_levels_answer(streams, pools):
    await taught(streams, 1)
    del pools["large"]
    found = await asked(streams, query("a sunny one"))
    assert (text(found), found["Decision"].pool) == ("joy", "logistic")
    assert "fallback to logistic: large failed: pool_unavailable" in found["Decision"].reason
    assert found["Spent"] == Spent(())
    assert (await streams.strategy(MODEL).decide(query("a sunny one"), "d1")).pool == "large"


class Warming:
    """A fake of a policy in a warm-up: it answers only where the LLM cannot be asked, by `shares`."""

    version = 1

    def __init__(self, shares):
        self.shares = shares

    def act(self, text, coins):
        if coins is None:
            return Episode(0, 1, (self.shares,), (0.1,), "confident", 1)
        return Episode(None, None, (), (), "warm-up", 1)

    def observe(self, episode):
        """It has no price."""


async def test_in_a_warm_up_the_small_levels_answer_for_a_failed_llm_if_they_know_anything(streams, pools):
    """As in the second look at a drift, or after one."""
    pools["large"].error = UpstreamError("gone")
    acting = streams._sync.active["mood"]
    streams._sync._every_s = 1000
    streams._sync.active = {"mood": replace(acting, policy=Warming((0.4, 0.6)))}
    found = await asked(streams)
    assert (text(found), found["Decision"].pool) == ("fear", "logistic")
    streams._sync.active = {"mood": replace(acting, policy=Warming((0.5, 0.5)))}
    with pytest.raises(UpstreamError, match="gone"):
        await asked(streams)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": (Message("system", "Be brief."), Message("user", "x"))}, "messages"),
        ({"messages": (Message("user", "  "),)}, "messages"),
        ({"messages": (Message("user", "x" * 20_001),)}, "messages"),
        ({"sampling": Sampling(n=2)}, "n"),
        ({"sampling": Sampling(logprobs=True)}, "logprobs"),
        ({"sampling": Sampling(stop=("x",))}, "stop"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": ({"type": "function"},)}, "tools"),
    ],
)
async def test_what_a_stream_cannot_be_asked(streams, pools, changes, param):
    with pytest.raises(RequestError) as refused:
        await asked(streams, query(**changes))
    assert refused.value.param == param
    assert pools["large"].queries == []


async def test_a_decision_alone_asks_nobody_and_is_not_counted(streams, pools):
    await taught(streams, 2)
    decision: Decision = await streams.strategy(MODEL).decide(query(), "d1")
    assert decision.pool == "logistic"
    shares: Mapping[str, float] = decision.features
    assert shares["logistic:joy"] == max(shares.values())
    assert len(pools["large"].queries) == 2
    assert (await streams.get("mood", None))["figures"]["queries"] == 2


async def test_cancelling_a_caller_cancels_the_llm_call(streams, pools):
    pools["large"].gate = asyncio.Semaphore(0)
    task = asyncio.create_task(asked(streams))
    async with asyncio.timeout(5):
        while pools["large"].running == 0:
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (pools["large"].running, pools["large"].cut) == (0, 1)


async def test_the_answer_is_one_of_openais(streams):
    found = await asked(streams)
    body = found["Answer"].parsed
    assert isinstance(found["Answer"], Answer)
    told = (body["object"], body["choices"][0]["finish_reason"], body["id"])
    assert told == ("chat.completion", "stop", "chatcmpl-id1")
