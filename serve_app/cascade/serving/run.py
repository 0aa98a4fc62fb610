"""The state machine of every cascade: one query's run from stage to stage until an answer is relayed.

A `Cascade` is a fitted chain over pools; a `CascadeRun` is one query's run. The subclasses of both are the policies:
which stage is next, and how it is called. Everything else is here: what a failed stage means for those left, which
stages are worth their time, what the run may still return, how its calls are counted, and that none is left open.
Steps of a stage whose answer was not taken are marked wasted.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from math import isnan
from time import perf_counter
from typing import Any

from serve_app.cascade.base import Chain
from serve_app.cascade.serving.confidence import features_of
from serve_app.cascade.serving.relay import relay, with_needs
from serve_app.cascade.serving.skipping import LatencyEstimate
from serve_app.cascade.serving.stages import Stage, StageResult, plan_stages
from serve_app.errors import DeadlineExceeded, JethroError
from serve_app.pools.attempt import may_fall_back, most_relevant
from serve_app.pools.base import Pool
from serve_app.pools.pending import run_shielded
from serve_app.strategy import Context, Event, Spent
from serve_app.tracing.spans import spanned
from serve_app.types import Cause, Decision, Query, Step, Usage
from serve_app.wire.frames import Call

PriorOf = Callable[[str, Query], Awaitable[float | None]]
"""The strong win rate of a query by the router of this name; None if there is none."""


async def no_prior(router: str, query: Query) -> float | None:
    """No router is available."""
    return None


@dataclass(eq=False)
class Cascade(ABC):
    """A chain over pools, as a Strategy. `pools` has every pool of the chain by name."""

    name: str
    chain: Chain
    pools: Mapping[str, Pool]
    prior: PriorOf = no_prior
    latency: LatencyEstimate = field(default_factory=LatencyEstimate)
    router: str | None = field(default=None, init=False)
    """Whose score a run needs even if no signal does."""
    warning: str | None = field(default=None, init=False)
    """Of a router whose score it reads; its decisions carry it."""

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The first stage and the plan; no pool is called. Raises UnsupportedParameter if no level can honour it."""
        run = self.new_run(query, Context(Call(decision_id, "", 0), stream=False))
        await run.prepare()
        return run.planned()

    def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then every call made; see the contract of Strategy."""
        return self.new_run(query, context).events()

    @abstractmethod
    def new_run(self, query: Query, context: Context) -> "CascadeRun":
        """A run of this cascade's policy."""


class CascadeRun(ABC):
    """One query's run. `stages` can be called, `results` were. `prior`: the router's score, None if none is read."""

    def __init__(self, cascade: Cascade, query: Query, context: Context) -> None:
        self.cascade, self.query, self.context = cascade, query, context
        self.stages: list[Stage] = []
        self.results: list[StageResult] = []
        self.prior: float | None = None
        self.prior_ms = 0.0
        self.notes: list[str] = []
        """What the Decision's reason adds to the confidences."""
        self.stays: Pool | None = None
        """The pool that the conversation is with, if the run begins there."""
        self.called: list[Stage] = []
        """Stages that had their turn; one that a race has begun may still get its own."""

    # The policy.

    async def prepare(self) -> None:
        """Plan the stages; levels that the prior rules out become reserves. Raises UnsupportedParameter."""
        self.stages, self.notes = plan_stages(self.cascade.chain, self.cascade.pools, self.query)
        self.stays_with(self.stages)
        router = next((s.needs.prior for s in self.stages if s.needs.prior), self.cascade.router)
        if router is None:
            return
        started = perf_counter()
        self.prior = await self.cascade.prior(router, self.query.scored)
        self.prior_ms = (perf_counter() - started) * 1e3
        if self.prior is None:
            return
        hopeless = [s for s in self.stages if s.checked and self.prior > s.level.prior_limit]
        for s in hopeless:
            why = f"prior {self.prior:.3f} > {s.level.prior_limit:.3f}"
            self.notes.append(f"no answer of {s.pool.model} could convince ({why})")
        reserves = [Stage(s.level, s.pool, checked=False, reserve=True) for s in hopeless]
        self.stages = [*(s for s in self.stages if s not in hopeless), *reserves]

    def stays_with(self, stages: list[Stage]) -> None:
        """Begin at the stage whose pool has the conversation: those below it become reserves, those above stay."""
        session = self.query.session
        names = [stage.pool.name for stage in stages if not stage.reserve]
        if session is None or not session.stays or session.pool not in names:
            return
        at = names.index(session.pool)
        self.stays = stages[at].pool
        self.notes.append(f"the conversation stays with {self.stays.model}")
        below = [replace(stage, checked=False, reserve=True) for stage in stages[:at]]
        self.stages = [*stages[at:], *below]

    def next_stage(self) -> Stage | None:
        """The stage to call now; by default the next one up the chain."""
        return self.stages[len(self.called)] if len(self.called) < len(self.stages) else None

    def query_for(self, stage: Stage) -> Query:
        """The query as the stage's pool receives it; by default with what its signal needs."""
        return with_needs(self.query, stage.needs)

    @abstractmethod
    async def call(self, result: StageResult) -> None:
        """Call a stage until it is known whether its answer is taken. Raises JethroError if there is none."""

    def choice(self) -> StageResult | None:
        """The answer to return once no further stage is called; by default the one most probably correct."""
        return self.best

    def settle(self, spent: Spent) -> None:  # noqa: B027 - a hook
        """The run has ended with an answer."""

    # The loop.

    async def events(self) -> AsyncGenerator[Event]:
        """Decision, then frames or one Answer, then Spent."""
        with spanned("decide", {"jethro.strategy": self.cascade.name}) as span:
            await self.prepare()
            if span is not None:
                span.set({"jethro.score": self.prior})
        self.context.ledger.standing = self.standing
        try:
            while (stage := self.next_stage()) is not None and self._is_worth(stage):
                result, relayed = self.begin(stage), False
                self.called.append(stage)
                try:
                    await self.call(result)
                    if result.accepted:
                        async with aclosing(self._take(result)) as events:
                            async for event in events:
                                relayed = True
                                yield event
                        return
                except JethroError as error:
                    if relayed:  # no other answer can continue what the caller has received of this one
                        raise
                    self._failed(result, error)
                await self._close(result, "replaced" if result.confidence is None else f"replaced: {result.confidence}")
            best = self.choice()
            if best is None:
                raise self._most_informative_error
            async with aclosing(self._take(best)) as events:
                async for event in events:
                    yield event
        finally:
            await run_shielded(self.aclose())

    async def aclose(self) -> None:
        """Cancel every call that is still open."""
        for result in self.results:
            await self._close(result, "cancelled")

    def begin(self, stage: Stage) -> StageResult:
        """The stage's result, to be filled in by `call`; the open one if a race has begun it."""
        for result in self.results:
            if result.stage is stage and result.stream is not None:
                return result
        self.context.demand.requested(stage.pool.name)
        last = not self._others(stage) and all(r.error is not None for r in self.results)
        call = replace(self.context.call, may_wait=last)
        self.results.append(StageResult(stage, self.query_for(stage), call))
        return self.results[-1]

    @property
    def best(self) -> StageResult | None:
        """The whole answer that is most probably correct."""
        return max((r for r in self.results if r.whole), key=lambda r: r.probability, default=None)

    @property
    def within_s(self) -> float | None:
        """Seconds left for a stage if there is an answer to return instead; None: as long as the caller waits."""
        return self.cascade.latency.left_s(self.context.call) if self.best is not None else None

    def took(self, result: StageResult) -> None:
        """Learn the latency of a call that gave a whole answer."""
        self.cascade.latency.add(result.stage.pool.name, result.elapsed_ms / 1e3)

    def _is_worth(self, stage: Stage) -> bool:
        """Whether to call a stage; there may be an answer to return already."""
        if self.best is None:
            return True
        if stage.reserve:
            return False
        if not self.cascade.latency.allows(stage.pool.name, self.context.call):
            self.notes.append(f"no time for {stage.pool.model}")
            return False
        return True

    async def _take(self, result: StageResult) -> AsyncGenerator[Event]:
        """Relay this answer, once every other call is cancelled."""
        for other in self.results:
            if other is not result:
                await self._close(other, "raced in vain")
        opened, decided = result.stream is not None, False
        async with aclosing(relay(result, self.query, stream=self.context.stream)) as pieces:
            async for piece in pieces:
                if not decided:
                    decided = True
                    yield self.decision(result)
                yield piece
        if opened and not self.context.stream:  # a relayed stream takes as long as its reader does
            self.took(result)
        spent = Spent(self._steps(result))
        self.settle(spent)
        yield spent

    def _others(self, stage: Stage) -> list[Stage]:
        """Stages that may still be called."""
        return [s for s in self.stages if s is not stage and s not in self.called]

    def _failed(self, result: StageResult, error: JethroError) -> None:
        """Record that a stage gave no answer. Raises the most informative error if no other stage may do better and no
        answer has begun that could be returned instead.
        """
        self._record_failure(result, error)
        others = self._others(result.stage)
        if not others or any(r.error is None and (r.whole or r.confidence is not None) for r in self.results):
            return
        capabilities = result.stage.pool.capabilities
        if not any(may_fall_back(error, capabilities, stage.pool.capabilities) for stage in others):
            raise self._most_informative_error

    def _record_failure(self, result: StageResult, error: JethroError) -> None:
        result.fail(error)
        self.notes.append(f"{result.stage.pool.model} failed: {error.code}")

    async def _close(self, result: StageResult, why: str) -> None:
        """Close the stage's stream if it is open."""
        if result.stream is None:
            return
        stream, result.stream = result.stream, None
        result.interrupted = why
        frame = await stream.aclose()
        if stream.error is not None and result.error is None:  # raced, and failed before its turn
            self._record_failure(result, stream.error)
        if frame is not None:
            with suppress(JethroError):
                result.reading.frame(frame)
        result.ended_ms = result.elapsed_ms

    @property
    def _most_informative_error(self) -> JethroError:
        """What the caller gets if no stage has an answer."""
        return most_relevant([(r.error, r.stage.pool.capabilities) for r in self.results if r.error is not None])

    # What is reported.

    def decision(self, taken: StageResult) -> Decision:
        """The decision, once `taken` has sent its first byte, or is held whole."""
        found = [r.confidence for r in self.results if r.confidence is not None]
        deciding = taken.confidence or (found[-1] if found else None)
        return self._decision(
            taken.stage.pool,
            "; ".join([*(f"{c.pool}: {c}" for c in found), *self.notes, f"{taken.stage.pool.model} answers"]),
            score=None if deciding is None else deciding.probability,
            threshold=None if deciding is None or isnan(deciding.threshold) else deciding.threshold,
            features=features_of(found, self.prior),
            decision_ms=self.prior_ms + sum(c.ms for c in found),
            expected={c.pool: {"quality": round(c.probability, 6)} for c in found},
            cause=self._cause(taken),
            confidences={c.pool: c.probability for c in found},
        )

    def _cause(self, taken: StageResult) -> Cause:
        """Why this answer is returned."""
        others = [r for r in self.results if r is not taken]
        found = taken.confidence
        advised = found is not None and isnan(found.threshold) and not found.why  # no threshold decides
        if taken.stage.checked and not taken.accepted and not advised:
            return "best"
        if any(r.confidence is not None for r in others):
            return "escalated"
        if any(r.error is not None for r in others):
            return "fallback"
        if taken.stage.pool is self.stays:
            return "session"
        return "accepted" if taken.stage.checked else "unchecked"

    def planned(self) -> Decision:
        """What the run would do, with no pool called."""
        steps = [
            f"{s.pool.model} (taken if P(correct) by {s.level.signal.name} >= {s.level.threshold:.3f})"
            if s.checked and s.level.signal is not None
            else s.pool.model
            for s in self.stages
        ]
        first = self.stages[0]
        return self._decision(
            first.pool,
            "; ".join(["calls " + ", then ".join(steps), *self.notes]),
            threshold=first.level.threshold if first.checked else None,
            features=features_of((), self.prior),
            decision_ms=self.prior_ms,
            expected={},
        )

    def _decision(self, pool: Pool, reason: str, expected: dict[str, dict[str, float]], **figures: Any) -> Decision:
        """`expected`: of each answer that was checked; the chain's own, as fitted, is added."""
        chain = self.cascade.chain
        if chain.expected:
            expected = {"chain": {name: float(value) for name, value in chain.expected.items()}} | expected
        figures |= {"policy_version": chain.version, "expected": expected, "warning": self.cascade.warning}
        return Decision(self.context.call.id, self.cascade.name, pool.name, pool.model, reason, **figures)

    def standing(self) -> tuple[Step, ...]:
        """Every call so far, for a request that ends without an answer: all are wasted. No usage is guessed."""
        return self._steps(None)

    def _steps(self, taken: StageResult | None) -> tuple[Step, ...]:
        """Every call, in the order in which the stages were called.

        A call that was cut off has reported no usage: its prompt counts as many tokens as in the taken one, and of its
        answer those that were received.
        """
        prompt = taken.prompt_tokens if taken is not None else max((r.prompt_tokens for r in self.results), default=0)
        steps: list[Step] = []
        for result in self.results:
            if not result.recorded:
                reason = result.interrupted or str(result.confidence or "cut off")
                result.record(reason, result.reading.usage or Usage(prompt, result.reading.written))
            steps += [s if result is taken else replace(s, wasted=True) for s in result.steps]
        return tuple(steps)


def late(result: StageResult) -> DeadlineExceeded:
    """The error of a stage that has no answer at the deadline."""
    return DeadlineExceeded(f"{result.stage.pool.model} did not finish before the deadline")
