"""The strategies of routing: score, compare with the threshold, answer with one pool; and the bypass to one pool."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from types import MappingProxyType
from typing import Protocol

from serve_app.decision.capacity import Relief
from serve_app.pools.attempt import Attempt, refusal, unmet
from serve_app.pools.base import Pool
from serve_app.routing.serving.scoring import Scorer, ScoringFailed
from serve_app.strategy import Context, Event, Spent
from serve_app.types import Decision, Query


class Outlook(Protocol):
    """What is to be expected of each pool at a score: quality in [0, 1] and cost in US dollars, as far as known."""

    def at(self, score: float) -> Mapping[str, Mapping[str, float]]:
        """By pool name; cheap, no allocation."""


class NoOutlook:
    """Nothing is known of these pools."""

    def at(self, score: float) -> Mapping[str, Mapping[str, float]]:
        """Empty."""
        return {}


class Watch(Protocol):
    """Sees the scores of live traffic; see learning/drift.py."""

    def observe(self, query: Query, score: float) -> None:
        """A query was routed by this score; cheap."""


class NoWatch:
    """Nobody looks."""

    def observe(self, query: Query, score: float) -> None:
        """Nothing."""


def unexplained(query: Query) -> Mapping[str, float]:
    """No explanation of a logged decision."""
    return {}


@dataclass(frozen=True, slots=True)
class Policy:
    """A router with the threshold that decides. `version` names both, so that a decision can be replayed."""

    scorer: Scorer
    threshold: float
    version: str
    outlook: Outlook = NoOutlook()  # noqa: RUF009 - stateless
    watch: Watch = NoWatch()  # noqa: RUF009 - stateless
    explained: Callable[[Query], Mapping[str, float]] = unexplained
    """The features that a logged decision carries; returns at once."""


class RouteStrategy:
    """Strong pool if the strong win rate is at least the threshold, else the weak one (RouteLLM, section 3).

    A pool that cannot honour the query is passed over; one that fails or is full before the first byte is replaced
    by the other, in either direction: an answer of the other model is better than none. The Decision says so.
    """

    def __init__(self, name: str, policy: Policy, weak: Pool, strong: Pool, relief: Relief | None = None) -> None:
        """`relief`: what is done while the strong pool is full; None: nothing, who does not fit waits or is refused."""
        self.name = name
        self.relief = relief
        self.policy = policy
        self.weak = weak
        self.strong = strong

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The decision with the features that moved it. Raises UnsupportedParameter if no pool can honour the query."""
        decision, _ = await self._choose(query, decision_id)
        return replace(decision, features=await self.policy.scorer.explain(query))

    def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then what was spent; see the contract."""
        return answer(partial(self._routed, query, context.call.id), query, context)

    async def _routed(self, query: Query, decision_id: str) -> tuple[Decision, list[Pool]]:
        """The choice for a query that is to be answered: watched, and explained as far as that costs nothing."""
        decision, pools = await self._choose(query, decision_id, self.policy.explained(query))
        if decision.score is not None:
            self.policy.watch.observe(query, decision.score)
        return decision, pools

    async def _choose(
        self, query: Query, decision_id: str, features: Mapping[str, float] = MappingProxyType({})
    ) -> tuple[Decision, list[Pool]]:
        """The decision, and the pools in the order in which they are asked."""
        started = perf_counter()
        policy = self.policy
        score: float | None
        threshold = policy.threshold
        try:
            score = await policy.scorer.score(query)
            strong = score >= threshold
            reason = f"win rate {score:.3f} {'>=' if strong else '<'} threshold {threshold:.3f}"
        except ScoringFailed as failure:
            score, strong = None, True
            reason = f"router {policy.scorer.name} gave no score ({failure}): strong to be safe"
        wanted, movable = None, True
        if self.relief is not None:
            raised, movable = self._raised(self.relief, query, score)
            if score is not None and threshold <= score < raised:
                reason = f"{reason}, but {self.strong.model} is full: {raised:.3f} until it has room"
                wanted, threshold, strong = self.strong.name, raised, False
        first, second = (self.strong, self.weak) if strong else (self.weak, self.strong)
        lacking, other_lacking = unmet(query, first.capabilities), unmet(query, second.capabilities)
        if lacking and other_lacking:
            raise refusal(lacking, f"{first.model} or {second.model}")
        if lacking:
            reason = f"{reason}, but {first.model} does not support {lacking}"
            first, second, other_lacking = second, first, lacking
        decision = Decision(
            id=decision_id,
            strategy=self.name,
            pool=first.name,
            model=first.model,
            reason=reason,
            score=score,
            threshold=threshold,
            router=policy.scorer.name,
            policy_version=policy.version,
            expected=policy.outlook.at(score) if score is not None else {},
            features=features,
            decision_ms=(perf_counter() - started) * 1e3,
            wanted=wanted,
        )
        kept = first is self.strong and not movable
        return decision, [first] if other_lacking or kept else [first, second]

    def _raised(self, relief: Relief, query: Query, score: float | None) -> tuple[float, bool]:
        """The threshold in force under the pools' loads, and whether the weak pool is good enough for this query.

        Where it is not, the threshold stays, and a strong pool that is full or fails is not replaced by the weak one.
        """
        threshold = self.policy.threshold
        expected = self.policy.outlook.at(score) if score is not None else {}
        if not relief.allows(query, expected.get(self.weak.name, {}).get("quality")):
            return threshold, False
        if score is None or score < threshold or unmet(query, self.weak.capabilities):
            return threshold, True
        return relief.threshold(threshold, self.weak.load(), self.strong.load()), True


class DirectStrategy:
    """One pool, no decision: what a caller gets who asks for a pool's own model id."""

    def __init__(self, pool: Pool) -> None:
        self.name = "direct"
        self.pool = pool

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The pool, asked for by name. Raises UnsupportedParameter if it cannot honour the query."""
        lacking = unmet(query, self.pool.capabilities)
        if lacking:
            raise refusal(lacking, self.pool.model)
        reason = f"asked for {self.pool.model}"
        return Decision(decision_id, self.name, self.pool.name, self.pool.model, reason)

    def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then what was spent; see the contract."""
        return answer(partial(self._chosen, query, context.call.id), query, context)

    async def _chosen(self, query: Query, decision_id: str) -> tuple[Decision, tuple[Pool, ...]]:
        return await self.decide(query, decision_id), (self.pool,)


async def answer(
    choose: Callable[[], Awaitable[tuple[Decision, Sequence[Pool]]]], query: Query, context: Context
) -> AsyncGenerator[Event]:
    """The events of one attempt; the Decision is held back until the first byte makes it true.

    `choose` is called when the first event is asked for: what it raises is an error before the Decision.
    """
    decision, pools = await choose()
    context.demand.wanted(decision.wanted or decision.pool)
    attempt = Attempt(pools, query, context.call)
    if context.stream:
        async with aclosing(attempt.stream()) as frames:
            told = False
            async for frame in frames:
                if not told:
                    told = True
                    yield amended(decision, attempt)
                yield frame
    else:
        whole = await attempt.complete()
        yield amended(decision, attempt)
        yield whole
    yield Spent(tuple(attempt.steps))


def amended(decision: Decision, attempt: Attempt) -> Decision:
    """The decision as it came out: another pool than the chosen one may have answered."""
    pool = attempt.pool
    if pool is None or pool.name == decision.pool:
        return decision
    failed = next(step for step in attempt.steps if step.wasted)
    reason = f"{decision.reason}; fallback to {pool.model}: {decision.model} {failed.reason}"
    return replace(decision, pool=pool.name, model=pool.model, reason=reason)
