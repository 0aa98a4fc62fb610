"""The outbox: nothing lost while the Learner is away, and nobody held up by its absence."""

import asyncio
from typing import Any

import pytest

from serve_app.streams.base import ObservedEvent, batch_from_json
from serve_app.streams.event_queue import EventQueue
from serve_app.streams.online.base import Episode

WALK = Episode(None, None, (), (), "warm-up", 0)


class Port:
    """A Learner that is away as long as it is told to."""

    def __init__(self, away: bool) -> None:
        self.away = away
        self.asked: list[bytes] = []

    async def report(self, batch: bytes) -> None:
        self.asked.append(batch)
        if self.away:
            raise ConnectionError("away")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"an outbox has no use for {name}")


def filled(port: Port, events: int, most: int = 10_000) -> EventQueue:
    outbox = EventQueue(port, "gateway-1", most)
    for _ in range(events):
        outbox.put("mood", "uid", ObservedEvent(WALK))
    return outbox


async def test_a_full_outbox_of_a_learner_that_is_away_leaves_the_loop_to_others() -> None:
    port = Port(away=True)
    outbox = filled(port, 1000)
    delivering = asyncio.create_task(outbox.deliver())
    turns = 0
    async with asyncio.timeout(30):
        while len(port.asked) < 3:  # between these lie its retries, in which nothing is due
            await asyncio.sleep(0)
            turns += 1
    delivering.cancel()
    assert turns > 100 and outbox.waiting == 1000
    assert len(set(port.asked)) == 1  # the same batch as it was: the Learner knows it again


async def test_a_call_that_is_cancelled_under_it_does_not_end_the_delivery() -> None:
    """As Ray cancels a call that it gives up."""
    port = Port(away=False)
    outbox = filled(port, 3)
    whole, cancelled = port.report, []

    async def report(batch: bytes) -> None:
        if not cancelled:
            cancelled.append(batch)
            raise asyncio.CancelledError
        await whole(batch)

    port.report = report  # type: ignore[method-assign]
    delivering = asyncio.create_task(outbox.deliver())
    async with asyncio.timeout(10):
        while not port.asked and not delivering.done():
            await asyncio.sleep(0.01)
    assert (port.asked, delivering.done()) == (cancelled, False)
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    assert outbox.waiting == 0


async def test_all_of_it_arrives_once_and_in_order_when_the_learner_is_back() -> None:
    port = Port(away=True)
    outbox = filled(port, 600)
    assert not await outbox.send()
    port.away, port.asked = False, []
    await outbox.aclose()
    batches = [batch_from_json(line) for line in port.asked]
    assert [len(b.events) for b in batches] == [256, 256, 88]
    assert [b.seq for b in batches] == [1, 2, 3] and outbox.waiting == 0


async def test_what_there_is_no_room_for_is_counted_as_lost() -> None:
    port = Port(away=False)
    outbox = filled(port, 15, most=10)
    await outbox.send()
    (batch,) = (batch_from_json(line) for line in port.asked)
    assert (len(batch.events), batch.lost) == (10, 5)
