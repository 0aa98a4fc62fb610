"""A plan without its thresholds, what it does to recorded queries, and the thresholds that meet a goal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.ensemble.artefact import agreement_of
from serve_app.ensemble.base import EnsemblePlan, MemberCalls
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.votes import VoteFits, calibration, returned_quality

NEVER: Final = 1.01
"""A threshold above every probability."""
_GRID: Final = {1: 200, 2: 40, 3: 12}
"""Thresholds tried for each round, by the number of rounds before the last."""

Rounds = tuple[tuple[MemberCalls, ...], ...]


def described(rounds: Rounds) -> str:
    """As messages have it: a + b x3 -> c."""
    names = [[c.name + (f" x{c.samples}" if c.samples > 1 else "") for c in calls] for calls in rounds]
    return " -> ".join(" + ".join(calls) for calls in names)


@dataclass(frozen=True, slots=True)
class PlanOutcome:
    """What a plan did to n queries: arrays of shape [n]. `round`: the last that was called."""

    round: NDArray[np.int64]
    quality: Floats
    cost_usd: Floats
    strong: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "PlanOutcome":
        """Of some of the queries."""
        return PlanOutcome(self.round[rows], self.quality[rows], self.cost_usd[rows], self.strong[rows])


@dataclass(frozen=True, slots=True)
class PlanShape:
    """Rounds over n queries, judged out of fold: probability `p`, `quality` and its expectation `hoped` if the plan
    ends after each round, cumulative cost, all of shape [n, rounds]; `strong`: the first round that calls the strong
    member, as many as there are rounds where none does.
    """

    rounds: Rounds
    p: Floats
    quality: Floats
    hoped: Floats
    cost_usd: Floats
    strong: int

    def outcome(self, thresholds: Sequence[float]) -> PlanOutcome:
        """Under the thresholds of all rounds but the last."""
        return self._ended(self._ends(thresholds))

    def _ends(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        stops = np.column_stack([self.p[:, :-1] >= np.asarray(thresholds), np.ones(len(self.p), dtype=bool)])
        found: NDArray[np.int64] = stops.argmax(1)
        return found

    def _ended(self, ends: NDArray[np.int64]) -> PlanOutcome:
        at = np.arange(len(ends)), ends
        return PlanOutcome(ends, self.quality[at], self.cost_usd[at], ends >= self.strong)

    def thresholds(self, goal: Goal, least: float | None, rows: NDArray[np.bool_] | None = None) -> list[float] | None:
        """Those that meet the goal on the queries at `rows`; None if none do.

        Quality is what is expected of each query by its probabilities, smoother than what came out: the best of 200
        thresholds by the latter would be the luckiest.
        """
        rows = np.ones(len(self.p), dtype=bool) if rows is None else rows
        n = int(rows.sum())
        p, hoped, cost = self.p[rows], self.hoped[rows], self.cost_usd[rows]
        best: tuple[float, float] | None = None
        found: list[float] | None = None
        for tried in self._grid(p):
            stops = np.column_stack([p[:, :-1] >= np.asarray(tried), np.ones(n, dtype=bool)])
            at = np.arange(n), stops.argmax(1)
            spent, share, quality = cost[at].mean(), (at[1] >= self.strong).mean(), float(hoped[at].mean())
            over = goal.budget_usd is not None and spent > goal.budget_usd * (1 + 1e-9)
            if over or (goal.strong_share is not None and share > goal.strong_share + 1e-9):
                continue
            if least is not None and quality < least - 1e-9:
                continue
            key = (quality, -spent) if least is None else (-spent, quality)
            if best is None or key > best:
                best, found = key, list(tried)
        return found

    def _grid(self, p: Floats) -> Iterator[tuple[float, ...]]:
        before = p.shape[1] - 1
        levels = np.linspace(0, 1, _GRID.get(before, 8))
        axes = [[*np.unique(np.quantile(p[:, i], levels)).tolist(), NEVER] for i in range(before)]
        return product(*axes)


def shape_of(fits: VoteFits, rounds: Rounds, strong: str) -> PlanShape:
    """The shape, its votes cross-fitted."""
    stages = [tuple(call for calls in rounds[: i + 1] for call in calls) for i in range(len(rounds))]
    judged = [fits.judged(calls) for calls in stages]
    costs = [sum((fits.answers.cost(call) for call in calls), np.zeros(len(fits.answers))) for calls in stages]
    first = next((i for i, calls in enumerate(rounds) if any(c.pool == strong for c in calls)), len(rounds))
    p, quality = np.column_stack([j.p for j in judged]), np.column_stack([j.quality for j in judged])
    hoped = p.copy()
    if len(rounds) > 1:  # what the next round is worth, by what is known before it: its probability is not known yet
        curve = calibration(judged[-2].log_odds, judged[-1].quality)
        hoped[:, -1] = sigmoid(curve.log_odds(judged[-2].log_odds[:, None]))
    return PlanShape(rounds, p, quality, hoped, np.column_stack(costs), first)


def replay(plan: EnsemblePlan, answers: Answers, strong: str) -> PlanOutcome:
    """What a plan that picks by votes does to each query; `strong` is the member whose calls are counted.

    Of a query to which no called member says anything the quality is 0. Raises DataError if a member is not recorded.
    """
    answers.check(plan)
    model = agreement_of(plan)
    if model is None or plan.select != "vote":
        raise ValueError("only a plan that picks by fitted votes can be replayed")
    n = len(answers)
    ends, quality, cost, called = np.zeros(n, dtype=np.int64), np.zeros(n), np.zeros(n), np.zeros(n, dtype=bool)
    stages = [[call for each in plan.rounds[: i + 1] for call in each.calls] for i in range(len(plan.rounds))]
    costs = [sum((answers.cost(call) for call in stage), np.zeros(n)) for stage in stages]
    reaches = [any(call.pool == strong for call in stage) for stage in stages]
    strengths = {key.removeprefix("quality:"): value for key, value in plan.expected.items()}
    for row in range(n):
        mine = model.for_query(answers.queries[row])
        for at, stage in enumerate(stages):
            votes, good = answers.votes(row, stage)
            leader, p = mine.probability(votes) if votes else ("", 0.0)
            last = at == len(stages) - 1
            if last or (votes and p >= plan.rounds[at].stop_at):
                says = [vote.answer == leader for vote in votes]
                ends[row], quality[row] = at, returned_quality(votes, good, says, strengths) if votes else 0.0
                cost[row], called[row] = costs[at][row], reaches[at]
                break
    return PlanOutcome(ends, quality, cost, called)
