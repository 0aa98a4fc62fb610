"""One thread that scores for all callers: all queries that wait when it becomes free form one batch.

A lone query is scored at once; under load batches grow. The thread has its own number of torch threads, so that scoring
does not take the cores of the rest of the process.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.routing.base import Router
from serve_app.routing.estimate import Estimate
from serve_app.types import Query

Act = Literal["score", "estimate", "explain"]
"""A method of a router; explanations are computed one at a time."""


@dataclass(slots=True)
class _PendingQuery:
    """A query that waits, with the loop and the future of its caller."""

    router: Router
    query: Query
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    act: Act


class ScoringThread:
    """Starts with the first query. `begin` is called once in the thread, for instance to set its torch threads."""

    def __init__(self, max_batch: int = 16, begin: Callable[[], None] = lambda: None) -> None:
        self._max_batch = max_batch
        self._begin = begin
        self._waiting: deque[_PendingQuery] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.batches = 0
        """Batches scored so far."""

    async def call(self, router: Router, query: Query, act: Act) -> Any:
        """The router's score (float), estimate (Estimate of shape [1, p]), or explanation (mapping) of a query.

        Raises what the router raises.
        """
        loop = asyncio.get_running_loop()
        entry = _PendingQuery(router, query, loop, loop.create_future(), act)
        with self._wake:
            if self._closing:
                raise RuntimeError("the scoring thread is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
                self._thread.start()
            self._waiting.append(entry)
            self._wake.notify()
        return await entry.future

    def close(self) -> None:
        """End the thread; queries that still wait fail."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        self._begin()
        while batch := self._next():
            # a caller that has left needs no score; a future is only read here, and set in its loop
            pending = [entry for entry in batch if not entry.future.done()]
            if pending:
                self._answer(pending)
        for entry in self._waiting:
            _settle([entry], [RuntimeError("the scoring thread is closed")])

    def _next(self) -> list[_PendingQuery]:
        """The next batch, all for one router and act; empty when the thread must end."""
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()
            if self._closing:
                return []
            first = self._waiting.popleft()
            batch, others = [first], deque[_PendingQuery]()
            while self._waiting and len(batch) < self._max_batch and first.act != "explain":
                entry = self._waiting.popleft()
                (batch if entry.router is first.router and entry.act == first.act else others).append(entry)
            self._waiting.extendleft(reversed(others))
            return batch

    def _answer(self, batch: list[_PendingQuery]) -> None:
        first = batch[0]
        try:
            results = _results(first.router, [entry.query for entry in batch], first.act)
            self.batches += first.act != "explain"
        except Exception as e:
            if len(batch) == 1:
                _settle(batch, [e])
            for entry in batch if len(batch) > 1 else ():
                self._answer([entry])  # one query that breaks the router takes no other with it
        else:
            _settle(batch, results)


def _results(router: Any, queries: list[Query], act: Act) -> list[Any]:
    """One result a query."""
    if act == "explain":
        return [router.explain(query) for query in queries]
    if act == "estimate":
        estimate: Estimate = router.estimate(queries)
        return [estimate.row(i) for i in range(len(queries))]
    scores: list[Any] = router.score(queries).tolist()
    return scores


def _settle(batch: list[_PendingQuery], results: list[Any]) -> None:
    """Give each its result, or its error, in its own loop; one wake-up for all of a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_PendingQuery, Any]]] = {}
    for entry, result in zip(batch, results, strict=True):
        by_loop.setdefault(entry.loop, []).append((entry, result))
    for loop, settled in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed, and so is the caller
            loop.call_soon_threadsafe(_set, settled)


def _set(settled: list[tuple[_PendingQuery, Any]]) -> None:
    for entry, result in settled:
        if entry.future.done():
            continue
        if isinstance(result, Exception):
            entry.future.set_exception(result)
        else:
            entry.future.set_result(result)
