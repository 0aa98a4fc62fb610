"""An ensemble as a strategy: several models answer, and the best answer, or one fused from the best, is returned.

LLM-Blender (Jiang et al. 2023, arXiv 2306.02561) ranks all candidates and fuses the best; self-consistency (Wang et al.
2023, arXiv 2203.11171) takes the plurality. Which members are called, in which rounds, and when it may stop is the
plan's, fitted on data.

Members are called at once, and none is waited for longer than the plan allows: what fails, is late or says nothing is
left out, and the decision says so. An answer that is compared with none is relayed as it is written; of others the
winner is held whole first. No call is left open, however the run ends.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import monotonic, perf_counter

from serve_app.ensemble.base import MemberCalls, Round
from serve_app.ensemble.fusing.by_prompt import fusing_query
from serve_app.ensemble.serving.calls import HeldCall, said_nothing
from serve_app.ensemble.serving.candidates import eligible
from serve_app.ensemble.serving.choosing import Chosen, choose, counts
from serve_app.ensemble.serving.fusing import FusedText, fuse, to_fuse, why_not_fused
from serve_app.ensemble.serving.gathering import Gathering
from serve_app.ensemble.serving.reporting import described, figures, outcomes, reason
from serve_app.ensemble.serving.served import ServedPlan
from serve_app.errors import ContextLengthExceeded, DeadlineExceeded, JethroError, PoolUnavailable, UpstreamError
from serve_app.pools.attempt import BARRED, lacking, most_relevant, refusal, why_skipped
from serve_app.pools.base import Pool
from serve_app.pools.pending import PendingStream, run_shielded
from serve_app.strategy import Context, Event, Spent
from serve_app.tracing.spans import spanned
from serve_app.types import Cause, Decision, Query, Step, Usage, total_usage
from serve_app.wire.frames import Call, Frame, usage_from_openai

logger = logging.getLogger("jethro.ensemble")


@dataclass(eq=False)
class Ensemble(ServedPlan):
    """A plan in service, as a Strategy; each query is a run of its own.

    An answer, whichever member gave it, is returned as that member's pool wrote it. Runs share nothing but the plan and
    what was learned about pools that take no `n`.
    """

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The plan; no pool is called. Raises UnsupportedParameter if no member can honour the query."""
        run = EnsembleRun(self, query, Context(Call(decision_id, "", 0), stream=False))
        run.prepare()
        return run.planned()

    def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then every call made; see the contract of Strategy."""
        return EnsembleRun(self, query, context).events()


class EnsembleRun:
    """One query's run. `rounds`: of the plan, with the members that can honour the query."""

    def __init__(self, ensemble: ServedPlan, query: Query, context: Context) -> None:
        self.ensemble, self.query, self.context = ensemble, query, context
        self.rounds: list[Round] = []
        self.notes: list[str] = []
        self._voting = ensemble.voting(query)
        self._gathering = Gathering(ensemble, query, context)
        self._streams: list[PendingStream] = []
        self._used: list[HeldCall] = []
        self._threshold: float | None = None
        self._ms = 0.0

    def prepare(self) -> None:
        """Leave out members that cannot honour the query. Raises UnsupportedParameter if none can."""
        lacks: list[tuple[Pool, str]] = []
        for each in self.ensemble.plan.rounds:
            able = []
            for member in each.calls:
                pool = self.ensemble.pools[member.pool]
                if (lack := self._lacking(member, pool)) is None:
                    able.append(member)
                else:
                    lacks.append((pool, lack))
            if able:
                self.rounds.append(replace(each, calls=tuple(able)))
        if not self.rounds:
            raise refusal(lacks[-1][1], " or ".join(dict.fromkeys(pool.model for pool, _ in lacks)))
        self.notes += [why_skipped(pool.model, lack) for pool, lack in lacks]

    async def events(self) -> AsyncGenerator[Event]:
        """Decision, then frames or one Answer, then Spent."""
        with spanned("decide", {"jethro.strategy": self.ensemble.name}):
            self.prepare()
        self.context.ledger.standing = self.standing
        try:
            async with aclosing(self._answered()) as events:
                async for event in events:
                    yield event
        finally:
            await run_shielded(self.aclose())

    async def aclose(self) -> None:
        """Cancel every call that is still open."""
        for stream in self._streams:
            await stream.aclose()
        await self._gathering.aclose()

    def standing(self) -> tuple[Step, ...]:
        """Every call so far, for a request that ends without an answer: all are wasted."""
        return self._gathering.steps(())

    async def _answered(self) -> AsyncGenerator[Event]:
        gathering = self._gathering
        for number, each in enumerate(self.rounds):
            gathering.round = number
            if gathering.held and gathering.until_s <= monotonic():
                self.notes.append(f"no time for round {number + 1} of {len(self.rounds)}")
                break
            only = self._compared_with_none(number)
            if only is not None:
                (call,) = gathering.begin(only, stream=True, may_wait=not gathering.held)
                end = f"{call.pool.model} answers, " + ("as the last" if gathering.held else "alone")
                within_s = gathering.left_s if gathering.held else None
                async with aclosing(self._relayed(call, [call], None, end, within_s)) as events:
                    async for event in events:
                        yield event
                if self._used:
                    return
                continue
            await self._call(number, each)
            if self._stops(number, each):
                break
        if not gathering.held:
            raise self._error()
        choice = await self._choose()
        async with aclosing(self._shown(choice)) as events:
            async for event in events:
                yield event

    # Rounds.

    def _lacking(self, member: MemberCalls, pool: Pool) -> str | None:
        """What the member cannot do that the query, or the plan, requires."""
        query = self.query if member.adapter is None else replace(self.query, adapter=member.adapter)
        lack = lacking(query, pool)
        if lack is None and self.ensemble.plan.select == "logprob" and not pool.capabilities.logprobs:
            return "logprobs"
        return lack

    def _compared_with_none(self, number: int) -> MemberCalls | None:
        """The one member of the round that decides, if its answer can be relayed as it is written."""
        calls, decides = self.rounds[number].calls, self._decides(number)
        if not self.context.stream or not decides or len(calls) > 1 or calls[0].samples > 1:
            return None
        returned = self.ensemble.plan.select == "last" or not self._gathering.held
        return calls[0] if returned and not (self.ensemble.fuses and self._gathering.held) else None

    def _decides(self, number: int) -> bool:
        """Whether no further round is called once this one has an answer."""
        return number == len(self.rounds) - 1 or self.rounds[number].stop_at <= 0.0

    async def _call(self, number: int, each: Round) -> None:
        """Call the members of a round; of the last once more, and waiting for replicas, if no member has had any."""
        gathering, last = self._gathering, self._decides(number)
        decides = self.ensemble.plan.select == "vote" and not self.ensemble.fuses
        least = 0.0 if last else each.stop_at

        def is_enough(outstanding: list[str]) -> bool:
            votes = [vote for one in eligible(gathering.held) for vote in one.votes]
            return decides and self.query.sampling.n == 1 and self._voting.is_settled(votes, outstanding, least)

        alone = len(self.rounds) == 1 and sum(member.samples for member in each.calls) == 1
        for may_wait in (alone, True):
            calls = [
                call
                for member in each.calls
                for call in gathering.begin(member, stream=self.context.stream, may_wait=may_wait)
            ]
            await gathering.gather(calls, is_enough)
            asleep = all(isinstance(call.error, PoolUnavailable) for call in gathering.calls)
            further = may_wait or number < len(self.rounds) - 1 or not self.context.call.may_wait
            if gathering.held or not asleep or further:
                return

    def _stops(self, number: int, each: Round) -> bool:
        """Whether the answer that leads after a round is taken."""
        held, rounds = eligible(self._gathering.held), len(self.rounds)
        if not held or each.stop_at > 1.0:
            return False
        if self._decides(number):
            return True
        sure = self._voting.sure([vote for one in held for vote in one.votes])
        self._threshold = each.stop_at
        stops = sure >= each.stop_at
        sign, what = (">=", "stopped") if stops else ("<", "continued")
        self.notes.append(f"{what} after round {number + 1} of {rounds}: {sure:.3f} {sign} {each.stop_at:.3f}")
        return stops

    def _error(self) -> JethroError:
        """What the caller gets if no member has an answer."""
        calls, silent = self._gathering.calls, {one.call for one in self._gathering.silent}
        errors = [(call, said_nothing(call) if call in silent else call.error) for call in calls]
        failures = [(error, call.pool.capabilities) for call, error in errors if error is not None]
        late = [call for call, error in errors if error is None]
        if late or not failures:
            return DeadlineExceeded(f"{' and '.join(c.pool.model for c in late)} did not finish before the deadline")
        return most_relevant(failures)

    # The answer.

    async def _choose(self) -> Chosen:
        ensemble, started = self.ensemble, perf_counter()
        held = self._gathering.candidates
        with spanned("choose", {"jethro.select": ensemble.plan.select}):
            choice = await choose(held, ensemble, self._voting, self.query, self.context.call)
        self._ms += (perf_counter() - started) * 1e3
        return choice

    async def _shown(self, choice: Chosen) -> AsyncGenerator[Event]:
        """The fused answer, or else the best candidate's."""
        best = to_fuse(choice.order, self.ensemble.plan.fuse_top) if self.ensemble.fuses else []
        why_not = why_not_fused(self.query, best) if best else ""
        if best and not why_not:
            async with aclosing(self._fused(choice)) as events:
                async for event in events:
                    yield event
            if self._used:
                return
        elif why_not:
            self.notes.append(f"not fused: {why_not}")
        winner = choice.best
        self._used = [winner.call]
        yield self._decision(winner.call.pool, choice, f"{winner.call.pool.model} answers")
        yield winner.call.shown(self.query, winner.choice)
        yield self._spent()

    async def _fused(self, choice: Chosen) -> AsyncGenerator[Event]:
        """The fused answer; nothing if there is none in time, and a note says why."""
        ensemble, started = self.ensemble, perf_counter()
        best = to_fuse(choice.order, ensemble.plan.fuse_top)
        if ensemble.fuse_pool is not None and self.query.endpoint != "chat":
            self.notes.append("not fused: the endpoint is no chat")
            return
        if ensemble.fuse_pool is not None and not self.query.may_reach(ensemble.fuse_pool):
            self.notes.append(f"not fused: {why_skipped(ensemble.pools[ensemble.fuse_pool].model, BARRED)}")
            return
        if ensemble.fuser_cooldown.is_active():
            self.notes.append("not fused: the fuser failed many times before and is left alone for a while")
            return
        if ensemble.fuse_pool is not None:
            async with aclosing(self._fused_by_prompt(choice, MemberCalls(ensemble.fuse_pool))) as events:
                async for event in events:
                    yield event
            return
        fused = await fuse(self.query.text, best, ensemble, self._limit_s(ensemble.fuse_s))
        self._ms += (perf_counter() - started) * 1e3
        if not fused.used:
            self.notes.append(f"not fused: {fused.reason}")
            return
        self._used = [best[i].call for i in fused.used]
        labels = ", ".join(best[i].label for i in fused.used)
        pool, spent = best[0].call.pool, self._spent()
        yield self._decision(pool, choice, f"fused from {labels}")
        text = FusedText(fused.text, pool.model, total_usage(spent.steps))
        yield text.shown(self.query, self.context.call, stream=self.context.stream)
        yield spent

    async def _fused_by_prompt(self, choice: Chosen, member: MemberCalls) -> AsyncGenerator[Event]:
        """The answer of a pool that is shown the candidates, with fewer where they do not fit its context."""
        best, cooldown = to_fuse(choice.order, self.ensemble.plan.fuse_top), self.ensemble.fuser_cooldown
        limit_s = self._limit_s(self.ensemble.fuse_s)
        end_s = monotonic() + limit_s
        for count in range(len(best), 1, -1):
            sent = fusing_query(self.query, [one.texts[0] for one in best[:count]])
            call = self._gathering.begin_with(member, sent, stream=self.context.stream)
            used, labels = [call, *(one.call for one in best[:count])], ", ".join(one.label for one in best[:count])
            end, left_s = f"{call.pool.model} fuses {labels}", max(0.0, end_s - monotonic())
            async with aclosing(self._relayed(call, used, choice, end, left_s)) as events:
                async for event in events:
                    yield event
            if not isinstance(call.error, ContextLengthExceeded):
                break
        if self._used or isinstance(call.error, ContextLengthExceeded):
            cooldown.succeeded()
        elif counts(limit_s, self.ensemble.fuse_s):
            cooldown.failed()
        if not self._used:
            self.notes.append(f"not fused: {call.pool.model} gave no answer")

    async def _relayed(
        self, call: HeldCall, used: Sequence[HeldCall], choice: Chosen | None, end: str, within_s: float | None
    ) -> AsyncGenerator[Event]:
        """The answer of a call as it is written; nothing if it fails before its first byte, or after `within_s`.

        `used`: the calls that the answer is made of; `choice`: the candidates it is fused from.
        """
        shown = call.filter_for(self.query)
        if not self.context.stream:
            await self._gathering.gather([call], lambda outstanding: False, within_s)
            if not call.whole or call.reading.says_nothing:
                return
            self._used = list(used)
            yield self._decision(call.pool, choice, end)
            yield call.shown(self.query, None)
            yield self._spent()
            return
        stream = PendingStream(call.pool, call.sent, call.call)
        self._streams.append(stream)
        opening = await self._opening(call, stream, within_s)
        if not opening:
            return
        self._used = list(used)
        yield self._decision(call.pool, choice, end)
        usage = None
        for frame in opening:
            usage = frame.usage or usage
            yield shown.frame(frame)
        while (following := await stream.next()) is not None:
            usage = following.usage or usage
            yield shown.frame(following)
        call.usage = usage_from_openai(usage)
        call.end()
        yield self._spent()

    async def _opening(self, call: HeldCall, stream: PendingStream, within_s: float | None) -> list[Frame]:
        """The frames up to the first that says something; none, and the call has its error, without that in time."""
        model, frames = call.pool.model, list[Frame]()
        try:
            async with asyncio.timeout(within_s):
                while (frame := await stream.next()) is not None:
                    frames.append(frame)
                    call.reading.frame(frame)
                    if not call.reading.says_nothing or (self.query.sampling.stop and call.reading.finished):
                        return frames
            call.error = said_nothing(call)
        except TimeoutError:
            call.error = DeadlineExceeded(f"{model} did not begin before the deadline")
        except JethroError as error:
            call.error = error
        except Exception:
            logger.exception("pool %s failed", call.pool.name)
            call.error = UpstreamError(f"{model} failed; the log says why")
        call.end()
        await stream.aclose()
        return []

    def _limit_s(self, most_s: float) -> float:
        """At most so many seconds, fewer where the caller's deadline is nearer."""
        deadline_s = self.context.call.deadline_s
        return most_s if deadline_s is None else min(most_s, max(0.0, deadline_s - monotonic()))

    # What is reported.

    def planned(self) -> Decision:
        """What the run would do, with no pool called."""
        plan = self.ensemble.plan
        first = self.ensemble.pools[self.rounds[0].calls[0].pool]
        fused = f", the best {plan.fuse_top} are fused" if self.ensemble.fuses else ""
        why = "; ".join([f"calls {described(self.rounds)}; picks by {plan.select}{fused}", *self.notes])
        stop_at = self.rounds[0].stop_at if len(self.rounds) > 1 and 0.0 < self.rounds[0].stop_at <= 1.0 else None
        return replace(self._decision(first, None, ""), reason=why, threshold=stop_at)

    def _decision(self, pool: Pool, choice: Chosen | None, end: str) -> Decision:
        """The decision that `pool` answers, once its first byte is there."""
        plan, gathering = self.ensemble.plan, self._gathering
        return Decision(
            self.context.call.id,
            self.ensemble.name,
            pool.name,
            pool.model,
            reason(gathering, choice, [*self.notes, *self._voting.failed], end),
            score=None if choice is None else choice.probability,
            threshold=self._threshold,
            policy_version=plan.version,
            decision_ms=self._ms,
            expected=outcomes(plan),
            features=figures(gathering.held, choice),
            warning=self.ensemble.warning,
            cause=self._cause(),
        )

    def _spent(self) -> Spent:
        """Every call. One call for the answer would have read what a member read, and written what one sample holds.

        The first of the calls that the answer is made of wrote it; of a fused one, the last is a candidate.
        """
        writer, reader = self._used[0], self._used[-1]
        usage = writer.usage or writer.reading.usage or Usage()
        samples = max(1, writer.sent.sampling.n // max(1, self.query.sampling.n))
        answered = Usage(reader.prompt_tokens, round(usage.completion_tokens / samples))
        return Spent(self._gathering.steps(self._used), answered)

    def _cause(self) -> Cause:
        """Why this answer is returned."""
        if len(self._used) > 1:
            return "fused"
        return "picked" if len(self._gathering.held) > 1 else "unchecked"
