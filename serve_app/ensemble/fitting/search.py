"""The search for the plan that meets a goal best, for one way of picking the answer.

The vote of the most accurate cheap members is the start, unless one or two of them are surely better; then members are
added one at a time, each only if it surely helps. Of the two rules of stopping, the better one is taken for each. Every
plan is judged held out: each fold under the thresholds of the others.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.ensemble.base import MemberCalls
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.picking import LAST, LOGPROB, VOTE, Picking, PickRule
from serve_app.ensemble.fitting.shapes import PlanOutcome, PlanShape, Rounds, by_gain, described, shape_of
from serve_app.ensemble.fitting.votes import VoteFits
from serve_app.ensemble.fitting.worth import Singles
from serve_app.numbers import fixed, percent, significant

Report = Callable[[str], None]


def silent(line: str) -> None:
    """Report nothing."""


_PAIRS_OF: Final = 6
"""The most accurate cheap members whose pairs are tried first."""
_SURELY: Final = 0.5
"""Standard errors by which one more member must help."""
_TRIES: Final = 6
"""Aims at a goal, each tighter than the one before."""
_MORE: Final = 0.4
"""Standard errors by which a quality that was missed is aimed at from above, and"""
_PART: Final = 0.92
"""the part of a limit that is aimed at where it was exceeded."""
_SPLIT_SAVES: Final = 0.02
"""Share of the cost that calling one cheap member before the others must save."""


@dataclass(frozen=True, slots=True)
class EnsembleOptions:
    """How a plan is fitted. `members`: pools that may be called, all by default; `strong`: the one called last, by
    default the dearest. `most_members`: cheap ones at once; `samples`: answers of one member at most. `form`: in which
    answers are compared, see `grading.normalizers`; auto: the one that fits. `like_queries`: also learn on which
    queries a member is more often right.
    """

    members: tuple[str, ...] = ()
    strong: str | None = None
    most_members: int = 4
    samples: int = 1
    form: str = "auto"
    like_queries: bool = True
    folds: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TriedPlan:
    """A shape with its thresholds by fold, applied to the queries of the fold. `goal` and the quality `least`: what
    they were chosen for, no looser than the goal itself.
    """

    shape: PlanShape
    outcome: PlanOutcome
    goal: Goal
    least: float | None

    @property
    def quality(self) -> float:
        """Mean, held out."""
        return float(self.outcome.quality.mean())

    @property
    def cost_usd(self) -> float:
        """Mean US dollars a query, held out."""
        return float(self.outcome.cost_usd.mean())

    @property
    def strong_share(self) -> float:
        """Of the queries that call the strong member, held out."""
        return float(self.outcome.strong.mean())


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """What plans are searched on: the same for every goal and every way of picking."""

    answers: Answers
    options: EnsembleOptions
    votes: VoteFits
    singles: Singles
    picking: Picking
    strong: str
    report: Report = silent
    shapes: dict[tuple[Rounds, PickRule], tuple[PlanShape, ...]] = field(default_factory=dict)
    """Those that were judged, by each rule of stopping: goals differ in thresholds alone."""


class PlanSearch:
    """The search for a shape; `goal` has the budget that holds, also where none is given.

    A plan that is no better than a single model at its cost gives way to any that is.
    """

    def __init__(self, space: SearchSpace, goal: Goal, way: PickRule = VOTE) -> None:
        self.space, self.stated, self.way = space, goal, way
        self.answers, self.options, self.strong = space.answers, space.options, space.strong
        self.cheap = [name for name in space.answers.names if name != space.strong]
        # without a budget, no plan may cost more than the dearest member alone costs
        dearest = float(space.singles.cost_usd.mean(0).max())
        self.goal = goal if goal.budget_usd is not None else replace(goal, budget_usd=dearest)
        self.least = goal.least_quality(float(space.answers.alone(space.strong).mean()))

    def best(self) -> TriedPlan | None:
        """The best shape; None where none meets the goal."""
        usual = self._usual()
        found = self._best_of(self._starts(), against=usual) or usual
        if found is None:
            return None
        while (more := self._best_of(self._grown(found), against=found)) is not None:
            found = more
        for split in self._splits(found):
            if (one := self._candidate(split)) is not None and self._saves(one, found):
                found = one
                self._say(found)
        return found

    def best_among(self, shapes: Iterable[Rounds]) -> TriedPlan | None:
        """The best of some shapes; None where none meets the goal."""
        return self._best_of(shapes)

    def affords(self, calls: Sequence[MemberCalls]) -> bool:
        """Whether these may be called for every query."""
        cost = sum(float(self.answers.cost(call).mean()) for call in calls)
        calls_strong = any(call.pool == self.strong for call in calls)
        share = self.goal.strong_share
        return cost <= (self.goal.budget_usd or 0.0) and not (calls_strong and share is not None and share < 1.0)

    def _usual(self) -> TriedPlan | None:
        """The vote of the most accurate cheap members, as many as the goal allows, then the strong one.

        None if there is none, or a single model does as well.

        It is no choice among many plans, and so owes nothing to luck: another one must surely be better.
        """
        able = self._able()
        for size in range(min(len(able), self.options.most_members), 1, -1):
            one = self._candidate((tuple(MemberCalls(name) for name in able[:size]), (MemberCalls(self.strong),)))
            if one is not None and self.space.singles.beaten_by(one.outcome) is None:
                self._say(one)
                return one
        return None

    def _able(self) -> list[str]:
        """Cheap members, the most accurate first."""
        return sorted(self.cheap, key=lambda name: -float(self.answers.alone(name).mean()))

    def _starts(self) -> Iterator[Rounds]:
        """One or two cheap members, then the strong one; two members at once without it."""
        last = MemberCalls(self.strong)
        able = self._able()
        for name in able:
            yield ((MemberCalls(name),), (last,))
            if (k := min(self.options.samples, self.answers.samples(name))) > 1:
                yield ((MemberCalls(name, k),), (last,))
                yield ((MemberCalls(name, k),),)
        for pair in combinations(able[:_PAIRS_OF], 2):
            calls = tuple(MemberCalls(name) for name in pair)
            yield (calls, (last,))
            yield (calls,)

    def _grown(self, one: TriedPlan) -> Iterator[Rounds]:
        """The same with one more cheap member in the first round, or with more samples of one."""
        first, *rest = one.shape.rounds
        names = {call.pool for call in first}
        if len(first) < self.options.most_members:
            for name in self.cheap:
                if name not in names:
                    yield ((*first, MemberCalls(name)), *rest)
        for at, call in enumerate(first):
            if (k := min(self.options.samples, self.answers.samples(call.pool))) > call.samples:
                yield ((*first[:at], replace(call, samples=k), *first[at + 1 :]), *rest)

    def _splits(self, one: TriedPlan) -> Iterator[Rounds]:
        """The same with one cheap member called before the others."""
        first, *rest = one.shape.rounds
        if len(first) > 1:
            for size in range(1, len(first)):
                for ahead in combinations(first, size):
                    yield (ahead, tuple(call for call in first if call not in ahead), *rest)

    def _best_of(self, shapes: Iterable[Rounds], against: TriedPlan | None = None) -> TriedPlan | None:
        """The best of some; with `against`, None unless it is surely better."""
        best: TriedPlan | None = None
        for rounds in shapes:
            one = self._candidate(rounds)
            if one is not None and (best is None or self._key(one) > self._key(best)):
                best = one
        if best is None or (against is not None and not self.surely(best, against)):
            return None
        self._say(best)
        return best

    def _candidate(self, rounds: Rounds) -> TriedPlan | None:
        """The rounds with the rule of stopping that is better, held out; None where neither can meet the goal."""
        found = [one for shape in self._shapes(rounds) if (one := self._held_out(shape)) is not None]
        return max(found, key=self._key, default=None)

    def _held_out(self, shape: PlanShape) -> TriedPlan | None:
        """The shape held out; None where it cannot meet the goal.

        What held-out queries miss is aimed at more tightly: thresholds that just reach a goal where they were chosen
        miss it by as much as they were lucky there. Quality must be reached, limits within a standard error.
        """
        if shape.cost_usd[:, 0].mean() > (self.goal.budget_usd or 0.0) * (1 + 1e-9):
            return None
        goal, least = self.goal, self.least
        error = float(shape.quality[:, -1].std()) / sqrt(len(shape.quality))
        for _ in range(_TRIES):
            outcome = held_out(shape, self.space.votes.folds, goal, least)
            if outcome is None:
                return None
            if least is not None and outcome.quality.mean() < (self.least or 0.0) - 1e-9:
                least += _MORE * error
            elif exceeds(outcome.cost_usd, self.goal.budget_usd):
                goal = replace(goal, budget_usd=_PART * (goal.budget_usd or 0.0))
            elif exceeds(outcome.strong, self.goal.strong_share):
                goal = replace(goal, strong_share=_PART * (goal.strong_share or 0.0))
            else:
                return TriedPlan(shape, outcome, goal, least)
        return None

    def _shapes(self, rounds: Rounds) -> tuple[PlanShape, ...]:
        """By each rule of stopping; () for rounds that cannot be picked from in this way."""
        calls = [call for each in rounds for call in each]
        if self.way == LAST and not (len(rounds) == 2 and len(rounds[1]) == rounds[1][0].samples == 1):
            return ()
        if self.way == LOGPROB and not all(self.answers.has_logprobs(call) for call in calls):
            return ()
        key = (rounds, self.way)
        if key not in self.space.shapes:
            shape = shape_of(self.space.votes, rounds, self.strong, self.way, self.space.picking)
            gain = by_gain(shape, self.space.votes)
            self.space.shapes[key] = (shape,) if gain is None else (shape, gain)
        return self.space.shapes[key]

    def _key(self, one: TriedPlan) -> tuple[bool, float, float]:
        worth = self.space.singles.beaten_by(one.outcome) is None
        if self.least is None:
            return (worth, one.quality, -one.cost_usd)
        return (worth, -one.cost_usd, one.quality)

    def surely(self, one: TriedPlan, other: TriedPlan, errors: float = _SURELY) -> bool:
        """Whether a plan is better than another by so many standard errors, or alone is worth its cost."""
        singles = self.space.singles
        if (singles.beaten_by(other.outcome) is None) != (worth := singles.beaten_by(one.outcome) is None):
            return worth
        if self.least is None:
            gain = one.outcome.quality - other.outcome.quality
        else:
            gain = other.outcome.cost_usd - one.outcome.cost_usd
        return bool(gain.mean() > 0 and gain.mean() >= errors * gain.std() / sqrt(len(gain)))

    def _saves(self, one: TriedPlan, other: TriedPlan) -> bool:
        """Whether a plan saves cost and loses nothing for it."""
        return one.cost_usd <= (1 - _SPLIT_SAVES) * other.cost_usd and one.quality >= other.quality - 1e-9

    def _say(self, one: TriedPlan) -> None:
        self.space.report(
            f"{described(one.shape.rounds)}, by {self.way}, stops by {one.shape.stops}: "
            f"quality {fixed(one.quality, 4)}, {significant(one.cost_usd)} USD a query, "
            f"{percent(one.strong_share)} call {self.strong} (held out)"
        )


def exceeds(values: Floats | NDArray[np.bool_], limit: float | None) -> bool:
    """Whether the mean of values [n] is above a limit by more than a standard error."""
    return limit is not None and bool(values.mean() > limit * (1 + 1e-9) + values.std() / sqrt(len(values)))


def held_out(shape: PlanShape, folds: NDArray[np.int64], goal: Goal, least: float | None) -> PlanOutcome | None:
    """Each fold under the thresholds of the others; None where these cannot meet the goal."""
    ends: list[tuple[NDArray[np.int64], PlanOutcome]] = []
    for fold in np.unique(folds):
        inside = np.flatnonzero(folds == fold)
        thresholds = shape.thresholds(goal, least, folds != fold)
        if thresholds is None:
            return None
        ends.append((inside, shape.outcome(thresholds).take(inside)))
    order = np.argsort(np.concatenate([rows for rows, _ in ends]))
    parts = [np.concatenate([getattr(found, name) for _, found in ends])[order] for name in PlanOutcome.__slots__]
    return PlanOutcome(*parts)
