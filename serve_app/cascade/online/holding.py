"""Between two policies a Gateway itself keeps the share of LLM calls: the Learner may be away, or behind.

It takes the same steps of dual ascent as the Learner's budget, from the price that the policy came with; the next
policy brings the Learner's own price, which has seen the queries of all Gateways.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.cascade.online.base import Walk


@dataclass(frozen=True, slots=True)
class Terms:
    """What a price was when it was told, and how it moves in [0, most] so that `rate` calls are made per query.

    `costs` by level: of the model after it, in LLM calls.
    """

    price: float
    rate: float
    step: float
    most: float
    costs: tuple[float, ...]


class Holding:
    """A price that goes on from its terms; not thread-safe, but a lost step does no harm."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._price = terms.price

    def saw(self, walk: Walk) -> None:
        """Move the price by one query. A warm-up is not the price's to decide."""
        if walk.why == "warm-up":
            return
        terms = self._terms
        moved = self._price + terms.step * ((walk.level is None) - terms.rate)
        self._price = min(terms.most, max(0.0, moved))

    @property
    def thresholds(self) -> tuple[float, ...]:
        """By level, at the price as it is now."""
        return thresholds([self._price * cost for cost in self._terms.costs])


def thresholds(prices: Sequence[float]) -> tuple[float, ...]:
    """Level j asks on where f_j is above this: `prices` c_j * mu by level, in units of the loss (see `deferral`)."""
    return tuple(min((1.0 + float(price)) / 2, 1.0) for price in prices)
