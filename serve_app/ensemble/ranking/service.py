"""Ranking for many requests at once: all that wait when the thread becomes free share the ranker's forward passes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.arrays import Floats
from serve_app.ensemble.base import Comparison, Ranker
from serve_app.learning.batching import BatchingThread


@dataclass(frozen=True, slots=True, eq=False)
class _RankerWork:
    """Scores of whole requests, or comparisons, by one ranker."""

    ranker: Ranker
    comparing: bool

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, _RankerWork) and self.ranker is other.ranker
        return same and self.comparing == other.comparing  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((id(self.ranker), self.comparing))

    @property
    def batched(self) -> bool:
        """See `BatchWork`."""
        return True

    def run(self, items: Sequence[Any]) -> list[Floats]:
        """One array an item: a request's scores, or the logits of its comparisons."""
        if not self.comparing:
            return self.ranker.scores_of(items)
        logits = self.ranker.compare([comparison for own in items for comparison in own])
        found, at = list[Floats](), 0
        for own in items:
            found.append(logits[at : at + len(own)])
            at += len(own)
        return found


class RankingThread:
    """Ranks for all callers of a process on one thread. `max_batch`: most requests that share passes."""

    def __init__(self, max_batch: int = 32, thread: BatchingThread | None = None) -> None:
        self._thread = BatchingThread(max_batch, name="ranking") if thread is None else thread

    @property
    def batches(self) -> int:
        """Batches run so far."""
        return self._thread.batches

    async def scores(self, ranker: Ranker, source: str, candidates: Sequence[str]) -> Floats:
        """One score a candidate; see `Ranker.scores`."""
        found: Floats = await self._thread.submit(_RankerWork(ranker, False), (source, candidates))
        return found

    async def compare(self, ranker: Ranker, comparisons: Sequence[Comparison]) -> Floats:
        """One logit a comparison; see `Ranker.compare`."""
        found: Floats = await self._thread.submit(_RankerWork(ranker, True), comparisons)
        return found

    def close(self) -> None:
        """End the thread; calls that still wait fail."""
        self._thread.close()

    async def aclose(self) -> None:
        """The same, from an event loop."""
        await asyncio.to_thread(self.close)
