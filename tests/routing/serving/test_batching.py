""""""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.routing.serving.batching import ScoringThread
from serve_app.types import Query
from tests.routing.fakes import FakeRouter, query


class SlowRouter(FakeRouter):
    """Scores by length; waits for `gate` in each batch, and notes batches and threads."""

    def __init__(self, *, closed: bool = False) -> None:
        super().__init__(0.5)
        self.gate = threading.Event()
        if not closed:
            self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        self.threads.add(threading.current_thread().name)
        self.batches.append([q.text for q in queries])
        self.entered.set()
        assert self.gate.wait(30)
        if any("poison" in q.text for q in queries):
            raise ValueError("poison")
        return np.array([len(q.text) / 100 for q in queries])


@pytest.fixture
async def thread() -> AsyncIterator[ScoringThread]:
    made = ScoringThread(max_batch=4)
    yield made
    await asyncio.to_thread(made.close)


async def under_way(router: SlowRouter) -> None:
    """Until the router is at work on a batch."""
    assert await asyncio.to_thread(router.entered.wait, 30)
    router.entered.clear()


async def test_a_lone_query_waits_for_nobody(thread: ScoringThread) -> None:
    router = SlowRouter()
    assert await thread.call(router, query("abc"), "score") == 0.03  # type: ignore[arg-type]
    assert router.batches == [["abc"]] and router.threads == {"scoring"}
    assert await thread.call(router, query(), "explain") == {"bias": 1.5}  # type: ignore[arg-type]


async def test_what_waits_is_scored_together_up_to_a_batch(thread: ScoringThread) -> None:
    router = SlowRouter(closed=True)
    texts = ["x" * n for n in range(1, 11)]
    scoring = [asyncio.ensure_future(thread.call(router, query(t), "score")) for t in texts]  # type: ignore[arg-type]
    await under_way(router)
    router.gate.set()
    assert await asyncio.gather(*scoring) == [len(t) / 100 for t in texts]
    sizes = [len(b) for b in router.batches]
    assert sum(sizes) == 10 and max(sizes) == 4 and thread.batches == len(sizes)


async def test_batches_hold_one_router_each_in_order(thread: ScoringThread) -> None:
    first, second = SlowRouter(closed=True), SlowRouter()
    ahead = asyncio.ensure_future(thread.call(first, query("ahead"), "score"))  # type: ignore[arg-type]
    await under_way(first)
    scoring = [
        asyncio.ensure_future(thread.call(router, query(f"{turn}"), "score"))  # type: ignore[arg-type]
        for turn in range(3)
        for router in (second, first)
    ]
    await asyncio.sleep(0)
    first.gate.set()
    await asyncio.gather(ahead, *scoring)
    assert second.batches == [["0", "1", "2"]] and first.batches == [["ahead"], ["0", "1", "2"]]


async def test_a_query_that_breaks_the_router_takes_no_other_with_it(thread: ScoringThread) -> None:
    router = SlowRouter(closed=True)
    ahead = asyncio.ensure_future(thread.call(router, query("ahead"), "score"))  # type: ignore[arg-type]
    await under_way(router)
    texts = ["a", "poison", "b"]
    scoring = [asyncio.ensure_future(thread.call(router, query(t), "score")) for t in texts]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    router.gate.set()
    await ahead
    found = await asyncio.gather(*scoring, return_exceptions=True)
    assert found[0] == found[2] == 0.01 and isinstance(found[1], ValueError)


async def test_who_has_left_is_not_scored(thread: ScoringThread) -> None:
    router = SlowRouter(closed=True)
    ahead = asyncio.ensure_future(thread.call(router, query("ahead"), "score"))  # type: ignore[arg-type]
    await under_way(router)
    leaving = asyncio.ensure_future(thread.call(router, query("leaving"), "score"))  # type: ignore[arg-type]
    staying = asyncio.ensure_future(thread.call(router, query("staying"), "score"))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    router.gate.set()
    await asyncio.gather(ahead, staying)
    assert router.batches == [["ahead"], ["staying"]]


async def test_close_tells_who_waits_and_refuses_who_comes_later() -> None:
    thread, router = ScoringThread(), SlowRouter(closed=True)
    ahead = asyncio.ensure_future(thread.call(router, query("ahead"), "score"))  # type: ignore[arg-type]
    await under_way(router)
    waiting = asyncio.ensure_future(thread.call(router, query("waiting"), "score"))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(asyncio.to_thread(thread.close))
    await asyncio.sleep(0.05)
    router.gate.set()
    await closing
    assert await ahead == 0.05
    with pytest.raises(RuntimeError, match="closed"):
        await waiting
    with pytest.raises(RuntimeError, match="closed"):
        await thread.call(router, query(), "score")  # type: ignore[arg-type]
    await asyncio.to_thread(ScoringThread().close)


def test_one_thread_serves_several_loops_and_begins_once() -> None:
    begun: list[str] = []
    thread = ScoringThread(begin=lambda: begun.append(threading.current_thread().name))
    router = SlowRouter()
    for _ in range(2):
        assert asyncio.run(thread.call(router, query("ab"), "score")) == 0.02  # type: ignore[arg-type]
    thread.close()
    assert begun == ["scoring"]
