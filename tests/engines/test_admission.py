import asyncio

import pytest

from serve_app.engines.admission import Admission, Draining
from serve_app.errors import Overloaded


def admission(**changes) -> Admission:
    return Admission(**{"max_open": 1, "max_queued": 1, "retry_after_s": 3.0, **changes})


async def waiting(place: Admission) -> asyncio.Task:
    task = asyncio.create_task(place.enter())
    await asyncio.sleep(0)
    return task


async def test_a_full_queue_refuses_with_a_time_to_come_back():
    door = admission()
    await door.enter()
    queued = await waiting(door)
    with pytest.raises(Overloaded) as caught:
        await door.enter()
    assert caught.value.retry_after_s == 3.0
    assert (door.open, door.queued) == (1, 1)
    door.leave()
    await queued
    assert (door.open, door.queued) == (1, 0)


async def test_places_go_in_order_of_arrival():
    door = admission(max_queued=3)
    await door.enter()
    first, second = await waiting(door), await waiting(door)
    door.leave()
    await first
    assert not second.done()
    door.leave()
    await second


async def test_who_leaves_the_queue_is_skipped():
    door = admission(max_queued=3)
    await door.enter()
    first, second = await waiting(door), await waiting(door)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert door.queued == 1
    door.leave()
    await second


async def test_a_place_given_to_one_who_is_cancelled_goes_on_to_the_next():
    door = admission(max_queued=3)
    await door.enter()
    first, second = await waiting(door), await waiting(door)
    door.leave()
    first.cancel()  # the place is given, but the task has not run yet
    await asyncio.gather(first, return_exceptions=True)
    await second
    assert (door.open, door.queued) == (1, 0)


async def test_drain_refuses_and_waits_for_those_inside():
    door = admission()
    await door.enter()
    queued = await waiting(door)
    drained = asyncio.create_task(door.drain(60))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        await door.enter()
    door.leave()
    await queued
    assert not drained.done(), "one who waited before the drain is let in"
    door.leave()
    assert await drained is True


async def test_drain_gives_up_at_its_deadline():
    door = admission()
    await door.enter()
    assert await door.drain(0.001) is False
    assert door.draining


async def test_drain_of_an_idle_replica_is_done_at_once():
    assert await admission().drain(60) is True


async def test_the_last_to_leave_the_queue_ends_the_drain():
    door = admission()
    await door.enter()
    queued = await waiting(door)
    drained = asyncio.create_task(door.drain(60))
    await asyncio.sleep(0)
    door.leave()
    queued.cancel()
    await asyncio.gather(queued, return_exceptions=True)
    assert await drained is True


async def test_who_leaves_in_the_turn_in_which_a_place_is_freed_is_passed_over():
    door = admission(max_queued=3)
    await door.enter()
    first, second = await waiting(door), await waiting(door)
    first.cancel()
    door.leave()  # before the cancelled one has run
    await asyncio.wait((first, second))
    assert first.cancelled()
    assert (door.open, door.queued) == (1, 0)
