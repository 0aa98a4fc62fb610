"""The streaming cascade: an answer is held for its first tokens, checked by them, then committed or replaced.

Our own: confidence cascades check whole answers, which the reader of a stream must wait for. Here the decision is made
before the first byte is sent, and what is committed passes on as bytes. A race begins the second level before the first
is checked: that hides the probe from a query that is replaced, and wastes a prefill where it is not. So only queries
whose router score is borderline race, and only while races have wasted at most a share of all tokens.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from serve_app.cascade.serving.confidence import assess
from serve_app.cascade.serving.run import Cascade, CascadeRun, late
from serve_app.cascade.serving.stages import Stage, StageResult
from serve_app.cascade.serving.strategy import first_frame
from serve_app.errors import UpstreamError
from serve_app.pools.pending import PendingStream
from serve_app.strategy import Context, Spent
from serve_app.types import Query

_CHARACTERS_A_TOKEN: Final = 4
"""Of English text, about: what a prefill costs before the engine has counted it."""
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
        """A query has ended that took so many tokens in all."""
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
    """The rule: scores of `router` in [`low`, `high`] race, while races waste at most `wasted_share` of all tokens."""

    router: str
    low: float
    high: float
    wasted_share: float
    meter: RaceMeter = field(default_factory=RaceMeter)

    def is_borderline(self, prior: float | None) -> bool:
        """Whether a query of this score may race."""
        return prior is not None and self.low <= prior <= self.high

    def reserve(self, query: Query) -> int:
        """Tokens reserved for a race of this query; 0: no race. Release them by `release`."""
        meter, tokens = self.meter, max(1, len(query.text) // _CHARACTERS_A_TOKEN + query.image_tokens)
        at_risk = meter.wasted_tokens + meter.reserved_tokens + tokens
        if at_risk > self.wasted_share * meter.all_tokens:
            return 0
        meter.reserved_tokens += tokens
        meter.races += 1
        return tokens

    def release(self, reserved: int, wasted: int) -> None:
        """A race has ended; `wasted`: the tokens of the call that was cancelled, 0 if that call answered."""
        self.meter.reserved_tokens -= reserved
        self.meter.wasted_tokens += wasted
        self.meter.lost += wasted > 0


@dataclass(eq=False)
class StreamingCascade(Cascade):
    """The cascade over first tokens, of a chain with `probe_tokens`; see the module. `race`: None for no races."""

    race: Race | None = None

    def __post_init__(self) -> None:
        self.router = self.race.router if self.race is not None else None

    def new_run(self, query: Query, context: Context) -> CascadeRun:
        """A run that probes level after level."""
        return _StreamingRun(self, query, context)


class _StreamingRun(CascadeRun):
    def __init__(self, cascade: StreamingCascade, query: Query, context: Context) -> None:
        super().__init__(cascade, query, context)
        self._rule = cascade.race
        self._raced: StageResult | None = None
        self._reserved = 0
        self._again = False

    def next_stage(self) -> Stage | None:
        """Up the chain; then, if no answer is whole, the levels that did not convince, the most probable one first."""
        stage = super().next_stage()
        if stage is not None or self._again or self.best is not None:
            return stage
        self._again = True
        replaced = [r for r in self.results if r.confidence is not None and r.error is None]
        replaced.sort(key=lambda r: r.probability, reverse=True)
        self.stages += [Stage(r.stage.level, r.stage.pool, checked=False, reserve=True) for r in replaced]
        return super().next_stage()

    def begin(self, stage: Stage) -> StageResult:
        result = super().begin(stage)
        if result.stream is None:
            result.stream = PendingStream(stage.pool, result.sent, result.call)
        return result

    async def call(self, result: StageResult) -> None:
        if result is self.results[0]:
            self._start_race(result.stage)
        if not result.stage.checked:
            await first_frame(result, self.within_s)
            return
        try:
            async with asyncio.timeout(self.cascade.latency.left_s(self.context.call)):
                await self._probe(result)
        except TimeoutError as e:
            if not result.whole:
                raise late(result) from e

    async def _probe(self, result: StageResult) -> None:
        """Hold the first tokens and check them."""
        tokens = self.cascade.chain.probe_tokens
        assert tokens is not None and result.stream is not None
        while not result.reading.holds(tokens):
            frame = await result.stream.next()
            if frame is None:
                raise UpstreamError(f"{result.stage.pool.model} ended its stream without an answer")
            result.frames.append(frame)
            result.reading.frame(frame)
        result.confidence = await assess(result, self.prior, tokens)

    def _start_race(self, first: Stage) -> None:
        """Begin the second stage now, if the query is borderline and tokens are left for races."""
        rule, second = self._rule, self.stages[1] if len(self.stages) > 1 else None
        if rule is None or second is None or second.reserve or not first.checked:
            return
        if rule.is_borderline(self.prior):
            self._reserved = rule.reserve(self.query)
            if self._reserved:
                self._raced = self.begin(second)

    def settle(self, spent: Spent) -> None:
        """Close the race's account."""
        if self._rule is None:
            return
        if self._raced is not None:
            lost = self._raced.interrupted and self._raced.error is None
            wasted = sum(step.usage.total_tokens for step in self._raced.steps) if lost else 0
            self._rule.release(self._reserved, wasted)
            self._reserved = 0
        self._rule.meter.spent(spent.usage.total_tokens)

    async def aclose(self) -> None:
        await super().aclose()
        if self._reserved and self._rule is not None:  # cut off before the race was settled
            self._rule.release(self._reserved, self._reserved)
