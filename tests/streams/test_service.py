"""A Gateway's side of the streams: changes, a Learner that is away, several Gateways, tenants."""

import asyncio
from dataclasses import replace

import pytest

from serve_app.errors import Conflict, ModelNotFound, NotFound, PoolUnavailable, RequestError
from serve_app.streams.base import BudgetChange, StreamCreate
from serve_app.streams.spec import spec_to_json
from tests.streams.fakes import spec
from tests.streams.gateways import asked, gateway, learned, query, taught, text, until


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
    with pytest.raises(PoolUnavailable, match="Learner"):
        await streams.create(StreamCreate(spec(name="other")))
    with pytest.raises(PoolUnavailable):
        await asked(streams, model="jethro-stream-unheard")
    await learner.start()
    await learned(streams, 5)

    async def all_seen():
        return (await streams.get("mood", None))["figures"]["queries"] == 6

    await until(all_seen)
    assert streams.waiting == 0


async def restarted(learner, pools, streams):
    """Another Gateway, as after a restart, while the Learner is away."""
    await learner.kill()  # it writes its checkpoints; what a killed one leaves is asked in test_stream
    await streams.aclose()
    made = gateway(learner, pools, "g2")
    made.start()
    return made


async def test_a_gateway_that_starts_while_the_learner_is_away_acts_by_the_checkpoint(streams, learner, pools):
    await taught(streams, 2)
    await streams.create(StreamCreate(spec(name="mine"), owner="a"))
    again = await restarted(learner, pools, streams)
    found = await asked(again)  # learned before
    assert (text(found), found["Decision"].pool) == ("joy", "logistic")
    assert found["Decision"].reason.endswith("; the Learner is away: by its last checkpoint")
    assert text(await asked(again, query("a new one"))) == "joy"  # asks the LLM
    assert (await again.get("mood", None))["state"] == "learner away"
    assert [s["id"] for s in await again.all("a")] == ["mine", "mood"]
    assert [s["id"] for s in await again.all("b")] == ["mood"]
    with pytest.raises(ModelNotFound):
        await asked(again, query(tenant="b"), "jethro-stream-mine")
    with pytest.raises(PoolUnavailable, match="Learner") as refused:
        await asked(again, model="jethro-stream-unheard")
    assert refused.value.retry_after_s == 1
    assert again.waiting == 3
    await learner.start()
    await learned(again, 3)
    assert (await again.get("mood", None))["figures"]["queries"] == 4
    assert "away" not in (await asked(again))["Decision"].reason
    await again.aclose()


async def test_a_gateway_that_cannot_read_the_folder_says_that_it_waits_for_the_learner(streams, learner, pools):
    learner.here = False
    other = gateway(learner, pools, "g2", folder=str(learner.folder / "elsewhere"))
    other.start()
    with pytest.raises(PoolUnavailable, match="Learner"):
        await asked(other)
    await other.aclose()


async def test_a_checkpoint_that_cannot_be_read_is_passed_over_and_left_as_it_is(streams, learner, pools):
    await streams.create(StreamCreate(spec(name="other")))
    for path in (learner.folder / "mood").glob("checkpoint-*"):
        path.write_bytes(b"nothing")
    before = sorted(path.name for path in (learner.folder / "mood").iterdir())
    learner.here = False
    again = gateway(learner, pools, "g2")
    again.start()
    assert text(await asked(again, model="jethro-stream-other")) == "joy"
    with pytest.raises(PoolUnavailable):
        await asked(again)
    assert sorted(path.name for path in (learner.folder / "mood").iterdir()) == before
    await again.aclose()
    learner.here = True


async def test_a_policy_that_cannot_be_used_here_stops_no_other_stream(streams, learner, caplog):
    """The Learner is of another version, say, whose specs have a field more."""
    await streams.create(StreamCreate(spec(name="other")))
    whole, asks = learner.inner.published, []

    async def published(known):
        asks.append(known)
        told = await whole(known)
        odd = replace(told["mood"], spec={**spec_to_json(spec()), "temper": 1}, policy=b"")
        return {**told, "mood": odd, "new": (await whole({}))["other"]}

    learner.inner.published = published

    async def taken():
        return len(asks) > 3

    await until(taken)
    assert streams.names() == ["mood", "new", "other"]
    assert text(await asked(streams)) == "joy"  # by what it had
    assert caplog.text.count("of stream mood") == 1


async def test_a_call_that_is_cancelled_under_it_does_not_end_the_following(streams, learner):
    """As Ray cancels a call that it gives up."""
    whole, asks = learner.inner.published, []

    async def published(known):
        asks.append(known)
        if len(asks) < 3:
            raise asyncio.CancelledError
        return await whole(known)

    learner.inner.published = published
    while len(asks) < 2:
        await streams.all(None)
    await until(lambda: _followed(streams, asks))
    with_others = await streams.create(StreamCreate(spec(name="other")))
    assert with_others["id"] == "other"


async def _followed(streams, asks):
    return len(asks) > 4 and not streams.away


async def test_a_change_that_is_cancelled_at_the_learner_is_one_to_try_again(streams, learner):
    async def create(wanted):
        raise asyncio.CancelledError

    learner.inner.create = create
    with pytest.raises(PoolUnavailable, match="Learner"):
        await streams.create(StreamCreate(spec(name="other")))


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
    await streams.create(StreamCreate(spec()))
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


async def test_a_change_of_the_budget_is_live(streams):
    told = await streams.budget("mood", BudgetChange(mu=0.5), None)
    assert (told["mu"], told["llm_share"]) == (0.5, None)
    with pytest.raises(RequestError, match="one of"):
        await streams.budget("mood", BudgetChange(), None)
    with pytest.raises(NotFound):
        await streams.budget("none", BudgetChange(mu=0.5), None)


async def test_a_changed_label_set_is_a_conflict_unless_reset(streams):
    await taught(streams, 2)
    other = spec(labels=("joy", "anger"))
    with pytest.raises(Conflict, match="reset"):
        await streams.create(StreamCreate(other))
    told = await streams.create(StreamCreate(other, reset=True))
    assert told["labels"] == ["joy", "anger"]
    assert told["figures"]["queries"] == 0
    assert (await asked(streams))["Decision"].pool == "large"


async def test_every_gateway_sees_a_stream_at_once_and_learns_from_all(streams, learner, pools):
    other = gateway(learner, pools, "g2")
    other._sync._every_s = 1000  # it would not poll on its own
    other.start()
    await streams.create(StreamCreate(spec(name="new")))
    assert text(await asked(other, model="jethro-stream-new")) == "joy"
    await asked(streams, model="jethro-stream-new")
    await learned(streams, 2, "new")
    await other.aclose()


async def test_a_deleted_stream_is_no_model(streams):
    await streams.delete("mood", None)
    with pytest.raises(ModelNotFound, match="POST /v1/streams"):
        await asked(streams)
    assert streams.names() == []
    with pytest.raises(NotFound):
        await streams.get("mood", None)


async def test_tenants_do_not_see_each_other(streams):
    await streams.create(StreamCreate(spec(name="mine"), owner="a"))
    assert (await streams.get("mine", "a"))["id"] == "mine"
    assert [s["id"] for s in await streams.all("b")] == ["mood"]
    for call in (
        streams.get("mine", "b"),
        streams.delete("mine", "b"),
        streams.budget("mine", BudgetChange(mu=1.0), "b"),
    ):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(ModelNotFound):
        await asked(streams, query(tenant="b"), "jethro-stream-mine")
    assert text(await asked(streams, query(tenant="a"), "jethro-stream-mine")) == "joy"
