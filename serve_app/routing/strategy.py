"""The strategies of routing: score, compare with the threshold, answer with one pool; and the bypass to one pool."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from time import perf_counter

from serve_app.decision.capacity import OverloadPolicy
from serve_app.decision.threshold import ExpectedOutcome
from serve_app.observability.request_span import note_decision
from serve_app.pools.attempt import Attempt, lacking, refusal, why_skipped
from serve_app.pools.base import Pool
from serve_app.routing.serving.served import ScoringFailed, ServedRouter
from serve_app.strategy import Context, Event, Spent
from serve_app.tracing.spans import spanned
from serve_app.types import Cause, Decision, Query


@dataclass(eq=False)
class RouteStrategy:
    """Strong pool if the strong win rate is at least the threshold, else the weak one (RouteLLM, section 3).

    A pool that lacks a capability of the query is skipped. One that fails or is full before the first byte is replaced
    by the other, in either direction: an answer of the other model is better than none. The Decision says so.

    `pools` are the weak and the strong one. Without `overload` excess requests queue or are rejected. Logged decisions
    carry feature contributions if `explained`, expected outcomes where `expected` is known. `warning`: of the router.
    """

    name: str
    router: ServedRouter
    threshold: float
    pools: tuple[Pool, Pool]
    _: KW_ONLY
    expected: ExpectedOutcome | None = None
    overload: OverloadPolicy | None = None
    explained: bool = False
    warning: str | None = None

    def __post_init__(self) -> None:
        self.version = f"{self.router.version}@{self.threshold:.6g}"
        """Names router and threshold, so that a decision can be replayed."""
        self.weak, self.strong = self.pools

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The decision with its feature contributions. Raises UnsupportedParameter if no pool supports the query."""
        decision, _ = await self._choose(query, decision_id)
        return replace(decision, features=await self.router.explain(query.scored))

    def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then what was spent; see the contract."""
        return answer(partial(self._routed, query, context.call.id), query, context)

    async def _routed(self, query: Query, decision_id: str) -> tuple[Decision, list[Pool]]:
        """The choice for a query that will be answered: watched, and explained as far as that costs nothing."""
        features = self.router.logged_features(query.scored) if self.explained and not query.stays_unrecorded else {}
        decision, pools = await self._choose(query, decision_id, features)
        if decision.score is not None and self.router.watch is not None and not query.stays_unrecorded:
            self.router.watch.observe(query, decision.score)
        return decision, pools

    async def _choose(
        self, query: Query, decision_id: str, features: Mapping[str, float] | None = None
    ) -> tuple[Decision, list[Pool]]:
        """The decision, and the pools in the order in which they are called."""
        started = perf_counter()
        score: float | None
        threshold = self.threshold
        try:
            score = await self.router.score(query.scored)
            strong = score >= threshold
            reason = f"win rate {score:.3f} {'>=' if strong else '<'} threshold {threshold:.3f}"
            cause: Cause = "score_above" if strong else "score_below"
        except ScoringFailed as failure:
            score, strong, cause = None, True, "no_score"
            reason = f"router {self.router.name} gave no score ({failure}): strong to be safe"
        expected = self.expected.at(score) if score is not None and self.expected is not None else {}
        chosen, movable = None, True
        if self.overload is not None:
            raised, movable = self._raised(self.overload, query, score, expected)
            if score is not None and threshold <= score < raised:
                reason = f"{reason}, but {self.strong.model} is full: {raised:.3f} until it has room"
                chosen, threshold, strong, cause = self.strong.name, raised, False, "full"
        held = held_by(query, self.pools)
        if held is not None:
            strong, cause, reason = held is self.strong, "session", stays_reason(held, reason)
        first, second = (self.strong, self.weak) if strong else (self.weak, self.strong)
        lack, other_lack = lacking(query, first), lacking(query, second)
        if lack and other_lack:
            raise refusal(lack, f"{first.model} or {second.model}")
        if lack:
            reason = f"{reason}, but {why_skipped(first.model, lack)}"
            first, second, other_lack, cause = second, first, lack, "unable"
        decision = Decision(
            id=decision_id,
            strategy=self.name,
            pool=first.name,
            model=first.model,
            reason=reason,
            score=score,
            threshold=threshold,
            router=self.router.name,
            policy_version=self.version,
            warning=self.warning,
            expected=expected,
            features={} if features is None else features,
            decision_ms=(perf_counter() - started) * 1e3,
            preferred_pool=chosen,
            cause=cause,
        )
        kept = first is self.strong and not movable
        return decision, [first] if other_lack or kept else [first, second]

    def _raised(
        self, overload: OverloadPolicy, query: Query, score: float | None, expected: Mapping[str, Mapping[str, float]]
    ) -> tuple[float, bool]:
        """The threshold in force under the pools' loads, and whether the weak pool is good enough for this query.

        Where it is not, the threshold stays, and a strong pool that is full or fails is not replaced by the weak one.
        """
        if not overload.allows(query, expected.get(self.weak.name, {}).get("quality")):
            return self.threshold, False
        if score is None or score < self.threshold or lacking(query, self.weak):
            return self.threshold, True
        return overload.threshold(self.threshold, self.weak.load(), self.strong.load()), True


class DirectStrategy:
    """One pool, no decision: for requests that name a pool's own model id, or one of its adapters.

    `reason`: where there is no other pool.
    """

    def __init__(self, pool: Pool, adapter: str | None = None, *, reason: str | None = None) -> None:
        self.name = "direct"
        self.pool, self.adapter = pool, adapter
        self._model = pool.model if adapter is None else f"{pool.model}:{adapter}"
        self._reason = reason or f"the request names {self._model}"
        self._cause: Cause = "named" if reason is None else "only_pool"

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The pool that the request names. Raises UnsupportedParameter if it does not support the query."""
        if lack := lacking(self._with_adapter(query), self.pool):
            raise refusal(lack, self.pool.model)
        decision = Decision(decision_id, self.name, self.pool.name, self._model, self._reason, cause=self._cause)
        return decision if self.adapter is None else replace(decision, adapter=self.adapter)

    def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then what was spent; see the contract."""
        query = self._with_adapter(query)
        return answer(partial(self._chosen, query, context.call.id), query, context)

    async def _chosen(self, query: Query, decision_id: str) -> tuple[Decision, tuple[Pool, ...]]:
        return await self.decide(query, decision_id), (self.pool,)

    def _with_adapter(self, query: Query) -> Query:
        return query if self.adapter is None else replace(query, adapter=self.adapter)


def held_by(query: Query, pools: Iterable[Pool]) -> Pool | None:
    """The pool, among these, that the query is to stay with because of its session; None if there is none."""
    session = query.session
    if session is None or not session.stays:
        return None
    return next((pool for pool in pools if pool.name == session.pool), None)


def stays_reason(held: Pool, reason: str) -> str:
    """For the reason of a decision: that the conversation stays, whatever the reason would have been."""
    return f"the conversation stays with {held.model} ({reason})"


async def answer(
    choose: Callable[[], Awaitable[tuple[Decision, Sequence[Pool]]]], query: Query, context: Context
) -> AsyncGenerator[Event]:
    """The events of one attempt; the Decision is held back until the first byte makes it true.

    `choose` is called with the first `anext`: its errors are raised before the Decision.
    """
    with spanned("decide") as span:
        decision, pools = await choose()
        note_decision(span, decision)
    context.demand.requested(decision.preferred_pool or decision.pool)
    attempt = Attempt(pools, query, context.call)
    if context.stream:
        async with aclosing(attempt.stream()) as frames:
            begun = False
            async for frame in frames:
                if not begun:
                    begun = True
                    yield amended(decision, attempt)
                yield frame
    else:
        whole = await attempt.complete()
        yield amended(decision, attempt)
        yield whole
    yield Spent(tuple(attempt.steps))


def amended(decision: Decision, attempt: Attempt) -> Decision:
    """The decision as carried out: another pool than the chosen one may have answered."""
    pool = attempt.pool
    if pool is None or pool.name == decision.pool:
        return decision
    failed = next(step for step in attempt.steps if step.wasted)
    reason = f"{decision.reason}; fallback to {pool.model}: {decision.model} {failed.reason}"
    return replace(decision, pool=pool.name, model=pool.model, reason=reason, cause="fallback")
