"""The cascade: ask the weakest model, judge its answer, go on to the next where it does not convince.

Chen, Zaharia & Zou 2024 (FrugalGPT, arXiv 2305.05176, section 3) and AutoMix (arXiv 2310.12963) over a fitted Chain. A
judged answer is held whole; that of the last level passes through. A level that fails, is full or cannot end in time is
passed over, and the best answer at hand is given if nothing better comes.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from time import perf_counter

from serve_app.cascade.base import Chain
from serve_app.cascade.serving.calls import Asking
from serve_app.cascade.serving.relay import Opening, Passing, first_frame
from serve_app.cascade.serving.response_filter import with_needs
from serve_app.cascade.serving.run import Ascent, Visit, Way, ways_up
from serve_app.cascade.serving.skipping import Patience
from serve_app.errors import DeadlineExceeded, JethroError
from serve_app.pools.base import Pool
from serve_app.strategy import Context, Event
from serve_app.types import Decision, Query
from serve_app.wire.frames import Call

PriorOf = Callable[[str, Query], Awaitable[float | None]]
"""The strong win rate of a query by the router of this name; None where it gives none."""


async def no_prior(router: str, query: Query) -> float | None:
    """No router is at hand."""
    return None


class CascadeStrategy:
    """Walks a chain of whole answers; see the module. `pools` has every pool of the chain by name."""

    def __init__(
        self,
        name: str,
        chain: Chain,
        pools: Mapping[str, Pool],
        prior: PriorOf = no_prior,
        patience: Patience | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        """`limits`: by pool, the prior above which it need not be asked (see `hopeless`)."""
        self.name = name
        self.chain = chain
        self.limits = limits or {}
        self._pools = pools
        self._prior = prior
        self._patience = patience or Patience()

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The first level and the chain. Raises UnsupportedParameter if no level can honour the query."""
        return (await self._begun(query, decision_id)).outlook()

    async def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then every call made; see the contract."""
        ascent = await self._begun(query, context.call.id)
        context.ledger.standing = ascent.standing
        taken: Visit | None = None
        for position, way in enumerate(ascent.ways):
            if not self._worth(way, ascent, context.call):
                break
            rest = ascent.ways[position + 1 :]
            context.demand.wanted(way.pool.name)
            call = replace(context.call, may_wait=not rest and ascent.best is None)
            visit = ascent.visit(way, with_needs(query, way.needs))
            if way.judged:
                asking = Asking(query, call, context.stream, ascent.prior)
                await judged_in_time(visit, rest, ascent, asking, self._patience)
            elif not context.stream:
                await self._completed(visit, rest, ascent, call)
            else:
                opening = Opening(way.pool, query, call)
                try:
                    if await self._begins(visit, opening, rest, ascent, call):
                        passing = Passing(ascent, visit, query, call, stream=True)
                        async with aclosing(passing.from_stream(opening, "taken")) as events:
                            async for event in events:
                                yield event
                        return
                finally:
                    await opening.aclose()
            if visit.accepted:
                taken = visit
                break
        taken = taken or ascent.best
        if taken is None:
            raise ascent.telling_error
        async with aclosing(Passing(ascent, taken, query, context.call, context.stream).from_hold()) as events:
            async for event in events:
                yield event

    async def _begun(self, query: Query, decision_id: str) -> Ascent:
        ways, notes = ways_up(self.chain, self._pools, query)
        ascent = Ascent(self.name, self.chain, decision_id, ways, notes)
        router = next((way.needs.prior for way in ways if way.needs.prior), None)
        if router is not None:
            started = perf_counter()
            ascent.prior = await self._prior(router, query)
            ascent.prior_ms = (perf_counter() - started) * 1e3
            ascent.pass_over(self.limits)
        return ascent

    def _worth(self, way: Way, ascent: Ascent, call: Call) -> bool:
        """Whether a level is asked, an answer being at hand perhaps."""
        if ascent.best is None:
            return True
        if way.reserve:
            return False
        if not self._patience.allows(way.pool.name, call):
            ascent.note(f"no time for {way.pool.model}")
            return False
        return True

    async def _completed(self, visit: Visit, rest: Sequence[Way], ascent: Ascent, call: Call) -> None:
        """Ask the level whose answer is taken as it comes, for all of it."""
        pool, within_s = visit.way.pool, self._within_s(ascent, call)
        try:
            async with asyncio.timeout(within_s):
                answer = await pool.complete(visit.sent, call)
            visit.spent("taken", answer.usage)
        except TimeoutError:
            ascent.failed(visit, _late(visit), rest)
        except JethroError as error:
            ascent.failed(visit, error, rest)
        else:
            visit.answer = answer
            self._patience.took(pool.name, visit.elapsed_ms / 1e3)

    async def _begins(self, visit: Visit, opening: Opening, rest: Sequence[Way], ascent: Ascent, call: Call) -> bool:
        """Whether the stream of a level that is taken as it comes has its first frame."""
        try:
            await first_frame(visit, opening, self._within_s(ascent, call))
        except JethroError as error:
            ascent.failed(visit, error, rest)
            return False
        return True

    def _within_s(self, ascent: Ascent, call: Call) -> float | None:
        """Seconds for a level, if there is an answer at hand to be sent instead; None: as long as the caller waits."""
        return self._patience.left_s(call) if ascent.best is not None else None


async def judged_in_time(visit: Visit, rest: Sequence[Way], ascent: Ascent, asking: Asking, patience: Patience) -> None:
    """Ask a level and judge it, in the time there is; what is whole when the time ends is at hand."""
    try:
        async with asyncio.timeout(patience.left_s(asking.call)):
            await asking.answered(visit)
    except TimeoutError:
        if not visit.whole:
            ascent.failed(visit, _late(visit), rest)
    except JethroError as error:
        ascent.failed(visit, error, rest)
    else:
        patience.took(visit.way.pool.name, visit.elapsed_ms / 1e3)


def _late(visit: Visit) -> DeadlineExceeded:
    return DeadlineExceeded(f"{visit.way.pool.model} was not done before the deadline")
