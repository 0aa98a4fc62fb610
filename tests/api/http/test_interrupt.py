import asyncio

import pytest

from serve_app.api.http.interrupt import CallerGone, DeadlinePassed, Interrupt, Stopped


class Line:
    """A connection that a test can drop."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_a_body_that_ends_in_time_is_left_alone():
    async with Interrupt(Line().receive, 5, set()):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)  # nothing comes after


async def test_a_disconnect_cuts_the_body():
    line, cut = Line(), False
    asyncio.get_running_loop().call_soon(line.gone.set)
    with pytest.raises(CallerGone):
        async with Interrupt(line.receive, 5, set()):
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                cut = True
                raise
    assert cut
    await asyncio.sleep(0)  # the task itself is not cancelled


async def test_other_messages_are_not_a_disconnect():
    messages = iter([{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}])

    async def receive():
        return next(messages)

    with pytest.raises(CallerGone):
        async with Interrupt(receive, 5, set()):
            await asyncio.sleep(5)


async def test_the_deadline_cuts_the_body():
    with pytest.raises(DeadlinePassed):
        async with Interrupt(Line().receive, 0.01, set()):
            await asyncio.sleep(5)
    await asyncio.sleep(0)


async def test_a_deadline_before_the_watch_begins_cuts_too():
    with pytest.raises(DeadlinePassed):
        async with Interrupt(Line().receive, 0.001, set()):
            await asyncio.sleep(5)


async def test_an_error_of_the_body_passes_through():
    with pytest.raises(KeyError):
        async with Interrupt(Line().receive, 5, set()):
            raise KeyError


async def test_an_error_raised_while_being_cut_passes_through():
    with pytest.raises(KeyError):
        async with Interrupt(Line().receive, 0.01, set()):
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                raise KeyError from None
    await asyncio.sleep(0)


async def test_a_cancellation_from_outside_stays_one():
    async def work():
        async with Interrupt(Line().receive, 5, set()):
            await asyncio.sleep(5)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_the_watch_ends_with_the_body():
    before = asyncio.all_tasks()
    async with Interrupt(Line().receive, 5, set()):
        await asyncio.sleep(0.02)
        assert len(asyncio.all_tasks() - before) == 1
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_stop_cuts_the_body_and_is_known_while_it_runs_alone():
    stops = set()
    with pytest.raises(Stopped):
        async with Interrupt(Line().receive, 5, stops):
            for stop in list(stops):
                stop()
            await asyncio.sleep(5)
    assert stops == set()
    async with Interrupt(Line().receive, 5, stops):
        assert len(stops) == 1
    assert stops == set()
