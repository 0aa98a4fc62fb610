"""The calls of one run: begun at once, waited for no longer than the plan allows, and none left open.

A member of several samples is called once for all of them where its pool takes `n`, else once for each.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from time import monotonic
from typing import Final

from serve_app.data.answers import EXTRA_TEMPERATURE
from serve_app.ensemble.base import MemberCalls
from serve_app.ensemble.serving.calls import HeldCall
from serve_app.ensemble.serving.candidates import CUT, NOTHING, HeldAnswer, answers_in
from serve_app.ensemble.serving.served import ServedPlan
from serve_app.pools.base import Pool
from serve_app.pools.samples import refuses_n, singly
from serve_app.strategy import Context
from serve_app.types import Query, Step
from serve_app.wire.response_filter import with_logprobs

_RESERVE: Final = 0.2
"""Of the caller's time, the part that is kept for choosing among the candidates; at most `ServedPlan.reserve_s`."""
_CLOSING_S: Final = 0.1
"""Longest wait for a cancelled call before the answer is sent; the end of the run waits for all."""


class Gathering:
    """Calls and candidates of a run. The time that choosing needs is kept of the caller's."""

    def __init__(self, served: ServedPlan, query: Query, context: Context) -> None:
        plan = served.plan
        self.calls: list[HeldCall] = []
        self.held: list[HeldAnswer] = []
        self.silent: list[HeldAnswer] = []
        """Answers that say nothing: no candidates, and their calls count as failed."""
        self.round = 0
        self._plan, self._pools, self._query, self._context = plan, served.pools, query, context
        self._normalize, self._refusing = served.normalize, served.refusing
        self._samples = Counter[str]()
        for member in plan.members:
            self._samples[member.name] += member.samples
        self._drawn = Counter[str]()
        self._tasks: dict[asyncio.Task[None], HeldCall] = {}
        started, deadline_s = monotonic(), context.call.deadline_s
        self._soft_s = inf if plan.deadline_s is None else started + plan.deadline_s
        self._hard_s = self._last_s = inf
        if deadline_s is not None:
            self._hard_s = deadline_s - min(served.reserve_s, _RESERVE * max(0.0, deadline_s - started))
            self._last_s = deadline_s

    @property
    def until_s(self) -> float:
        """When waiting ends, by the monotonic clock: the later the fewer candidates there are."""
        if not self.held:
            return self._last_s
        there = sum(one.severity <= CUT for one in self.held)
        return min(self._soft_s, self._hard_s) if there >= self._plan.quorum else self._hard_s

    @property
    def left_s(self) -> float | None:
        """Seconds until then; None without a limit."""
        return None if self.until_s == inf else max(0.0, self.until_s - monotonic())

    @property
    def candidates(self) -> list[HeldAnswer]:
        """Those there are, in the order in which they were called, so that chance decides nothing."""
        at = {call: i for i, call in enumerate(self.calls)}
        return sorted(self.held, key=lambda one: (at[one.call], one.choice or 0))

    def begin(self, member: MemberCalls, *, stream: bool, may_wait: bool) -> list[HeldCall]:
        """The calls of a member, to be run. They count as demand."""
        pool, first = self._pools[member.pool], self._drawn[member.name]
        self._drawn[member.name] += member.samples
        sent, call = self._sent(member, pool, first), replace(self._context.call, may_wait=may_wait)
        alone = member.samples == 1
        if not alone and self._query.sampling.n == 1 and pool.name not in self._refusing:
            sampling = replace(sent.sampling, n=member.samples)
            return [self._begun(HeldCall(member, pool, replace(sent, sampling=sampling), call, stream, first))]
        step = sent.sampling.n
        sents = [sent] if alone else [_seeded(sent, i * step) for i in range(member.samples)]
        return [self._begun(HeldCall(member, pool, one, call, stream, first + i)) for i, one in enumerate(sents)]

    def begin_with(self, member: MemberCalls, sent: Query, *, stream: bool) -> HeldCall:
        """One call of a member with a query of its own, to be run. It counts as demand."""
        return self._begun(HeldCall(member, self._pools[member.pool], sent, self._context.call, stream))

    async def gather(
        self, calls: Sequence[HeldCall], is_enough: Callable[[list[str]], bool], within_s: float | None = None
    ) -> None:
        """Run calls until all have ended, `is_enough` (of the members whose votes are outstanding), or time is up.

        Time is up at `until_s`, or after `within_s` if it is given. What is still open then is cancelled.
        """
        end_s = None if within_s is None else monotonic() + within_s
        open_: dict[asyncio.Task[None], HeldCall] = {}
        self._run(calls, open_)
        while open_:
            left_s = self.left_s if end_s is None else max(0.0, end_s - monotonic())
            done, _ = await asyncio.wait(open_, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._run(self._ended(open_.pop(task)), open_)
            if done and open_ and is_enough([c.member.name for c in open_.values() for _ in range(c.sent.sampling.n)]):
                await self._cancel(open_, "not needed")
                return
            left_s = self.left_s if end_s is None else max(0.0, end_s - monotonic())
            if open_ and left_s == 0.0:
                await self._cancel(open_, "late")
                return

    async def aclose(self) -> None:
        """Cancel every call that is still open, and wait for its end."""
        for task, call in self._tasks.items():
            if not task.done():
                call.interrupted = call.interrupted or "cancelled"
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def steps(self, used: Sequence[HeldCall]) -> tuple[Step, ...]:
        """Every call so far; those that are not `used` are wasted. Usage is guessed only of those cut off."""
        prompt = max((call.prompt_tokens for call in self.calls), default=0)
        return tuple(call.step(self._reason(call), prompt, wasted=call not in used) for call in self.calls)

    def _reason(self, call: HeldCall) -> str:
        flaws = {one.flaw: None for one in (*self.held, *self.silent) if one.call is call and one.flaw}
        return call.interrupted or "; ".join(flaws) or ("candidate" if call.whole else "cut off")

    def _begun(self, call: HeldCall) -> HeldCall:
        call.round = self.round
        self._context.demand.requested(call.pool.name)
        self.calls.append(call)
        return call

    def _run(self, calls: Sequence[HeldCall], open_: dict[asyncio.Task[None], HeldCall]) -> None:
        for call in calls:
            task = asyncio.get_running_loop().create_task(call.run())
            open_[task] = self._tasks[task] = call

    def _ended(self, call: HeldCall) -> list[HeldCall]:
        """Take in what a call gave; returns the calls to make instead where its pool takes no `n`."""
        if call.error is None or call.sent.sampling.n == self._query.sampling.n or not refuses_n(call.error):
            for one in answers_in(call, self._query, self._normalize):
                (self.silent if one.severity == NOTHING else self.held).append(one)
            return []
        self._refusing.add(call.pool.name)
        self.calls.remove(call)
        queries = [query for query, _ in singly(call.sent, call.call, "")]
        return [
            self._begun(HeldCall(call.member, call.pool, one, call.call, call.stream, call.first + i))
            for i, one in enumerate(queries)
        ]

    async def _cancel(self, open_: Mapping[asyncio.Task[None], HeldCall], why: str) -> None:
        for task, call in open_.items():
            call.interrupted = why
            task.cancel()
        await asyncio.wait(open_, timeout=_CLOSING_S)

    def _sent(self, member: MemberCalls, pool: Pool, first: int) -> Query:
        """The query as the member gets it. Who is sampled more than once has a temperature, and seeds that differ."""
        query = self._query if member.adapter is None else replace(self._query, adapter=member.adapter)
        if self._plan.select == "logprob" and pool.capabilities.logprobs:
            query = with_logprobs(query)
        if self._samples[member.name] > 1 and not query.sampling.temperature:
            query = replace(query, sampling=replace(query.sampling, temperature=EXTRA_TEMPERATURE))
        return _seeded(query, first * query.sampling.n)


def _seeded(query: Query, offset: int) -> Query:
    """The query with another seed, if it has one: the same seed would draw the same answer."""
    seed = query.sampling.seed
    if seed is None or not offset:
        return query
    return replace(query, sampling=replace(query.sampling, seed=seed + offset))
