"""Groups the items of an async generator that are ready together, with no task and no queue between.

The consumer then writes once per burst instead of once per item. The generator is stepped by hand: as long as a step
ends without waiting its item joins the burst; the step that waits is kept and continued by the next call.
"""

import asyncio
import types
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")

MAX_BURST = 64
"""Items after which a burst ends even if more are ready, so that one stream cannot hold the loop."""


class Bursts(Generic[T]):
    """`await next()` returns at least one item, or an empty list at the end; `ended` is then True.

    An error of the generator is raised by the call after the one that returned the items before it. Cancelling a call
    cancels the step that waits, as it would without Bursts.
    """

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items
        self._waiting: tuple[Generator[Any, Any, T], Any] | None = None
        self._error: BaseException | None = None
        self.ended = False

    async def next(self) -> list[T]:
        """The items that are ready; waits only for the first of them. Ends early when the last one is in it."""
        burst: list[T] = []
        if self._waiting is not None:
            (step, awaited), self._waiting = self._waiting, None
            try:
                burst.append(await _resume(step, awaited))
            except StopAsyncIteration:
                self.ended = True
                return burst
        while not self.ended and self._error is None and self._waiting is None and len(burst) < MAX_BURST:
            self._step(burst)
        if burst or self.ended:
            return burst
        if self._error is not None:
            raise self._error
        return await self.next()

    async def aclose(self) -> None:
        """Cancels the step that waits, if any, and closes the generator."""
        if self._waiting is not None:
            (step, awaited), self._waiting = self._waiting, None
            if isinstance(awaited, asyncio.Future):
                awaited.cancel()
            await self._closed(step)
        await self._items.aclose()

    async def _closed(self, step: Generator[Any, Any, T]) -> None:
        """Ends a started step; the caller's own cancellation meanwhile is not taken for that of the step."""
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        try:
            await _cancelled(step)
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError:
            if task is not None and task.cancelling() > before:
                await self._items.aclose()
                raise

    def _step(self, burst: list[T]) -> None:
        step: Generator[Any, Any, T] = self._items.__anext__().__await__()
        try:
            awaited = step.send(None)
        except StopIteration as done:
            burst.append(done.value)
        except StopAsyncIteration:
            self.ended = True
        except Exception as error:
            self._error = error
        else:
            self._waiting = (step, awaited)


@types.coroutine
def _resume(step: Generator[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """Hands the future that a started step waits for to the event loop, then drives the step to its end."""
    while True:
        try:
            sent = yield awaited
        except BaseException as error:
            turn: Callable[[], Any] = partial(step.throw, error)
        else:
            turn = partial(step.send, sent)
        try:
            awaited = turn()
        except StopIteration as done:
            item: T = done.value
            return item


@types.coroutine
def _cancelled(step: Generator[Any, Any, Any]) -> Generator[Any, Any, None]:
    """Cancels a started step and drives what it still does to clean up."""
    try:
        awaited = step.throw(asyncio.CancelledError())
    except StopIteration:
        return
    yield from _resume(step, awaited)
