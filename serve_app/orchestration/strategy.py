"""Orchestration as a strategy: the task's tiers answer in turn, and an answer that fails its checks is not sent.

What Apple's foundation-model reports describe (arXiv 2407.21075, 2507.13575): a local model with an adapter for each
task, and a server pool for what is beyond it. The reports do not publish when a request is handed on; here it is when
an answer breaks its schema, calls a tool in vain, is of low confidence, does not fit the context, is refused by a
guard, or does not come. All of that is found out before the first byte, so that the caller sees one answer. The next
tier continues the work: it receives the turns and tool results that were there already.

A tier whose answer is checked is held whole. The last one passes through, unless tools run on the server.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import exp, isnan, nan
from time import perf_counter
from typing import Final

from serve_app.cascade.base import Calibrator, Level
from serve_app.cascade.serving.calls import call_for_answer
from serve_app.cascade.serving.confidence import confidence_in, features_of
from serve_app.cascade.serving.run import Cascade, CascadeRun, late
from serve_app.cascade.serving.stages import LevelConfidence, Stage, StageResult
from serve_app.cascade.serving.strategy import pass_through
from serve_app.cascade.signals.tokens import MinLogprob
from serve_app.config.orchestration import TierConfig
from serve_app.errors import ModelNotFound, UpstreamError
from serve_app.orchestration.checks import Judge, failed_check, no_judge
from serve_app.orchestration.server_tools import ServerTools, ToolFailure, turns_of
from serve_app.orchestration.tasks import Recognized, TaskTable, sent_to
from serve_app.pools.attempt import lacking, refusal, why_skipped
from serve_app.pools.base import Pool
from serve_app.routing.strategy import held_by
from serve_app.strategy import Context
from serve_app.tracing.spans import spanned
from serve_app.types import Decision, Message, Query, Usage
from serve_app.wire.answers import text_of

_CHECKS: Final = "checks"


class TokenProbability:
    """A log-probability as a probability. It is not calibrated; it compares answers of one model."""

    def probability(self, value: float) -> float:
        """In [0, 1]; 0 for nan."""
        return 0.0 if isnan(value) else min(exp(value), 1.0)


_TOKENS: Final[Calibrator] = TokenProbability()


def unchanged(query: Query, task: str) -> Query:
    """Without placement no task has rules."""
    del task
    return query


@dataclass(eq=False)
class Orchestration(Cascade):
    """A task table over pools, as a Strategy.

    `router`: whose win rate, at or above `threshold`, has a query begin at a `strong` tier; `router_note`: what the
    decisions that read it carry as a warning. `narrow`: returns a query with the rules of placement for a task.
    """

    table: TaskTable = field(kw_only=True)
    tools: ServerTools = field(kw_only=True)
    router: str | None = None
    threshold: float = 0.5
    router_note: str | None = None
    judge: Judge = no_judge
    narrow: Callable[[Query, str], Query] = unchanged

    def new_run(self, query: Query, context: Context) -> "OrchestrationRun":
        """A run through the tiers of the query's task. Raises RequestError for a hint that names no task."""
        task = self.table.recognize(query)
        return OrchestrationRun(self, self.narrow(query, task.name), context, task)


@dataclass(frozen=True, slots=True)
class CheckedAnswer(LevelConfidence):
    """The outcome of the checks alone: an answer passes them or does not, and nothing is said of its probability."""

    @property
    def accepted(self) -> bool:
        """Whether it passed."""
        return not self.why

    def __str__(self) -> str:
        return self.why or "passed its checks"


@dataclass(frozen=True, slots=True, eq=False)
class TierStage(Stage):
    """A tier that can be called."""

    tier: TierConfig = field(kw_only=True)


class OrchestrationRun(CascadeRun):
    """One query's run. `work`: turns that were added by tools, which every later tier receives."""

    cascade: Orchestration

    def __init__(self, strategy: Orchestration, query: Query, context: Context, task: Recognized) -> None:
        super().__init__(strategy, query, context)
        self.task = task
        self.work: list[Message] = []

    async def prepare(self) -> None:
        """Plan the tiers that can honour the query. Raises UnsupportedParameter if none can.

        Tiers in front of the one where the router has the query begin are reserves, for when no later one answers.
        """
        strategy, row = self.cascade, self.task.row
        self.notes.append(str(self.task))
        able: list[tuple[TierConfig, Pool]] = []
        lacks: list[tuple[Pool, str]] = []
        for tier in row.tiers:
            pool = strategy.pools[tier.pool]
            lack = lacking(strategy.tools.offered(sent_to(self.query, row, tier), row.tools), pool)
            if lack is None:
                able.append((tier, pool))
            else:
                lacks.append((pool, lack))
        if not able:
            raise refusal(lacks[-1][1], " or ".join(dict.fromkeys(pool.model for pool, _ in lacks)))
        self.notes += [why_skipped(pool.model, lack) for pool, lack in lacks]
        begin, last = await self._begin([tier for tier, _ in able]), len(able) - 1
        if (held := held_by(self.query, [pool for _, pool in able])) is not None:
            begin = max(begin, next(i for i, (_, pool) in enumerate(able) if pool is held))
            self.stays = held
            self.notes.append(f"the conversation stays with {held.model}")
        stages = [
            TierStage(self._level(tier), pool, checked=begin <= i < last, reserve=i < begin, tier=tier)
            for i, (tier, pool) in enumerate(able)
        ]
        self.stages = [*stages[begin:], *stages[:begin]]

    async def _begin(self, tiers: Sequence[TierConfig]) -> int:
        """The position of the tier that is called first: the `strong` one if the router sends the query there."""
        at = next((i for i, tier in enumerate(tiers) if tier.strong), 0)
        if not at or self.cascade.router is None:
            return 0
        started = perf_counter()
        self.prior = await self.cascade.prior(self.cascade.router, self.query.scored)
        self.prior_ms = (perf_counter() - started) * 1e3
        if self.prior is None or self.prior < self.cascade.threshold:
            return 0
        self.notes.append(f"win rate {self.prior:.3f} >= threshold {self.cascade.threshold:.3f}")
        return at

    def _level(self, tier: TierConfig) -> Level:
        """What decides of an answer of this tier: nothing but its checks, unless a confidence is demanded."""
        if tier.min_confidence is None:
            return Level(tier.pool)
        return Level(tier.pool, MinLogprob(), _TOKENS, tier.min_confidence)

    def query_for(self, stage: Stage) -> Query:
        """The query in the task's form, with this tier's adapter, the work so far and the server's tools."""
        assert isinstance(stage, TierStage)
        sent = sent_to(self.query, self.task.row, stage.tier, self.work)
        return self.cascade.tools.offered(sent, self.task.row.tools)

    async def call(self, result: StageResult) -> None:
        """Call a tier; a checked one until it is known whether its answer passes."""
        runs_tools = bool(self.task.row.tools)
        if not result.stage.checked and not runs_tools:
            await pass_through(self, result)
            return
        try:
            async with asyncio.timeout(self.cascade.latency.left_s(result.call) if result.stage.checked else None):
                await self._answered(result)
        except TimeoutError:
            raise late(result) from None
        except ModelNotFound as error:  # the table's own adapter was removed: no fault of the caller
            if self.query.adapter is not None:
                raise
            raise UpstreamError(error.message, code="adapter_missing") from error
        self.took(result)

    async def _answered(self, result: StageResult) -> None:
        """Hold the answer of a tier whole, once no tool of the server is left to run, and check it."""
        steps, tools = 0, self.cascade.tools
        while True:
            await call_for_answer(result, stream=self.context.stream)
            usage = result.reading.usage or Usage()
            calls = tools.to_run(result.reading, self.query, self.task.row.tools)
            if not calls:
                break
            result.record("calls " + ", ".join(dict.fromkeys(call.name for call in calls)), usage, further=True)
            steps += 1
            if steps > tools.most_steps:
                raise ToolFailure(f"{result.stage.pool.model} called tools in more than {tools.most_steps} turns")
            outcomes = await tools.run(calls)
            self.work += turns_of(calls, outcomes)
            if result.stage.checked and any(outcome.failed for outcome in outcomes):
                raise ToolFailure(f"a tool that {result.stage.pool.model} called failed")
            result.ask_again(self.query_for(result.stage))
        result.record("answered", usage)
        with spanned("assess", {"jethro.pool": result.stage.pool.name}) as span:
            result.confidence = await self._confidence(result)
            if span is not None:
                span.set({"jethro.accepted": result.confidence.accepted})
        result.steps[0] = replace(result.steps[0], reason=str(result.confidence))

    async def _confidence(self, result: StageResult) -> LevelConfidence:
        """Whether the answer passes; that of the last tier does whatever it is."""
        started = perf_counter()
        why = await self._failed_check(result) if result.stage.checked else ""
        if result.stage.level.signal is not None:
            found = confidence_in(result, self.prior)
            return replace(found, why=found.why or why)
        ms = (perf_counter() - started) * 1e3
        return CheckedAnswer(result.stage.pool.name, _CHECKS, nan, 0.0 if why else 1.0, nan, ms, why)

    async def _failed_check(self, result: StageResult) -> str:
        """Why the answer of a tier is not sent: by the row's checks, then by the guards."""
        if why := failed_check(result.reading, result.sent, self.task.row.checks):
            return why
        name, judge = result.stage.pool.name, self.cascade.judge
        for said in result.reading.choices.values():
            if why := await judge(text_of(said), self.query, self.context, name):
                return why
        return ""

    @property
    def best(self) -> StageResult | None:
        """The whole answer of which its model is surest; none that failed a check."""
        passed = (r for r in self.results if r.whole and (r.confidence is None or not r.confidence.why))
        return max(passed, key=lambda r: r.probability, default=None)

    def decision(self, taken: StageResult) -> Decision:
        """With the task, and the adapter of the tier that answers; without a score where only checks decided."""
        decision = self._named(super().decision(taken), taken.sent)
        of_checks = {r.stage.pool.name for r in self.results if isinstance(r.confidence, CheckedAnswer)}
        found = {pool: p for pool, p in decision.confidences.items() if pool not in of_checks}
        decision = replace(decision, confidences=found)
        if taken.confidence is not None and not isinstance(taken.confidence, CheckedAnswer):
            return decision
        return replace(decision, score=None, threshold=None, expected={}, features=features_of((), self.prior))

    def planned(self) -> Decision:
        """What the run would do, with no pool called."""
        return self._named(super().planned(), self.query_for(self.stages[0]))

    def _named(self, decision: Decision, sent: Query) -> Decision:
        warning = None if self.prior is None else self.cascade.router_note
        return replace(decision, task=self.task.name, adapter=sent.adapter, warning=warning)
