"""A Gateway's side of the streams, over a Learner in this process and pools with scripted answers."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from serve_app.cascade.streams.base import Budget, Wanted
from serve_app.cascade.streams.local import LocalLearner
from serve_app.cascade.streams.registry import Keeping
from serve_app.cascade.streams.service import Streams
from serve_app.config.streams import StreamsConfig
from serve_app.errors import Conflict, ModelNotFound, NotFound, PoolUnavailable, RequestError, UpstreamError
from serve_app.pools.base import Answer, Call, Frame
from serve_app.strategy import Context, Spent
from serve_app.types import Capabilities, Decision, Message, Query, Sampling
from tests.api.fakes import FakePool
from tests.cascade.streams.fakes import FakeCore, spec

MODEL = "jethro-stream-mood"


class Switched:
    """A Learner that can be away, and started again over the same folder, as after a kill."""

    def __init__(self, folder):
        self.folder = folder
        self.here = True
        self.inner = None

    async def start(self):
        self.inner = await asyncio.to_thread(LocalLearner, Keeping(self.folder), FakeCore())
        self.here = True

    async def kill(self):
        self.here = False
        await self.inner.aclose()

    def __getattr__(self, name):
        async def call(*args):
            if not self.here:
                raise ConnectionError("the actor died")
            return await getattr(self.inner, name)(*args)

        return call


@pytest.fixture
async def learner(tmp_path):
    made = Switched(tmp_path / "streams")
    await made.start()
    yield made
    await made.kill()


@pytest.fixture
def pools():
    return {"small": FakePool(), "large": FakePool("large", "lab-large", words=("jo", "y"))}


def gateway(learner, pools, source="g1", **options):
    coin = options.pop("coin", lambda: 0.5)
    return Streams(learner, pools, StreamsConfig(poll_s=0.02, **options), source, FakeCore(), coin)


@pytest.fixture
async def streams(learner, pools):
    made = gateway(learner, pools)
    made.start()
    await made.create(Wanted(spec()))
    yield made
    await made.aclose()


def query(text="a sunny day", **changes):
    return replace(Query((Message("user", text),)), **changes)


async def asked(streams, told=None, model=MODEL, stream=False):
    found: dict[str, Any] = {}
    strategy = streams.strategy(model)
    async for event in strategy.run(told or query(), Context(Call("id1", "r1", 1), stream)):
        found[type(event).__name__] = event
    return found


def text(found):
    return found["Answer"].parsed["choices"][0]["message"]["content"]


async def until(condition):
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def learned(streams, count, name="mood"):
    async def reached():
        return (await streams.get(name, None))["figures"].get("labelled") == count

    await until(reached)


async def taught(streams, times=3):
    for n in range(times):
        await asked(streams)
        await learned(streams, n + 1)


async def test_the_llm_answers_first_and_the_small_level_once_it_has_learned(streams, pools):
    first = await asked(streams)
    assert text(first) == "joy"
    assert first["Decision"].pool == "large"
    assert [s.pool for s in first["Spent"].steps] == ["large"]
    assert first["Spent"].cost_usd > 0
    await learned(streams, 1)
    await asked(streams)
    await learned(streams, 2)
    last = await asked(streams)
    assert text(last) == "joy"
    assert (last["Decision"].pool, last["Decision"].model) == ("logistic", MODEL)
    assert last["Decision"].score == pytest.approx(0.1)
    assert "confident, deferral 0.100" in last["Decision"].reason
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


async def test_while_the_learner_is_away_queries_are_answered_and_nothing_is_lost(streams, learner, pools):
    await taught(streams, 2)
    await learner.kill()
    for word in ("one", "two", "three"):
        assert text(await asked(streams, query(f"a new {word}"))) == "joy"
    assert text(await asked(streams)) == "joy"  # by the policy that was there
    assert len(pools["large"].queries) == 5

    async def noticed():
        return streams.away

    await until(noticed)
    assert (await streams.get("mood", None))["state"] == "learner away"
    assert [s["id"] for s in await streams.all(None)] == ["mood"]
    with pytest.raises(PoolUnavailable, match="The Learner does not answer now"):
        await streams.create(Wanted(spec(name="other")))
    with pytest.raises(PoolUnavailable):
        await asked(streams, model="jethro-stream-unheard")
    await learner.start()
    await learned(streams, 5)

    async def all_seen():
        return (await streams.get("mood", None))["figures"]["queries"] == 6

    await until(all_seen)
    assert streams.waiting == 0


async def test_the_same_batch_twice_is_learned_once(streams, learner, pools):
    """The Learner has kept a batch and dies before it says so."""
    whole = learner.inner.report
    dying = [True]

    async def report(batch):
        await whole(batch)
        if dying.pop() if dying else False:
            raise ConnectionError("died after it had kept the batch")

    learner.inner.report = report
    await asked(streams)
    await learned(streams, 1)
    await until(lambda: _empty(streams))
    assert (await streams.get("mood", None))["figures"]["queries"] == 1


async def _empty(streams):
    return streams.waiting == 0


async def test_events_beyond_the_queue_are_counted_as_lost(learner, pools):
    streams = gateway(learner, pools, queue=3)
    streams.start()
    await streams.create(Wanted(spec()))
    await learner.kill()
    for n in range(4):
        assert text(await asked(streams, query(f"text {n}"))) == "joy"
    await learner.start()

    async def told():
        return (await streams.get("mood", None))["figures"].get("lost", 0) > 0

    await until(told)
    await until(lambda: _empty(streams))
    figures = (await streams.get("mood", None))["figures"]
    assert figures["queries"] + figures["labelled"] + figures["lost"] == 8
    await streams.aclose()


async def test_a_failed_llm_gives_way_to_the_small_level_if_that_knows_anything(streams, pools):
    await taught(streams, 1)
    pools["large"].error = UpstreamError("gone")
    found = await asked(streams)
    assert text(found) == "joy"
    assert (found["Decision"].pool, found["Decision"].model) == ("logistic", MODEL)
    assert "fallback to logistic: lab-large failed" in found["Decision"].reason
    assert [(s.pool, s.wasted) for s in found["Spent"].steps] == [("large", True)]

    async def counted():
        return (await streams.get("mood", None))["figures"]["failed"] == 1

    await until(counted)


async def test_an_audit_whose_llm_fails_is_answered_by_the_small_level(learner, pools):
    streams = gateway(learner, pools, coin=lambda: 0.05)
    streams.start()
    await streams.create(Wanted(spec(audit_share=0.1)))
    pools["large"].error = UpstreamError("gone")
    found = await asked(streams)
    assert found["Decision"].reason.startswith("stream mood: audit")
    assert text(found) == "joy"
    await streams.aclose()


async def test_a_change_of_the_budget_is_live(streams):
    told = await streams.budget("mood", Budget(mu=0.5), None)
    assert (told["mu"], told["llm_share"]) == (0.5, None)
    with pytest.raises(RequestError, match="give one of"):
        await streams.budget("mood", Budget(), None)
    with pytest.raises(NotFound):
        await streams.budget("none", Budget(mu=0.5), None)


async def test_a_changed_label_set_is_a_conflict_unless_reset(streams):
    await taught(streams, 2)
    other = spec(labels=("joy", "anger"))
    with pytest.raises(Conflict, match="reset"):
        await streams.create(Wanted(other))
    told = await streams.create(Wanted(other, reset=True))
    assert told["labels"] == ["joy", "anger"]
    assert told["figures"]["queries"] == 0
    assert (await asked(streams))["Decision"].pool == "large"


async def test_every_gateway_sees_a_stream_at_once_and_learns_from_all(streams, learner, pools):
    other = gateway(learner, pools, "g2")
    other._following._every_s = 1000  # it would not ask of its own accord
    other.start()
    await streams.create(Wanted(spec(name="new")))
    assert text(await asked(other, model="jethro-stream-new")) == "joy"
    await asked(streams, model="jethro-stream-new")
    await learned(streams, 2, "new")
    await other.aclose()


async def test_a_deleted_stream_is_no_model(streams):
    await streams.delete("mood", None)
    with pytest.raises(ModelNotFound, match="make the stream by POST /v1/streams"):
        await asked(streams)
    assert streams.names() == []
    with pytest.raises(NotFound):
        await streams.get("mood", None)


async def test_tenants_do_not_see_each_other(streams):
    await streams.create(Wanted(spec(name="mine"), owner="a"))
    assert (await streams.get("mine", "a"))["id"] == "mine"
    assert [s["id"] for s in await streams.all("b")] == ["mood"]
    for call in (streams.get("mine", "b"), streams.delete("mine", "b"), streams.budget("mine", Budget(mu=1.0), "b")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(ModelNotFound):
        await asked(streams, query(tenant="b"), "jethro-stream-mine")
    assert text(await asked(streams, query(tenant="a"), "jethro-stream-mine")) == "joy"


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
