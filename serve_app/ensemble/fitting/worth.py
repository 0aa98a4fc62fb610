"""What an ensemble's held-out figures are, and when it is refused: a single model does as well for as much or less."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final, Self

import numpy as np

from serve_app.arrays import Floats
from serve_app.ensemble.base import MemberCalls
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.shapes import PlanOutcome, PlanShape
from serve_app.errors import DataError
from serve_app.learning.metrics import Interval, bootstrap
from serve_app.numbers import between, fixed, percent, significant

_SURELY: Final = 0.5
"""Standard errors by which an ensemble must be better than a single model that costs no more."""
_LEAST_SAVING: Final = 0.05
"""An ensemble that saves less against a model must be better than it."""


class NotWorthIt(DataError):
    """A fit is refused: the model `single` alone is as good for as much or less."""

    def __init__(self, message: str, single: str) -> None:
        super().__init__(message)
        self.single = single


@dataclass(frozen=True, slots=True)
class Singles:
    """Each member alone: quality and cost of its first answers, shape [n, m]."""

    names: tuple[str, ...]
    quality: Floats
    cost_usd: Floats

    @classmethod
    def of(cls, answers: Answers) -> Self:
        """Of all recorded members, called or not."""
        quality = np.column_stack([answers.alone(name) for name in answers.names])
        return cls(answers.names, quality, np.column_stack([answers.cost(MemberCalls(n)) for n in answers.names]))

    def rival(self, cost_usd: float) -> int | None:
        """The best of those that cost about so much or less, on average; None if there is none."""
        able = [i for i, cost in enumerate(self.cost_usd.mean(0)) if cost_usd >= (1 - _LEAST_SAVING) * cost]
        return max(able, key=lambda i: float(self.quality[:, i].mean()), default=None)

    def beaten_by(self, outcome: PlanOutcome) -> int | None:
        """The single model that is as good as the plan for as much or less; None where the plan is surely better."""
        best = self.rival(float(outcome.cost_usd.mean()))
        if best is None:
            return None
        gain = outcome.quality - self.quality[:, best]
        better = gain.mean() > 0 and gain.mean() >= _SURELY * gain.std() / sqrt(len(gain))
        return None if better else best

    def cheapest(self, least: float, goal: Goal) -> int | None:
        """The cheapest one that has the quality `least` within the budget; None if there is none."""
        quality, cost = self.quality.mean(0), self.cost_usd.mean(0)
        able = [i for i in range(len(self.names)) if quality[i] >= least and cost[i] <= (goal.budget_usd or np.inf)]
        return min(able, key=lambda i: float(cost[i]), default=None)


def check_worth(outcome: PlanOutcome, route: str, singles: Singles, goal: Goal, least: float | None) -> None:
    """Raises NotWorthIt naming the single model that does as well as the plan `route` for as much or less."""
    if (best := singles.beaten_by(outcome)) is not None:
        raise NotWorthIt(_refusal(outcome, route, singles, best), singles.names[best])
    cost = float(outcome.cost_usd.mean())
    cheapest = singles.cheapest(least, goal) if least is not None else None
    if cheapest is not None and float(singles.cost_usd[:, cheapest].mean()) <= (1 + _LEAST_SAVING) * cost:
        raise NotWorthIt(_refusal(outcome, route, singles, cheapest), singles.names[cheapest])


def _refusal(outcome: PlanOutcome, route: str, singles: Singles, best: int) -> str:
    gain = outcome.quality - singles.quality[:, best]
    found, name = interval(gain), singles.names[best]
    what = "worse" if gain.mean() < 0 else "no better" if gain.mean() == 0 else "not surely better"
    return (
        f"the ensemble {route} is {what} than {name} alone, which costs "
        f"{significant(float(singles.cost_usd[:, best].mean()))} USD a query against "
        f"{significant(float(outcome.cost_usd.mean()))}: quality {fixed(float(outcome.quality.mean()), 4)} against "
        f"{fixed(float(singles.quality[:, best].mean()), 4)} on held-out queries, a difference of "
        f"{between(*(fixed(part, 4, sign=True) for part in (found.value, found.low, found.high)))}; "
        f"{percent(float(outcome.strong.mean()), 0)} call the strong member. Use {name}, another target, or collect "
        "answers of other members"
    )


def expected(outcome: PlanOutcome, shape: PlanShape, singles: Singles, strong: str) -> dict[str, float]:
    """Figures of a plan for its artefact: held-out means with 95 % intervals, shares of calls, each member alone."""
    quality, share = interval(outcome.quality), interval(outcome.strong.astype(np.float64))
    cost = interval(outcome.cost_usd)
    at = singles.names.index(strong)
    found = {
        "quality": quality.value,
        "quality_low": quality.low,
        "quality_high": quality.high,
        "cost_usd": cost.value,
        "cost_usd_low": cost.low,
        "cost_usd_high": cost.high,
        "strong_share": share.value,
        "strong_share_low": share.low,
        "strong_share_high": share.high,
        "strong_quality": float(singles.quality[:, at].mean()),
        "strong_cost_usd": float(singles.cost_usd[:, at].mean()),
    }
    if (best := singles.rival(float(outcome.cost_usd.mean()))) is not None:
        found["best_single_quality"] = float(singles.quality[:, best].mean())
        found["best_single_cost_usd"] = float(singles.cost_usd[:, best].mean())
    found |= calls(outcome, shape.rounds)
    names = [call.pool for each in shape.rounds for call in each]
    found |= {f"quality:{n}": float(singles.quality[:, singles.names.index(n)].mean()) for n in names}
    return found


def calls(outcome: PlanOutcome, rounds: Sequence[Sequence[MemberCalls]]) -> dict[str, float]:
    """`share:<member>`: share of the queries that call it."""
    return {f"share:{c.name}": float((outcome.round >= i).mean()) for i, each in enumerate(rounds) for c in each}


def interval(values: Floats) -> Interval:
    """The mean of values [n], with its 95 % interval over resampled queries."""
    return bootstrap(lambda rows: float(values[rows].mean()), len(values))
