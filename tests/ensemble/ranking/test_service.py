"""Requests that wait share the ranker's passes, and one that breaks takes no other with it."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from serve_app.arrays import Floats
from serve_app.ensemble.base import Comparison
from serve_app.ensemble.ranking.service import RankingThread


class ByLength:
    """Longer is better; waits for the gate, and notes its batches."""

    version = "by-length"

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def scores_of(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[Floats]:
        self.batches.append(len(requests))
        self.entered.set()
        assert self.gate.wait(30)
        if any(source == "poison" for source, _ in requests):
            raise ValueError("poison")
        return [np.array([len(text) for text in texts], dtype=np.float64) for _, texts in requests]

    def scores(self, source: str, candidates: Sequence[str]) -> Floats:
        return self.scores_of([(source, candidates)])[0]

    def compare(self, comparisons: Sequence[Comparison]) -> Floats:
        self.batches.append(len(comparisons))
        return np.array([len(c.left) - len(c.right) for c in comparisons], dtype=np.float64)


async def test_what_waits_is_ranked_together() -> None:
    thread, ranker = RankingThread(max_batch=8), ByLength()
    try:
        first = asyncio.ensure_future(thread.scores(ranker, "a", ["x", "xx"]))
        assert await asyncio.to_thread(ranker.entered.wait, 30)
        others = [asyncio.ensure_future(thread.scores(ranker, "b", ["y" * k, ""])) for k in range(1, 11)]
        comparing = asyncio.ensure_future(
            thread.compare(ranker, [Comparison("s", "abc", "d"), Comparison("s", "", "d")])
        )
        await asyncio.sleep(0.05)
        ranker.gate.set()
        assert (await first).tolist() == [1, 2]
        assert [(await one).tolist() for one in others] == [[k, 0] for k in range(1, 11)]
        assert (await comparing).tolist() == [2, -1]
        assert sorted(ranker.batches) == [1, 2, 2, 8] and thread.batches == 4
    finally:
        await thread.aclose()


async def test_a_request_that_breaks_takes_no_other_with_it() -> None:
    thread, ranker = RankingThread(), ByLength()
    ranker.gate.set()
    try:
        found = await asyncio.gather(
            *(thread.scores(ranker, source, ["xx"]) for source in ("a", "poison", "b")), return_exceptions=True
        )
    finally:
        await thread.aclose()
    assert [getattr(f, "tolist", lambda f=f: str(f))() for f in found] == [[2], "poison", [2]]
    with pytest.raises(RuntimeError, match="closed"):
        await thread.scores(ranker, "a", ["x"])
