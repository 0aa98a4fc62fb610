"""The contract of every strategy: how an answer is got from the pools, and what it tells on the way."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.autoscaling.signals import Demand
from serve_app.types import Decision, Query, Step, Usage
from serve_app.wire.frames import Answer, Call, Frame


def _no_steps() -> tuple[Step, ...]:
    return ()


@dataclass(slots=True)
class Ledger:
    """`standing` tells the calls made so far; of a request that ends without Spent they are what it took."""

    standing: Callable[[], tuple[Step, ...]] = _no_steps


@dataclass(frozen=True, slots=True)
class Context:
    """What a strategy knows beside the query. `stream`: frames are wanted; otherwise one Answer.

    `demand`: is told of every model call that a decision wants, before it is known whether it can be made. `ledger`: a
    strategy that may make several calls says there how they stand, for callers who leave and requests that fail.
    """

    call: Call
    stream: bool
    demand: Demand = field(default_factory=Demand)
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True, slots=True)
class Spent:
    """Last event: every model call that was made, in order. Usage and cost count them all."""

    steps: tuple[Step, ...]

    @property
    def usage(self) -> Usage:
        """Tokens of all steps together."""
        return Usage(sum(s.usage.prompt_tokens for s in self.steps), sum(s.usage.completion_tokens for s in self.steps))

    @property
    def cost_usd(self) -> float:
        """US dollars of all steps together."""
        return sum(s.cost_usd for s in self.steps)


Event = Decision | Frame | Answer | Spent


class Strategy(Protocol):
    """Answers queries over pools; sees Pools, never Engines."""

    name: str

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The decision and what moved it, no model asked. Raises UnsupportedParameter if no pool can honour it."""

    def run(self, query: Query, context: Context) -> AsyncGenerator[Event, None]:
        """One Decision, once the first byte is there (so that it is true); then Frames, or one Answer; then Spent.

        Before the first byte another pool may be tried; the Decision's reason says so. Closing the iterator cancels
        every call under it. Errors before the Decision are the caller's true HTTP status; later ones cut the stream.
        """
        ...
