"""BEST-Route in service: the router chooses a pool and how many answers of it are drawn; the best of them is returned.

Ding et al. 2025 (BEST-Route, arXiv 2506.22716). The cheapest candidate is taken that is good enough with a probability
of at least 1 - threshold: so the threshold means what it means for every router, from 0 (always the reference, one
answer of `large`) to 1 (always the cheapest), and for one answer of `small` it is the same rule. Where the chosen pool
gives no answer, the reference does.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final

from serve_app.ensemble.artefact import version_of
from serve_app.ensemble.base import EnsemblePlan, MemberCalls, Round, Selection
from serve_app.ensemble.serving.served import RankWith, ServedPlan
from serve_app.ensemble.serving.strategy import EnsembleRun
from serve_app.grading.normalizers import normalizer
from serve_app.numbers import usd
from serve_app.observability.request_span import note_decision
from serve_app.pools.attempt import lacking
from serve_app.pools.base import Pool
from serve_app.routing.kinds.best_route import REFERENCE, BestRouteRouter, SampledEstimate, SampledPool
from serve_app.routing.serving.served import ScoringFailed, ServedRouter
from serve_app.strategy import Context, Event
from serve_app.tracing.spans import spanned
from serve_app.types import Cause, Decision, Query
from serve_app.wire.frames import Call

_ONE: Final = SampledPool("small")
"""Whose chance of being good enough is the router's score, as the strong win rate."""


@dataclass(frozen=True, slots=True)
class BestOf:
    """How the answer among several of a pool is picked; `rank` is ready to score where that is by a ranker."""

    select: Selection = "vote"
    normalizer: str = "text"
    rank: RankWith | None = None
    rank_s: float = 2.0


class BestRouteStrategy:
    """The candidates of a best_route router over `pools`, at a threshold."""

    def __init__(
        self,
        name: str,
        router: ServedRouter,
        threshold: float,
        pools: Mapping[str, Pool],
        best_of: BestOf,
        *,
        warning: str | None = None,
    ) -> None:
        self.name = name
        self._router, self._threshold, self._pools, self._best_of = router, threshold, pools, best_of
        self._warning = warning
        self._refusing: set[str] = set()

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The chosen pool and number of answers; no pool is called. Raises UnsupportedParameter if no pool can."""
        chosen, decision = await self._chosen(query, decision_id)
        run = EnsembleRun(self._served(chosen), query, Context(Call(decision_id, "", 0), stream=False))
        run.prepare()
        planned = run.planned()
        return self._merged(decision, planned)

    async def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then every call made; see the contract of Strategy."""
        with spanned("decide") as span:
            chosen, decision = await self._chosen(query, context.call.id)
            note_decision(span, decision)
        if decision.score is not None and self._router.watch is not None and not query.stays_unrecorded:
            self._router.watch.observe(query, decision.score)
        events = EnsembleRun(self._served(chosen), query, context).events()
        try:
            async for event in events:
                yield self._merged(decision, event) if isinstance(event, Decision) else event
        finally:
            await events.aclose()

    async def _chosen(self, query: Query, decision_id: str) -> tuple[SampledPool, Decision]:
        """The candidate, and what the router says of all of them."""
        started, needed = perf_counter(), 1.0 - self._threshold
        score, found, chosen = None, list[SampledEstimate](), SampledPool(REFERENCE)
        cause: Cause = "no_score"
        try:
            estimates = await self._router.sampled_estimates(query)
        except ScoringFailed as failure:
            reason = f"router {self._router.name} gave no estimate ({failure}): {REFERENCE} to be safe"
        else:
            score = next((1.0 - one.good_enough for one in estimates if one.candidate == _ONE), None)
            read = query.image_tokens  # routers read text alone
            found = [
                replace(one, prompt_tokens=one.prompt_tokens + read)
                for one in estimates
                if self._can(one.candidate, query)
            ]
            chosen, reason = self._cheapest(found, needed)
            cause = "utility"
        pool = self._pools[chosen.pool]
        expected = {
            str(one.candidate): {
                "quality": round(one.good_enough, 4),
                "cost_usd": one.cost_usd(self._pools[one.candidate.pool].price),
            }
            for one in found
        }
        decision = Decision(
            decision_id,
            self.name,
            pool.name,
            pool.model,
            reason,
            score=score,
            threshold=self._threshold,
            router=self._router.name,
            policy_version=f"{self._router.version}@{self._threshold:.6g}",
            expected=expected,
            warning=self._warning,
            decision_ms=(perf_counter() - started) * 1e3,
            cause=cause,
        )
        return chosen, decision

    def _cheapest(self, found: Sequence[SampledEstimate], needed: float) -> tuple[SampledPool, str]:
        """The cheapest candidate that is good enough; of equal costs the likelier. The reference always is."""
        able = [one for one in found if one.candidate.pool == REFERENCE or one.good_enough >= needed]
        if not able:
            return SampledPool(REFERENCE), f"no candidate is good enough with {needed:.3f}"
        costs = [one.cost_usd(self._pools[one.candidate.pool].price) for one in able]
        best, cost = min(zip(able, costs, strict=True), key=lambda pair: (pair[1], -pair[0].good_enough))
        if best.candidate == SampledPool(REFERENCE) and len(able) == 1:
            return best.candidate, f"nothing cheaper is good enough with {needed:.3f}: {best.candidate}"
        return best.candidate, (
            f"{best.candidate} is good enough with {best.good_enough:.3f} >= {needed:.3f} at {usd(cost)}, the cheapest"
        )

    def _can(self, candidate: SampledPool, query: Query) -> bool:
        """Whether a pool is served that can honour the query."""
        pool = self._pools.get(candidate.pool)
        return pool is not None and lacking(query, pool) is None

    def _served(self, chosen: SampledPool) -> ServedPlan:
        """The plan of one query: the chosen candidate, and the reference where it gives no answer."""
        rounds = [Round((MemberCalls(chosen.pool, chosen.samples),))]
        rounds += [Round((MemberCalls(name),)) for name in (REFERENCE, _ONE.pool) if name != chosen.pool]
        how = self._best_of
        plan = EnsemblePlan(tuple(rounds), how.select, "", how.normalizer)
        plan = replace(plan, version=version_of(plan))
        normalize = normalizer(how.normalizer)
        return ServedPlan(
            self.name, plan, self._pools, normalize, rank=how.rank, rank_s=how.rank_s, refusing=self._refusing
        )

    def _merged(self, decision: Decision, carried_out: Decision) -> Decision:
        """The choice, and how it was carried out."""
        return replace(
            decision,
            pool=carried_out.pool,
            model=carried_out.model,
            reason=f"{decision.reason}; {carried_out.reason}",
            features=carried_out.features,
            decision_ms=decision.decision_ms + carried_out.decision_ms,
            cause=decision.cause if carried_out.pool == decision.pool else "fallback",
        )


def serves_candidates(router: ServedRouter) -> bool:
    """Whether a router has candidates that can be served: it is a best_route router, loaded in this process."""
    return isinstance(router.registered.loaded, BestRouteRouter)
