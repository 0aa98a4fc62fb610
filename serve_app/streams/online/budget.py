"""Keeps a stream's share of LLM calls by adjusting the price of a call: dual ascent on the budget constraint.

The Learner owns the budget. Between two policies each Gateway takes the same steps from the policy's price, since the
Learner may be away or behind; the next policy brings the Learner's own price, which covers the queries of all Gateways.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.streams.online.base import Episode


@dataclass(slots=True)
class LlmBudget:
    """At most `share` * `horizon` LLM calls in the first `horizon` queries, and `share` of all queries after them.

    The price rises with each call and falls with each query that makes none, so that calls come at the rate that is
    still to be spent; once none is left, the Learner's policy makes none. Minimising loss + price * calls, it is the
    multiplier of the constraint (the paper's mu times the LLM's cost), and the step is online gradient ascent on it.
    Prices are in units of the loss, in [0, `most`].
    """

    share: float
    horizon: int
    step: float
    price: float = 0.3
    most: float = 1.0
    queries: int = 0
    calls: int = 0

    @property
    def rate(self) -> float:
        """LLM calls per query that keep the budget from here on."""
        left = max(self.horizon - self.queries, self._payback)
        owed = self.share * (self.queries + left) - self.calls
        return min(1.0, max(0.0, owed / left))

    def observe(self, called: bool, steer: bool = True) -> None:
        """Count a query; move the price unless the call was not the price's to decide (a warm-up)."""
        target = self.rate
        self.queries += 1
        self.calls += called
        if steer:
            self.price = min(self.most, max(0.0, self.price + self.step * (called - target)))

    @property
    def steady_rate(self) -> float:
        """`rate` for a Gateway, bounded: the horizon's end, where `rate` is 0 or 1, may be passed meanwhile."""
        return min(max(self.rate, self.share / 2), 2 * self.share, 1.0)

    @property
    def spent(self) -> bool:
        """Whether the horizon's calls are all made."""
        return self.rate <= 0.0

    @property
    def _payback(self) -> int:
        """Queries over which a debt is paid back once the horizon is past, or nearly."""
        return max(1, self.horizon // 10) if self.queries >= self.horizon else 1


@dataclass(slots=True)
class HeldPrice:
    """A published price, and how it moves in [0, most] so that `rate` calls are made per query.

    `costs` by level: of the model after it, in LLM calls. Not thread-safe, but a lost step does no harm.
    """

    price: float
    rate: float
    step: float
    most: float
    costs: tuple[float, ...]

    def observe(self, episode: Episode) -> None:
        """Move the price by one query. A warm-up is not the price's to decide."""
        if episode.why != "warm-up":
            moved = self.price + self.step * ((episode.level is None) - self.rate)
            self.price = min(self.most, max(0.0, moved))

    @property
    def thresholds(self) -> tuple[float, ...]:
        """By level, at the current price."""
        return thresholds([self.price * cost for cost in self.costs])


def thresholds(prices: Sequence[float]) -> tuple[float, ...]:
    """Level j defers where f_j is above this: `prices` c_j * mu by level, in units of the loss (see `deferral`)."""
    return tuple(min((1.0 + float(price)) / 2, 1.0) for price in prices)
