"""The contract of every strategy: its answer from the pools, as a sequence of events."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.autoscaling.signals import Demand
from serve_app.types import Decision, Query, Step, Usage, total_usage
from serve_app.wire.frames import Answer, Call, Frame


def _no_steps() -> tuple[Step, ...]:
    return ()


@dataclass(slots=True)
class Ledger:
    """`standing` returns the calls made so far; they are the record of a request that ends without Spent."""

    standing: Callable[[], tuple[Step, ...]] = _no_steps


@dataclass(frozen=True, slots=True)
class Context:
    """What a strategy receives with the query. `stream`: yield frames; otherwise one Answer.

    `demand` counts every model call that a decision requires, before it is known whether it can be made. `ledger`: a
    strategy of several calls records them there, for requests that are cancelled or fail. `judged`: pools and texts of
    whole answers that the guards have let pass, which need not be judged again on the way out.
    """

    call: Call
    stream: bool
    demand: Demand = field(default_factory=Demand)
    ledger: Ledger = field(default_factory=Ledger)
    judged: set[tuple[str, str]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Spent:
    """Last event: every model call that was made, in order. Usage and cost count them all.

    `answered`: tokens of the answer, as far as one call would have it, where that is not the first step that is not
    wasted: one of several samples, or what is fused from several.
    """

    steps: tuple[Step, ...]
    answered: Usage | None = None

    @property
    def usage(self) -> Usage:
        """Tokens of all steps together."""
        return total_usage(self.steps)

    @property
    def cost_usd(self) -> float:
        """US dollars of all steps together."""
        return sum(s.cost_usd for s in self.steps)


Event = Decision | Frame | Answer | Spent


class Strategy(Protocol):
    """Answers queries over pools; sees Pools, never Engines."""

    name: str

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """The decision with its top feature contributions, without a model call.

        Raises UnsupportedParameter if no pool supports the query.
        """

    def run(self, query: Query, context: Context) -> AsyncGenerator[Event, None]:
        """One Decision, once the first byte has arrived; then Frames, or one Answer; then Spent.

        Before the first byte another pool may be tried; the Decision's reason says so. Closing the iterator cancels
        every call under it. Errors before the Decision are the caller's true HTTP status; later ones cut the stream.
        """
        ...
