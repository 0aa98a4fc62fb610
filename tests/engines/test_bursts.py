import asyncio

import pytest

from serve_app.engines.bursts import MAX_BURST, Bursts


async def numbers(*items):
    """Yields the items; waits at None, yields to the loop at `...`, raises errors."""
    for item in items:
        if item is None:
            await asyncio.sleep(0.001)
        elif item is ...:
            await asyncio.sleep(0)
        elif isinstance(item, Exception):
            raise item
        else:
            yield item


async def gathered(bursts):
    found = []
    while not bursts.ended:
        found.append(await bursts.next())
    return found


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ((), [[]]),
        ((1, 2, 3), [[1, 2, 3]]),
        ((None, 1, 2, None, 3), [[1, 2], [3]]),
        ((..., 1, ..., 2), [[1], [2]]),
        ((1, None), [[1], []]),
    ],
)
async def test_items_that_are_ready_together_come_together(items, expected):
    assert await gathered(Bursts(numbers(*items))) == expected


async def test_a_stream_that_never_waits_comes_in_bounded_bursts():
    found = await gathered(Bursts(numbers(*range(2 * MAX_BURST + 1))))
    assert [len(burst) for burst in found] == [MAX_BURST, MAX_BURST, 1]


@pytest.mark.parametrize("wait", [(), (None,)])
async def test_an_error_comes_after_the_items_before_it(wait):
    bursts = Bursts(numbers(1, *wait, ValueError("broken")))
    assert await bursts.next() == [1]
    with pytest.raises(ValueError, match="broken"):
        await bursts.next()


async def test_an_error_at_once_is_raised():
    with pytest.raises(ValueError, match="broken"):
        await Bursts(numbers(ValueError("broken"))).next()


class Watched:
    """A generator that tells how it ended."""

    def __init__(self):
        self.ended_by = None

    async def items(self):
        try:
            yield 1
            await asyncio.Event().wait()
        except BaseException as error:
            self.ended_by = type(error)
            raise
        finally:
            await asyncio.sleep(0)


async def test_cancelling_a_call_cancels_the_generator():
    watched = Watched()
    bursts = Bursts(watched.items())
    assert await bursts.next() == [1]
    task = asyncio.create_task(bursts.next())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert watched.ended_by is asyncio.CancelledError
    await bursts.aclose()


async def test_closing_cancels_a_step_that_waits():
    watched = Watched()
    bursts = Bursts(watched.items())
    assert await bursts.next() == [1]
    await bursts.aclose()
    assert watched.ended_by is asyncio.CancelledError


async def test_closing_before_the_first_item_is_well():
    await Bursts(numbers(1, 2)).aclose()


async def test_closing_leaves_no_waiter_behind():
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def items():
        while True:
            yield await queue.get()

    bursts = Bursts(items())
    queue.put_nowait(1)
    assert await bursts.next() == [1]
    await bursts.aclose()
    queue.put_nowait(2)
    assert queue.get_nowait() == 2, "the closed generator took nothing"


async def test_a_wait_on_a_task_is_cancelled_with_it():
    task = asyncio.create_task(asyncio.sleep(60))

    async def items():
        yield 1
        await task

    bursts = Bursts(items())
    await bursts.next()
    await bursts.aclose()
    await asyncio.sleep(0)
    assert task.cancelled()


class Slow:
    """A generator that takes its time to close."""

    def __init__(self):
        self.closing = asyncio.Event()

    async def items(self):
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.closing.set()
            await asyncio.Event().wait()


async def test_who_is_cancelled_while_it_closes_is_cancelled():
    slow = Slow()
    bursts = Bursts(slow.items())
    await bursts.next()
    closing = asyncio.create_task(bursts.aclose())
    await slow.closing.wait()
    closing.cancel()
    await asyncio.wait((closing,))
    assert closing.cancelled()


async def test_a_time_limit_on_closing_is_told():
    slow = Slow()
    bursts = Bursts(slow.items())
    await bursts.next()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await bursts.aclose()
