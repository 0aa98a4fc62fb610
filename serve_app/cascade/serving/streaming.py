"""The streaming cascade: a weak answer is held for its first tokens only, judged by them, then committed or replaced.

Our own: confidence cascades judge whole answers, which a caller who reads a stream must wait for. Here the verdict is
there before the first byte goes out. What is committed passes on as bytes. A race begins the next level at once where
the router's score is borderline.

When the next level is begun before the first is judged, and how many tokens that may cost.

A race hides the probe from a query that is replaced, and wastes a prefill where it is not. It is run for borderline
queries only, and only while what races have wasted stays under a share of all tokens.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Final

from serve_app.cascade.base import Chain
from serve_app.cascade.serving.calls import Asking
from serve_app.cascade.serving.confidence import Further
from serve_app.cascade.serving.relay import Opening, Passing, first_frame, to_its_end
from serve_app.cascade.serving.response_filter import with_needs
from serve_app.cascade.serving.run import Ascent, Visit, Way, ways_up
from serve_app.cascade.serving.skipping import Patience
from serve_app.cascade.serving.strategy import PriorOf, no_prior
from serve_app.errors import DeadlineExceeded, JethroError, UpstreamError
from serve_app.pools.base import Pool
from serve_app.strategy import Context, Event, Spent
from serve_app.types import Decision, Query

_CHARACTERS_A_TOKEN: Final = 4
"""What a prefill costs before the engine has counted it: about so many characters a token in English text."""
_REMEMBERED: Final = 1_000_000
"""Tokens after which the past counts half: the share follows the traffic."""


@dataclass(slots=True)
class RaceMeter:
    """Tokens of one Gateway's streaming cascade, and those that races wasted; on one event loop."""

    all_tokens: float = 0.0
    wasted_tokens: float = 0.0
    reserved_tokens: float = 0.0
    races: int = 0
    lost: int = 0

    def spent(self, tokens: int) -> None:
        """A query is over that took so many tokens in all."""
        self.all_tokens += tokens
        if self.all_tokens > _REMEMBERED:
            self.all_tokens /= 2
            self.wasted_tokens /= 2

    @property
    def share(self) -> float:
        """Of all tokens, those that races wasted."""
        return self.wasted_tokens / self.all_tokens if self.all_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Race:
    """The rule: a prior in [`low`, `high`] races, while races waste at most `wasted_share` of all tokens."""

    low: float
    high: float
    wasted_share: float
    meter: RaceMeter = field(default_factory=RaceMeter)

    def wanted(self, prior: float | None) -> bool:
        """Whether a query is borderline."""
        return prior is not None and self.low <= prior <= self.high

    def allowed(self, query: Query) -> int:
        """Tokens reserved for a race of this query; 0: it must not run. Give them back by `over`."""
        meter, tokens = self.meter, max(1, len(query.text) // _CHARACTERS_A_TOKEN)
        at_risk = meter.wasted_tokens + meter.reserved_tokens + tokens
        if at_risk > self.wasted_share * meter.all_tokens:
            return 0
        meter.reserved_tokens += tokens
        meter.races += 1
        return tokens

    def over(self, reserved: int, wasted: int) -> None:
        """A race is over; `wasted`: the tokens of the call that was cancelled, 0 if it was the one that answered."""
        self.meter.reserved_tokens -= reserved
        self.meter.wasted_tokens += wasted
        self.meter.lost += wasted > 0


@dataclass(frozen=True, slots=True)
class Early:
    """How first tokens are judged: so many of them, with the score of the router `prior`, with or without races.

    `limits`: by pool, the prior above which it need not be asked (see `hopeless`).
    """

    probe_tokens: int
    prior: str | None = None
    race: Race | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


class StreamingCascade:
    """Walks a chain of first tokens; see the module. `pools` has every pool of the chain by name."""

    def __init__(
        self,
        name: str,
        chain: Chain,
        pools: Mapping[str, Pool],
        early: Early,
        prior: PriorOf = no_prior,
        patience: Patience | None = None,
    ) -> None:
        self.name = name
        self.chain = chain
        self.early = early
        self._pools = pools
        self._prior = prior
        self.patience = patience or Patience()

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The first level and the chain. Raises UnsupportedParameter if no level can honour the query."""
        return (await self._begun(query, decision_id)).outlook()

    async def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then every call made; see the contract."""
        ascent = await self._begun(query, context.call.id)
        context.ledger.standing = ascent.standing
        climb = _Climb(self, ascent, query, context)
        try:
            async with aclosing(climb.events()) as events:
                async for event in events:
                    yield event
        finally:
            await to_its_end(climb.aclose())

    async def _begun(self, query: Query, decision_id: str) -> Ascent:
        """What can be asked, with the router's score where a judge or the race wants it."""
        ways, notes = ways_up(self.chain, self._pools, query)
        ascent = Ascent(self.name, self.chain, decision_id, ways, notes)
        wanted = [way.needs.prior for way in ways if way.needs.prior]
        router = wanted[0] if wanted else self.early.prior if self.early.race is not None else None
        if router is not None:
            started = perf_counter()
            ascent.prior = await self._prior(router, query)
            ascent.prior_ms = (perf_counter() - started) * 1e3
            ascent.pass_over(self.early.limits)
        return ascent


class _Climb:
    """One query's way; closes whatever it has opened."""

    def __init__(self, cascade: StreamingCascade, ascent: Ascent, query: Query, context: Context) -> None:
        self._cascade, self._ascent, self._query, self._context = cascade, ascent, query, context
        self._patience = cascade.patience
        self._open: dict[int, tuple[Visit, Opening]] = {}
        self._raced: Visit | None = None
        self._reserved = 0

    async def events(self) -> AsyncGenerator[Event]:
        """Decision, frames or answer, Spent."""
        ascent, ways = self._ascent, self._ascent.ways
        for position in range(2 * len(ways)):
            if position == len(ways):
                ways += self._again()
            if position >= len(ways) or not self._worth(ways[position]):
                break
            rest = ways[position + 1 :]
            visit, opening = self._opened(position)
            if position == 0 and rest:
                self._race(rest[0])
            sent = False
            try:
                await self._held(visit, opening)
                if visit.accepted or not visit.way.judged:
                    async with aclosing(self._committed(position, visit, opening)) as events:
                        async for event in events:
                            sent = True
                            yield event
                    return
            except JethroError as error:
                if sent:  # what the caller has of this answer no other can go on
                    raise
                ascent.failed(visit, error, rest)
            await self._drop(position, "replaced" if visit.judgement is None else f"replaced: {visit.judgement}")
        best = ascent.best
        if best is None:
            raise ascent.telling_error
        async with aclosing(self._passing(best).from_hold()) as events:
            async for event in events:
                yield self._settled(event)

    async def aclose(self) -> None:
        """Cancel every call that is still open."""
        for position in list(self._open):
            await self._drop(position, "cancelled")
        if self._reserved and self._cascade.early.race is not None:  # cut off before the race was over
            self._cascade.early.race.over(self._reserved, self._reserved)

    def _worth(self, way: Way) -> bool:
        """Whether a level is asked, an answer being at hand perhaps."""
        if self._ascent.best is None:
            return True
        if way.reserve:
            return False
        if not self._patience.allows(way.pool.name, self._context.call):
            self._ascent.note(f"no time for {way.pool.model}")
            return False
        return True

    def _opened(self, position: int) -> tuple[Visit, Opening]:
        """The level's stream, begun now unless a race has begun it."""
        if position not in self._open:
            ascent, way = self._ascent, self._ascent.ways[position]
            self._context.demand.wanted(way.pool.name)
            last = position + 1 == len(ascent.ways)
            call = replace(self._context.call, may_wait=last and all(v.error is not None for v in ascent.visits))
            visit = ascent.visit(way, with_needs(self._query, way.needs))
            self._open[position] = visit, Opening(way.pool, visit.sent, call)
        return self._open[position]

    def _race(self, following: Way) -> None:
        """Begin the second level now, if the query is borderline and the tokens are there."""
        race, first = self._cascade.early.race, self._ascent.ways[0]
        if race is None or following.reserve or not first.judged:
            return
        if race.wanted(self._ascent.prior):
            self._reserved = race.allowed(self._query)
            if self._reserved:
                self._raced, _ = self._opened(1)

    async def _held(self, visit: Visit, opening: Opening) -> None:
        """The first tokens of a level, judged; or its first frame, where it is taken as it comes. Raises its error."""
        within_s = self._patience.left_s(self._context.call)
        if not visit.way.judged:
            await first_frame(visit, opening, within_s if self._ascent.best is not None else None)
            return
        try:
            async with asyncio.timeout(within_s):
                await self._probe(visit, opening)
        except TimeoutError as e:
            if not visit.whole:
                raise DeadlineExceeded(f"{visit.way.pool.model} was not done before the deadline") from e

    async def _probe(self, visit: Visit, opening: Opening) -> None:
        tokens, prior = self._cascade.early.probe_tokens, self._ascent.prior
        while not visit.reading.holds(tokens):
            frame = await opening.next()
            if frame is None:
                raise UpstreamError(f"{visit.way.pool.model} ended its stream without an answer")
            visit.frames.append(frame)
            visit.reading.frame(frame)
        asking = Asking(self._query, self._context.call, stream=True, prior=prior)
        visit.judgement = await asking.judgement(visit, Further(prior=prior), tokens)

    async def _committed(self, position: int, visit: Visit, opening: Opening) -> AsyncGenerator[Event]:
        """This answer it is: whatever else is open is cancelled, and this goes on to the caller."""
        for other in [p for p in self._open if p != position]:
            await self._drop(other, "raced in vain")
        reason = str(visit.judgement) if visit.judgement is not None else "taken"
        async with aclosing(self._passing(visit).from_stream(opening, reason)) as events:
            async for event in events:
                yield self._settled(event)
        if not self._context.stream:  # a stream takes as long as its reader does
            self._patience.took(visit.way.pool.name, visit.elapsed_ms / 1e3)

    def _settled(self, event: Event) -> Event:
        """At the end, the race's account is closed."""
        race = self._cascade.early.race
        if isinstance(event, Spent) and race is not None:
            if self._raced is not None:
                lost = self._raced.cancelled and self._raced.error is None
                wasted = sum(step.usage.total_tokens for step in self._raced.steps) if lost else 0
                race.over(self._reserved, wasted)
                self._reserved = 0
            race.meter.spent(event.usage.total_tokens)
        return event

    def _again(self) -> list[Way]:
        """Levels whose first tokens did not convince, likeliest first: their answer is better than none."""
        if self._ascent.best is not None:
            return []
        replaced = [v for v in self._ascent.visits if v.judgement is not None and v.error is None]
        replaced.sort(key=lambda v: v.probability, reverse=True)
        return [Way(v.way.level, v.way.pool, judged=False, reserve=True) for v in replaced]

    async def _drop(self, position: int, why: str) -> None:
        visit, opening = self._open.pop(position)
        visit.cancelled = why
        frame = await opening.aclose()
        if opening.error is not None and visit.error is None:  # raced, and failed before anybody looked
            self._ascent.failed(visit, opening.error, ())
        if frame is not None:
            with suppress(JethroError):
                visit.reading.frame(frame)
        visit.ended_ms = visit.elapsed_ms

    def _passing(self, visit: Visit) -> Passing:
        return Passing(self._ascent, visit, self._query, self._context.call, self._context.stream)
