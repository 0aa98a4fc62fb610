"""Fits an ensemble plan on recorded answers: which members, how many answers of each, in which rounds, when to stop.

Plans are searched for each way of picking the answer that the data and the models given allow: by vote, by the last
member called, by log-probability, by a ranker, and fused from the best. The strong member, the dearest unless it is
named, is called last. Votes are judged by fits that have not seen the query, and so are the plan's figures. The vote
stands unless another way is surely better. A plan that is no better than a single model at its cost is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset
from serve_app.ensemble.agreement import Agreement
from serve_app.ensemble.artefact import FittedPlan, version_of
from serve_app.ensemble.base import EnsemblePlan, MemberCalls, Round
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.likes import like_queries
from serve_app.ensemble.fitting.models import FitModels, FusedAnswers, RankedCandidates, check_gradable
from serve_app.ensemble.fitting.picking import LAST, LOGPROB, RANKER, VOTE, Picking, PickRule
from serve_app.ensemble.fitting.search import EnsembleOptions, PlanSearch, Report, SearchSpace, TriedPlan, silent
from serve_app.ensemble.fitting.sets import CandidateSets, candidate_sets
from serve_app.ensemble.fitting.shapes import NEVER, PlanShape, Rounds, described, stages_of
from serve_app.ensemble.fitting.votes import VoteFits
from serve_app.ensemble.fitting.worth import Singles, check_worth, expected
from serve_app.errors import ConfigError, DataError, InsufficientData
from serve_app.learning.logistic import folds_of

LEAST: Final = 60
"""Queries below which nothing is fitted: a fifth of them must still say something."""
_ANOTHER_WAY: Final = 1.5
"""Standard errors by which another way of picking must be better than the vote: it is the luckiest of several, and one
query that it alone answers is one standard error."""
_SETS_OF: Final = 6
"""The most accurate members whose answers a fuser may get."""


@dataclass(slots=True)
class WaysTried:
    """The best plan of each way of picking, None where none meets the goal; `why_not` of those left out.

    `sets`: which answers the fuser may get.
    """

    best: dict[PickRule, TriedPlan | None] = field(default_factory=dict)
    why_not: dict[str, str] = field(default_factory=dict)
    sets: CandidateSets | None = None

    def report(self, chosen: TriedPlan) -> list[dict[str, Any]]:
        """As the plan's folder keeps it, and `jethro ensemble fit` prints it: what was chosen over what."""
        found: list[dict[str, Any]] = []
        for way, one in self.best.items():
            if one is None:
                found.append({"picks": str(way), "why_not": "no plan meets the goal"})
                continue
            figures = {"quality": one.quality, "cost_usd": one.cost_usd, "strong_share": one.strong_share}
            what = {"picks": str(way), "plan": described(one.shape.rounds), "stops": one.shape.stops}
            found.append({**what, **figures, "chosen": one is chosen})
        return found + [{"picks": way, "why_not": why} for way, why in self.why_not.items()]


class EnsembleFit:
    """Fits plans on the same answers for one goal after another; votes are judged once.

    Raises InsufficientData for too few queries, ConfigError and DataError for members that cannot be fitted on.
    """

    def __init__(
        self,
        dataset: Dataset,
        options: EnsembleOptions | None = None,
        report: Report = silent,
        models: FitModels | None = None,
    ) -> None:
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
        self.models = FitModels() if models is None else models
        self.space = SearchSpace(
            answers,
            self.options,
            VoteFits(answers, folds, likes, offsets),
            Singles.of(answers),
            picking_of(dataset, answers, answers.strengths(), self.models, report, self.options.samples),
            self.options.strong or _dearest(answers),
            report,
        )

    @property
    def votes(self) -> VoteFits:
        """Its agreement models."""
        return self.space.votes

    @property
    def singles(self) -> Singles:
        """Every member alone."""
        return self.space.singles

    @property
    def strong(self) -> str:
        """The member that is called last."""
        return self.space.strong

    def plan(self, goal: Goal) -> FittedPlan:
        """The plan that meets the goal best, with held-out figures.

        Raises ConfigError where the goal is out of reach, NotWorthIt naming the single model to use where that is as
        good.
        """
        search = PlanSearch(self.space, goal)
        tried = self._tried(goal)
        best: TriedPlan | None = None
        for one in tried.best.values():
            if one is not None and (best is None or search.surely(one, best, _ANOTHER_WAY)):
                best = one
        if best is None:
            raise ConfigError(
                f"{goal} cannot be met with {', '.join(self.answers.names)}: loosen it, or collect answers of other "
                "members"
            )
        check_worth(best.outcome, described(best.shape.rounds), self.singles, search.goal, search.least)
        return self._fitted(goal, best, tried)

    def _tried(self, goal: Goal) -> WaysTried:
        """The best plan of each way."""
        found = WaysTried()
        for way in (VOTE, LAST):
            found.best[way] = PlanSearch(self.space, goal, way).best()
        most = {n: min(self.options.samples, self.answers.samples(n)) for n in self.answers.names}
        known = [k for n, k in most.items() if self.answers.has_logprobs(MemberCalls(n, k))]
        alone = [n for n in most if self.answers.has_logprobs(MemberCalls(n))]
        if len(alone) > 1 or max(known, default=0) > 1:
            found.best[LOGPROB] = PlanSearch(self.space, goal, LOGPROB).best()
        else:
            found.why_not["logprob"] = "fewer than two answers to a query have log-probabilities"
        if self.models.ranker is not None:
            found.best[RANKER] = PlanSearch(self.space, goal, RANKER).best()
        else:
            found.why_not["ranker"] = "no --ranker was given"
        if self.models.fuser is not None:
            self._try_fusing(goal, found)
        else:
            found.why_not["fuser"] = "no --fuser was given"
        return found

    def _try_fusing(self, goal: Goal, tried: WaysTried) -> None:
        """Fuse samples of one model and a mix, at once or with the strong member where they do not agree."""
        way = PickRule("vote" if self.models.ranker is None else "ranker", self.models.fuse_top)
        search = PlanSearch(self.space, goal, way)
        able = sorted(self.answers.names, key=lambda name: -float(self.answers.alone(name).mean()))[:_SETS_OF]

        def affordable(calls: Sequence[MemberCalls]) -> bool:
            return all(call.pool in able for call in calls) and search.affords(calls)

        def fused(calls: tuple[MemberCalls, ...], rows: NDArray[np.int64]) -> Floats:
            leaders = self.votes.judged(calls).leaders
            picked = self.space.picking.at(rows.tolist(), calls, leaders, way)
            return picked.quality

        try:
            tried.sets = candidate_sets(self.answers, way.fuse_top, self.options.samples, affordable, fused)
        except DataError as e:
            tried.why_not[str(way)] = str(e)
            return
        self.space.report(f"fusing: {tried.sets}")
        shapes: list[Rounds] = []
        for calls in tried.sets.calls:
            shapes.append((calls,))
            if all(call.pool != self.strong for call in calls):
                shapes.append((calls, (MemberCalls(self.strong),)))
        tried.best[way] = search.best_among(shapes)

    def _fitted(self, goal: Goal, best: TriedPlan, tried: WaysTried) -> FittedPlan:
        """The plan of all queries."""
        shape, way, models = best.shape, best.shape.way, self.models
        thresholds = shape.thresholds(best.goal, best.least)
        if thresholds is None:
            raise DataError(f"{goal} is met on parts of the queries only: loosen it, or collect more answers")
        rounds = _joined(shape.rounds, thresholds, apart=way.select == "last")
        called = {call.pool for each in rounds for call in each.calls}
        named = {n: m for n, m in zip(self.answers.names, self.answers.models, strict=True) if n in called and m}
        plan = EnsemblePlan(
            rounds=rounds,
            select=way.select,
            version="",
            normalizer=self.answers.normalizer,
            agreement=self._agreement(shape, rounds).state(),
            ranker=models.ranker_name if way.select == "ranker" else None,
            fuser=models.fuser_name if way.fuse_top else None,
            fuse_top=way.fuse_top,
            expected=expected(best.outcome, shape, self.singles, self.strong),
            models=named,
        )
        about = self._about(tried, best)
        return FittedPlan(replace(plan, version=version_of(plan)), str(goal), about)

    def _agreement(self, shape: PlanShape, rounds: Sequence[Round]) -> Agreement:
        """Of the rounds to serve, some of which may be several of the shape's."""
        expectations = dict(zip(stages_of(shape.rounds), shape.expectations, strict=False))
        stages = stages_of(tuple(each.calls for each in rounds))
        return self.votes.agreement(stages, [expectations.get(stage) for stage in stages])

    def _about(self, tried: WaysTried, best: TriedPlan) -> dict[str, Any]:
        about: dict[str, Any] = {"digest": self.dataset.digest(), "queries": len(self.answers)}
        about |= {"figures": "cross-fitted", "strong": self.strong, "folds": self.options.folds}
        about |= {"seed": self.options.seed, "tried": tried.report(best)}
        if metric := self.dataset.about.get("metric"):
            about["metric"] = str(metric)
        for name, model in (("ranker", self.models.ranker), ("fuser", self.models.fuser)):
            if model is not None:
                about[name] = model.version
        if tried.sets is not None:
            about["sets"] = str(tried.sets)
        return about


def picking_of(
    dataset: Dataset,
    answers: Answers,
    strengths: Mapping[str, float],
    models: FitModels,
    report: Report = silent,
    samples: int = 1,
) -> Picking:
    """How answers are picked with these models. Raises ConfigError where fused answers cannot be graded."""
    ranked = RankedCandidates(answers, models.ranker, samples, report) if models.ranker is not None else None
    if models.fuser is None:
        return Picking(answers, strengths, ranked)
    check_gradable(dataset)
    return Picking(answers, strengths, ranked, FusedAnswers(dataset, models.fuser, report))


def fit_plan(
    dataset: Dataset,
    goal: Goal,
    options: EnsembleOptions | None = None,
    report: Report = silent,
    models: FitModels | None = None,
) -> FittedPlan:
    """The plan that meets the goal best on the answers; see `EnsembleFit`."""
    return EnsembleFit(dataset, options, report, models).plan(goal)


def _dearest(answers: Answers) -> str:
    return max(answers.names, key=lambda name: float(answers.cost(MemberCalls(name)).mean()))


def _joined(rounds: Rounds, thresholds: Sequence[float], apart: bool = False) -> tuple[Round, ...]:
    """Rounds to serve. One after which the plan never stops is joined with the next: waiting for it is of no use.

    `apart`: not so, since the last round alone decides.
    """
    found: list[Round] = []
    waiting: tuple[MemberCalls, ...] = ()
    for calls, stop_at in zip(rounds, [*thresholds, 0.0], strict=True):
        waiting = (*waiting, *calls)
        if stop_at < NEVER or apart:
            found.append(Round(waiting, float(stop_at)))
            waiting = ()
    return tuple(found)
