"""One thread that runs models for all callers: all that waits when it becomes free, for one model, is one batch.

A lone call runs at once; under load batches grow. The thread has its own number of torch threads, so that scoring does
not take the cores of the rest of the process.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol


class BatchWork(Protocol):
    """What is done with the items of a batch. Calls whose work is equal share batches."""

    @property
    def batched(self) -> bool:
        """Whether items may share a batch; otherwise each runs alone."""

    def run(self, items: Sequence[Any]) -> Sequence[Any]:
        """One result an item."""


@dataclass(slots=True)
class _PendingItem:
    """An item that waits, with the loop and the future of its caller."""

    work: BatchWork
    item: Any
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"


class BatchingThread:
    """Starts with the first call. `begin` is called once in the thread, for instance to set its torch threads."""

    def __init__(self, max_batch: int = 16, begin: Callable[[], None] = lambda: None, name: str = "scoring") -> None:
        self._max_batch = max_batch
        self._name = name
        self._begin = begin
        self._waiting: deque[_PendingItem] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.batches = 0
        """Batches run so far."""

    async def submit(self, work: BatchWork, item: Any) -> Any:
        """The item's result. Raises what the work raises."""
        loop = asyncio.get_running_loop()
        entry = _PendingItem(work, item, loop, loop.create_future())
        with self._wake:
            if self._closing:
                raise RuntimeError("the scoring thread is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._waiting.append(entry)
            self._wake.notify()
        return await entry.future

    def close(self) -> None:
        """End the thread; calls that still wait fail."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        self._begin()
        while batch := self._next():
            # a caller that has left needs no result; a future is only read here, and set in its loop
            pending = [entry for entry in batch if not entry.future.done()]
            if pending:
                self._answer(pending)
        for entry in self._waiting:
            _settle([entry], [RuntimeError("the scoring thread is closed")])

    def _next(self) -> list[_PendingItem]:
        """The next batch, all for one work; empty when the thread must end."""
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()
            if self._closing:
                return []
            first = self._waiting.popleft()
            batch, others = [first], deque[_PendingItem]()
            while self._waiting and len(batch) < self._max_batch and first.work.batched:
                entry = self._waiting.popleft()
                (batch if entry.work == first.work else others).append(entry)
            self._waiting.extendleft(reversed(others))
            return batch

    def _answer(self, batch: list[_PendingItem]) -> None:
        work = batch[0].work
        try:
            results = work.run([entry.item for entry in batch])
            self.batches += work.batched
        except Exception as e:
            if len(batch) == 1:
                _settle(batch, [e])
            for entry in batch if len(batch) > 1 else ():
                self._answer([entry])  # one item that breaks the work takes no other with it
        else:
            _settle(batch, results)


def _settle(batch: list[_PendingItem], results: Sequence[Any]) -> None:
    """Give each its result, or its error, in its own loop; one wake-up for all of a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_PendingItem, Any]]] = {}
    for entry, result in zip(batch, results, strict=True):
        by_loop.setdefault(entry.loop, []).append((entry, result))
    for loop, settled in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed, and so is the caller
            loop.call_soon_threadsafe(_set, settled)


def _set(settled: list[tuple[_PendingItem, Any]]) -> None:
    for entry, result in settled:
        if entry.future.done():
            continue
        if isinstance(result, Exception):
            entry.future.set_exception(result)
        else:
            entry.future.set_result(result)
