"""Fits an ensemble plan on recorded answers: which members, how many answers of each, in which rounds, when to stop.

Members are added one at a time, each only if it surely helps, from the best one or two of the cheap ones; the strong
member, the dearest unless it is named, is called last. Votes are judged by fits that have not seen the query, and so
are the plan's figures: each fold under the thresholds of the others. A plan that is no better than a single model at
its cost is refused.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.data.dataset import Dataset
from serve_app.ensemble.artefact import FittedPlan, version_of
from serve_app.ensemble.base import EnsemblePlan, MemberCalls, Round
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.shapes import NEVER, PlanOutcome, PlanShape, Rounds, described, shape_of
from serve_app.ensemble.fitting.votes import VoteFits, like_queries
from serve_app.ensemble.fitting.worth import Singles, check_worth, expected
from serve_app.errors import ConfigError, DataError, InsufficientData
from serve_app.learning.logistic import folds_of
from serve_app.numbers import fixed, percent, significant

Report = Callable[[str], None]


def _silent(line: str) -> None:
    """Report nothing."""


LEAST: Final = 60
"""Queries below which nothing is fitted: a fifth of them must still say something."""
_PAIRS_OF: Final = 6
"""The most accurate cheap members whose pairs are tried first."""
_SURELY: Final = 0.5
"""Standard errors by which one more member must help."""
_AIMS: Final = (0.0, 0.25, 0.5, 1.0, 1.5)
"""Standard errors above a quality that thresholds aim at, until held-out queries reach it."""
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
    """A shape with its thresholds by fold, applied to the queries of the fold. `aim`: the quality they were chosen for,
    None where the goal is none.
    """

    shape: PlanShape
    outcome: PlanOutcome
    aim: float | None = None

    @property
    def quality(self) -> float:
        """Mean, held out."""
        return float(self.outcome.quality.mean())

    @property
    def cost_usd(self) -> float:
        """Mean US dollars a query, held out."""
        return float(self.outcome.cost_usd.mean())


class EnsembleFit:
    """Fits plans on the same answers for one goal after another; votes are judged once.

    Raises InsufficientData for too few queries, ConfigError and DataError for members that cannot be fitted on.
    """

    def __init__(self, dataset: Dataset, options: EnsembleOptions | None = None, report: Report = _silent) -> None:
        self.options = EnsembleOptions() if options is None else options
        self.dataset, self.report = dataset, report
        self.answers = answers = Answers.of(dataset, self.options.members, self.options.form)
        if len(answers) < LEAST:
            raise InsufficientData(
                f"{len(answers)} queries are too few to fit an ensemble on: collect at least {LEAST}"
            )
        if len(answers.names) < 2:
            raise ConfigError(f"an ensemble needs two members, and {answers.names[0]} is alone: name more")
        if self.options.strong is not None and self.options.strong not in answers.names:
            raise ConfigError(f"strong: no member {self.options.strong!r}, there are {', '.join(answers.names)}")
        report(f"{len(answers):,} queries, {len(answers.names)} members, answers compared as {answers.normalizer}")
        folds = folds_of([query.text for query in answers.queries], self.options.folds, self.options.seed)
        if len(np.unique(folds)) < 2:
            raise InsufficientData("all queries have one text: there is nothing to hold out; collect more")
        likes, offsets = like_queries(answers, folds) if self.options.like_queries else ({}, {})
        if likes:
            report(f"accuracy depends on the query: {', '.join(likes)}")
        self.votes = VoteFits(answers, folds, likes, offsets)
        self.singles = Singles.of(answers)

    @property
    def strong(self) -> str:
        """The member that is called last."""
        cost = dict(zip(self.singles.names, self.singles.cost_usd.mean(0).tolist(), strict=True))
        return self.options.strong or max(self.answers.names, key=lambda name: cost[name])

    def plan(self, goal: Goal) -> FittedPlan:
        """The plan that meets the goal best, with held-out figures.

        Raises ConfigError where the goal is out of reach, DataError naming the single model to use where that is as
        good.
        """
        search = _Search(self, goal)
        best = search.best()
        check_worth(best.outcome, described(best.shape.rounds), self.singles, search.goal, search.least)
        return _fitted(search, best)


def fit_plan(
    dataset: Dataset, goal: Goal, options: EnsembleOptions | None = None, report: Report = _silent
) -> FittedPlan:
    """The plan that meets the goal best on the answers; see `EnsembleFit`."""
    return EnsembleFit(dataset, options, report).plan(goal)


class _Search:
    """The search for a shape; `goal` has the budget that holds, also where none is given.

    A plan that is no better than a single model at its cost gives way to any that is.
    """

    def __init__(self, fit: EnsembleFit, goal: Goal) -> None:
        self.fit, self.stated, self.answers, self.options = fit, goal, fit.answers, fit.options
        self.strong = fit.strong
        self.cheap = [name for name in fit.answers.names if name != fit.strong]
        # without a budget, no plan may cost more than the dearest member alone costs
        dearest = float(fit.singles.cost_usd.mean(0).max())
        self.goal = goal if goal.budget_usd is not None else replace(goal, budget_usd=dearest)
        self.least = goal.least_quality(float(fit.answers.alone(fit.strong).mean()))

    def best(self) -> TriedPlan:
        """The best shape. Raises ConfigError where none meets the goal."""
        found = self._best_of(self._starts())
        if found is None:
            raise ConfigError(
                f"{self.stated} cannot be met with {', '.join(self.answers.names)}: loosen it, or collect "
                "answers of other members"
            )
        while (more := self._best_of(self._grown(found), against=found)) is not None:
            found = more
        for split in self._splits(found):
            if (one := self._candidate(split)) is not None and self._saves(one, found):
                found = one
                self._say(found)
        return found

    def _starts(self) -> Iterator[Rounds]:
        """One or two cheap members, then the strong one; two members at once without it."""
        last = MemberCalls(self.strong)
        able = sorted(self.cheap, key=lambda name: -float(self.answers.alone(name).mean()))
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

    def _best_of(self, shapes: Iterator[Rounds], against: TriedPlan | None = None) -> TriedPlan | None:
        """The best of some; with `against`, None unless it is surely better."""
        best: TriedPlan | None = None
        for rounds in shapes:
            one = self._candidate(rounds)
            if one is not None and (best is None or self._key(one) > self._key(best)):
                best = one
        if best is None or (against is not None and not self._surely(best, against)):
            return None
        self._say(best)
        return best

    def _candidate(self, rounds: Rounds) -> TriedPlan | None:
        """The shape held out; None where it cannot meet the goal.

        A quality is aimed at from above until queries held out have it: thresholds that just reach it where they were
        chosen miss it by as much as they were lucky there.
        """
        shape = shape_of(self.fit.votes, rounds, self.strong)
        if shape.cost_usd[:, 0].mean() > (self.goal.budget_usd or 0.0):
            return None
        error = float(shape.quality[:, -1].std()) / sqrt(len(shape.quality))
        for more in _AIMS if self.least is not None else (0.0,):
            aim = None if self.least is None else self.least + more * error
            outcome = held_out(shape, self.fit.votes.folds, self.goal, aim)
            if outcome is not None and (self.least is None or outcome.quality.mean() >= self.least - 1e-9):
                return TriedPlan(shape, outcome, aim)
        return None

    def _key(self, one: TriedPlan) -> tuple[bool, float, float]:
        worth = self.fit.singles.beaten_by(one.outcome) is None
        if self.least is None:
            return (worth, one.quality, -one.cost_usd)
        return (worth, -one.cost_usd, one.quality)

    def _surely(self, one: TriedPlan, other: TriedPlan) -> bool:
        singles = self.fit.singles
        if (singles.beaten_by(other.outcome) is None) != (worth := singles.beaten_by(one.outcome) is None):
            return worth
        if self.least is None:
            gain = one.outcome.quality - other.outcome.quality
        else:
            gain = other.outcome.cost_usd - one.outcome.cost_usd
        return bool(gain.mean() > 0 and gain.mean() >= _SURELY * gain.std() / sqrt(len(gain)))

    def _saves(self, one: TriedPlan, other: TriedPlan) -> bool:
        """Whether a plan saves cost and loses nothing for it."""
        return one.cost_usd <= (1 - _SPLIT_SAVES) * other.cost_usd and one.quality >= other.quality - 1e-9

    def _say(self, one: TriedPlan) -> None:
        self.fit.report(
            f"{described(one.shape.rounds)}: quality {fixed(one.quality, 4)}, {significant(one.cost_usd)} USD a query, "
            f"{percent(float(one.outcome.strong.mean()))} call {self.strong} (held out)"
        )


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


def _fitted(search: _Search, best: TriedPlan) -> FittedPlan:
    """The plan of all queries."""
    fit, options, shape = search.fit, search.options, best.shape
    thresholds = shape.thresholds(search.goal, best.aim)
    if thresholds is None:
        raise DataError(f"{search.stated} is met on parts of the queries only: loosen it, or collect more answers")
    rounds = _joined(shape.rounds, thresholds)
    stages = [[call for each in rounds[: i + 1] for call in each.calls] for i in range(len(rounds))]
    called = {call.pool for each in rounds for call in each.calls}
    models = {n: m for n, m in zip(fit.answers.names, fit.answers.models, strict=True) if n in called and m}
    plan = EnsemblePlan(
        rounds=rounds,
        select="vote",
        version="",
        normalizer=fit.answers.normalizer,
        agreement=fit.votes.agreement(stages).state(),
        expected=expected(best.outcome, shape, fit.singles, search.strong),
        models=models,
    )
    about = {"digest": fit.dataset.digest(), "queries": len(fit.answers), "figures": "cross-fitted"}
    about |= {"strong": search.strong, "folds": options.folds, "seed": options.seed}
    if metric := fit.dataset.about.get("metric"):
        about["metric"] = str(metric)
    return FittedPlan(replace(plan, version=version_of(plan)), str(search.stated), about)


def _joined(rounds: Rounds, thresholds: Sequence[float]) -> tuple[Round, ...]:
    """Rounds to serve. One after which the plan never stops is joined with the next: waiting for it is of no use."""
    found: list[Round] = []
    waiting: tuple[MemberCalls, ...] = ()
    for calls, stop_at in zip(rounds, [*thresholds, 0.0], strict=True):
        waiting = (*waiting, *calls)
        if stop_at < NEVER:
            found.append(Round(waiting, float(stop_at)))
            waiting = ()
    return tuple(found)
