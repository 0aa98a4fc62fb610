"""The scoring thread: routers score for all callers in batches, see `learning.batching`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.learning.batching import BatchingThread
from serve_app.routing.base import Router
from serve_app.routing.estimate import Estimate
from serve_app.types import Query

Act = Literal["score", "estimate", "sampled", "explain"]
"""A method of a router; explanations are computed one at a time."""


@dataclass(frozen=True, slots=True)
class _RouterWork:
    """One act of one router."""

    router: Any
    act: Act

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _RouterWork) and self.router is other.router and self.act == other.act

    def __hash__(self) -> int:
        return hash((id(self.router), self.act))

    @property
    def batched(self) -> bool:
        """See `BatchWork`."""
        return self.act != "explain"

    def run(self, items: Sequence[Query]) -> list[Any]:
        """One result a query."""
        queries = list(items)
        if self.act == "explain":
            return [self.router.explain(query) for query in queries]
        if self.act == "estimate":
            estimate: Estimate = self.router.estimate(queries)
            return [estimate.row(i) for i in range(len(queries))]
        if self.act == "sampled":
            estimates: list[Any] = self.router.sampled_estimates(queries)
            return estimates
        scores: list[Any] = self.router.score(queries).tolist()
        return scores


class ScoringThread(BatchingThread):
    """Starts with the first query."""

    async def call(self, router: Router, query: Query, act: Act) -> Any:
        """The router's score (float), estimate (Estimate of shape [1, p]), estimates (of each candidate of BEST-Route),
        or explanation (mapping) of a query.

        Raises what the router raises.
        """
        return await self.submit(_RouterWork(router, act), query)
