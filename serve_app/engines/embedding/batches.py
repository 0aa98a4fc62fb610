"""Batches of token rows across requests: rows of like length share a pass, and the oldest row is in the next one.

Worker threads take batches; each runs its passes on its own CPU. A row waits for no batch to fill: a lone request runs
at once, and under load there are always rows of like length.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import numpy as np

from serve_app.engines.embedding.request import Vectors

_TOKENS: Final = 1024
"""Tokens of one pass: more make the matrices outgrow the caches, fewer make them too small to be quick."""
_NEAR: Final = 8
"""Rows are padded by at most an eighth of their length, or two tokens."""

Compute = Callable[[Sequence[Sequence[int]]], Vectors]
Ran = Callable[[int, int, float], None]


@dataclass(slots=True, eq=False)
class _Job:
    """The rows of one request. `left`: not computed yet."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Vectors]"
    vectors: Vectors
    left: int


@dataclass(slots=True)
class _Row:
    job: _Job
    at: int
    ids: Sequence[int]
    number: int


@dataclass(slots=True)
class RowBatches:
    """Rows to vectors. `ran(tokens, rows, seconds)` is called after each pass, from the threads."""

    compute: Compute
    dimensions: int
    threads: int = 1
    begin: Callable[[], None] = lambda: None
    ran: Ran = lambda tokens, rows, seconds: None
    waiting: int = 0
    running: int = 0
    _by_length: dict[int, deque[_Row]] = field(default_factory=dict)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _workers: list[threading.Thread] = field(default_factory=list)
    _number: int = 0
    _closing: bool = False

    def start(self) -> None:
        """Start the threads."""
        for number in range(self.threads):
            worker = threading.Thread(target=self._run, name=f"embedding-{number}", daemon=True)
            self._workers.append(worker)
            worker.start()

    async def vectors(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """A vector for each row, shape [len(rows), dimensions]. Raises what a pass raises.

        Cancelling it drops the rows that are not computed yet.
        """
        loop = asyncio.get_running_loop()
        job = _Job(loop, loop.create_future(), np.empty((len(rows), self.dimensions), np.float32), len(rows))
        if not rows:
            return job.vectors
        with self._wake:
            if self._closing:
                raise RuntimeError("the engine is closed")
            for at, ids in enumerate(rows):
                self._number += 1
                self._by_length.setdefault(len(ids), deque()).append(_Row(job, at, ids, self._number))
            self.waiting += len(rows)
            self._wake.notify_all()
        return await job.future

    def close(self) -> None:
        """End the threads after the pass that each is in; requests that wait fail. Idempotent."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        for worker in self._workers:
            worker.join()
        rows = [row for queue in self._by_length.values() for row in queue]
        self._by_length.clear()
        self.waiting = 0
        for job in {id(row.job): row.job for row in rows}.values():
            _settle(job, RuntimeError("the engine is closed"))

    def _run(self) -> None:
        self.begin()
        while batch := self._next():
            started = perf_counter()
            try:
                found = self.compute([row.ids for row in batch])
            except Exception as error:
                self._failed(batch, error)
            else:
                self.ran(sum(len(row.ids) for row in batch), len(batch), perf_counter() - started)
                self._done(batch, found)

    def _next(self) -> list[_Row]:
        """The next batch; empty when the thread must end. Rows whose caller has left are dropped."""
        with self._wake:
            while True:
                while not self._by_length and not self._closing:
                    self._wake.wait()
                if self._closing:
                    return []
                batch = self._picked()
                if batch:
                    self.running += len(batch)
                    return batch

    def _picked(self) -> list[_Row]:
        """The oldest row, and others of its length or nearly so."""
        length = min(self._by_length, key=lambda n: self._by_length[n][0].number)
        most = max(1, _TOKENS // length)
        batch: list[_Row] = []
        reach = max(2, length // _NEAR)
        for distance in range(reach + 1):
            for near in dict.fromkeys((length - distance, length + distance)):
                self._take(near, most, batch)
            if len(batch) >= most:
                break
        return batch

    def _take(self, length: int, most: int, batch: list[_Row]) -> None:
        queue = self._by_length.get(length)
        while queue and len(batch) < most:
            row = queue.popleft()
            self.waiting -= 1
            if not row.job.future.done():
                batch.append(row)
        if queue is not None and not queue:
            del self._by_length[length]

    def _done(self, batch: list[_Row], found: Vectors) -> None:
        finished = []
        with self._wake:
            self.running -= len(batch)
            for row, vector in zip(batch, found, strict=True):
                row.job.vectors[row.at] = vector
                row.job.left -= 1
                if row.job.left == 0:
                    finished.append(row.job)
        for job in finished:
            _settle(job, None)

    def _failed(self, batch: list[_Row], error: Exception) -> None:
        with self._wake:
            self.running -= len(batch)
        for job in {id(row.job): row.job for row in batch}.values():
            _settle(job, error)


def _settle(job: _Job, error: Exception | None) -> None:
    """Give a request its vectors, or the error, in its own loop."""
    with suppress(RuntimeError):  # the loop is closed, and so is the caller
        job.loop.call_soon_threadsafe(_set, job, error)


def _set(job: _Job, error: Exception | None) -> None:
    if job.future.done():
        return
    if error is None:
        job.future.set_result(job.vectors)
    else:
        job.future.set_exception(error)
