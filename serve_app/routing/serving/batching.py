"""One thread that scores for all: whatever waits when it becomes free goes into one batch.

A lone query is taken at once and waits for nobody; under load batches grow by themselves. The thread has its own
number of torch threads, so that scoring does not take the cores of whoever else is in the process.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.routing.base import Router
from serve_app.routing.estimate import Estimate, EstimatingRouter
from serve_app.types import Query

Act = Literal["score", "estimate", "explain"]
"""What is wanted of a router; explanations come one at a time."""


@dataclass(slots=True)
class _Asked:
    """A query that waits, and the loop and future of the one who waits for it."""

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
        self._waiting: deque[_Asked] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.batches = 0
        """Batches scored so far."""

    async def score(self, router: Router, query: Query) -> float:
        """The router's score of the query. Raises what the router raises."""
        return float(await self._ask(router, query, "score"))

    async def estimate(self, router: EstimatingRouter, query: Query) -> Estimate:
        """The router's estimate of the query, arrays of shape [1, p]. Raises what the router raises."""
        found: Estimate = await self._ask(router, query, "estimate")
        return found

    async def explain(self, router: Router, query: Query) -> Mapping[str, float]:
        """The router's explanation."""
        told: Mapping[str, float] = await self._ask(router, query, "explain")
        return told

    def close(self) -> None:
        """End the thread; who still waits is told so."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    async def _ask(self, router: Router, query: Query, act: Act) -> Any:
        loop = asyncio.get_running_loop()
        asked = _Asked(router, query, loop, loop.create_future(), act)
        with self._wake:
            if self._closing:
                raise RuntimeError("the scoring thread is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
                self._thread.start()
            self._waiting.append(asked)
            self._wake.notify()
        return await asked.future

    def _run(self) -> None:
        self._begin()
        while batch := self._next():
            # who has gone away meanwhile needs no score; a future is only read here, and set in its loop
            wanted = [asked for asked in batch if not asked.future.done()]
            if wanted:
                self._answer(wanted)
        for asked in self._waiting:
            _settle([asked], [RuntimeError("the scoring thread is closed")])

    def _next(self) -> list[_Asked]:
        """What waits, up to a batch, all for one router and act; empty when it is time to end."""
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()
            if self._closing:
                return []
            first = self._waiting.popleft()
            batch, others = [first], deque[_Asked]()
            while self._waiting and len(batch) < self._max_batch and first.act != "explain":
                asked = self._waiting.popleft()
                (batch if asked.router is first.router and asked.act == first.act else others).append(asked)
            self._waiting.extendleft(reversed(others))
            return batch

    def _answer(self, batch: list[_Asked]) -> None:
        first = batch[0]
        try:
            results = _results(first.router, [asked.query for asked in batch], first.act)
            self.batches += first.act != "explain"
        except Exception as e:
            if len(batch) == 1:
                _settle(batch, [e])
            for asked in batch if len(batch) > 1 else ():
                self._answer([asked])  # one query that breaks the router takes no other with it
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


def _settle(batch: list[_Asked], results: list[Any]) -> None:
    """Give each its result, or its error, in its own loop; one wake-up for all of a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Asked, Any]]] = {}
    for asked, result in zip(batch, results, strict=True):
        by_loop.setdefault(asked.loop, []).append((asked, result))
    for loop, settled in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_set, settled)


def _set(settled: list[tuple[_Asked, Any]]) -> None:
    for asked, result in settled:
        if asked.future.done():
            continue
        if isinstance(result, Exception):
            asked.future.set_exception(result)
        else:
            asked.future.set_result(result)
