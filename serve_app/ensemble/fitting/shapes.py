"""A plan without its thresholds, what it does to recorded queries, and the thresholds that meet a goal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.ensemble.agreement import Expectation, StopRule
from serve_app.ensemble.artefact import agreement_of
from serve_app.ensemble.base import EnsemblePlan, MemberCalls
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.picking import LAST, VOTE, Picking, PickRule
from serve_app.ensemble.fitting.votes import VoteFits, calibration, returned_quality

NEVER: Final = 1.01
"""A threshold above every probability."""
_GRID: Final = 24
"""Thresholds tried for each round that comes before the last two."""
_SHORT_BY: Final = 0.5
"""Standard errors by which a budget is kept where thresholds are chosen, so that other queries keep it too."""

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
    """Rounds over n queries, judged out of fold, arrays [n, rounds]: `p`, which is compared with `stop_at`; `quality`
    and its expectation `hoped` if the plan ends after each round; cumulative cost. `strong`: the first round that calls
    the strong member, as many as there are rounds where none does. `way`: how the answer is picked;
    `expectations`: of each round but the last, now and later, where it stops by expected gain; () otherwise.
    """

    rounds: Rounds
    p: Floats
    quality: Floats
    hoped: Floats
    cost_usd: Floats
    strong: int
    way: PickRule = VOTE
    expectations: tuple[tuple[Expectation, Expectation] | None, ...] = ()

    @property
    def stops(self) -> StopRule:
        """By what it stops before its last round."""
        return "gain" if self.expectations else "probability"

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
        """Those that meet the goal on the queries at `rows`; None if none do. Every threshold of the round before the
        last is tried, for a grid of those before it.

        Quality is what is expected of each query by its probabilities, smoother than what came out: the best of 200
        thresholds by the latter would be the luckiest. A budget is kept with half a standard error to spare; a share of
        strong calls is met on average: below its limit quality is given away.
        """
        p, hoped, cost = (x if rows is None else x[rows] for x in (self.p, self.hoped, self.cost_usd))
        before = p.shape[1] - 1
        levels = np.linspace(0, 1, _GRID)
        axes = [[*np.unique(np.quantile(p[:, i], levels)).tolist(), NEVER] for i in range(before - 1)]
        best: tuple[float, float] | None = None
        found: list[float] | None = None
        for outer in product(*axes):
            stops = np.column_stack([p[:, : before - 1] >= np.asarray(outer), np.ones(len(p), dtype=bool)])
            ends = stops.argmax(1) if before else np.zeros(len(p), dtype=np.int64)
            cuts, quality, spent, called = self._swept(p, hoped, cost, ends)
            able = np.ones(len(cuts), dtype=bool)
            if goal.budget_usd is not None:
                able &= _upper(spent) <= goal.budget_usd * (1 + 1e-9)
            if goal.strong_share is not None:
                able &= called[0] <= goal.strong_share + 1e-9
            if least is not None:
                able &= quality >= least - 1e-9
            if not able.any():
                continue
            at = np.flatnonzero(able)
            order = (-spent[0][at], quality[at]) if least is None else (quality[at], -spent[0][at])
            chosen = int(at[np.lexsort(order)[-1]])
            key = (float(quality[chosen]), -float(spent[0][chosen]))
            key = key if least is None else (key[1], key[0])
            if best is None or key > best:
                best, found = key, [*outer, float(cuts[chosen])][:before]
        return found

    def _swept(
        self, p: Floats, hoped: Floats, cost: Floats, ends: NDArray[np.int64]
    ) -> tuple[Floats, Floats, tuple[Floats, Floats], tuple[Floats, Floats]]:
        """For each threshold of the round before the last: itself, mean expected quality, and mean and standard error
        of the cost and of strong calls. `ends`: the round of each query if it reaches that round, or ended before.
        """
        n, before = len(p), p.shape[1] - 1
        at = np.arange(n)
        strong = np.column_stack([np.full(n, float(i >= self.strong)) for i in range(before + 1)])
        measures = (hoped, cost, cost**2, strong)
        if not before:
            totals = [x[:, 0].sum(keepdims=True) for x in measures]
            return _means(np.array([NEVER]), totals, n)
        rest = np.flatnonzero(ends == before - 1)
        order = rest[np.argsort(-p[rest, before - 1], kind="stable")]
        sorted_p = p[order, before - 1]
        stays = (
            np.append(np.flatnonzero(sorted_p[1:] != sorted_p[:-1]) + 1, len(order)) if len(order) else np.array([0])
        )
        counts = np.unique(np.concatenate([[0], stays]))
        cuts = np.array([NEVER if k == 0 else sorted_p[k - 1] for k in counts.tolist()])
        ended = at[ends < before - 1]
        totals = []
        for x in measures:
            stop, last = x[order, before - 1], x[order, before]
            change = np.concatenate([[0.0], np.cumsum(stop - last)])
            totals.append(x[ended, ends[ended]].sum() + last.sum() + change[counts])
        return _means(cuts, totals, n)


def _means(
    cuts: Floats, totals: Sequence[Floats], n: int
) -> tuple[Floats, Floats, tuple[Floats, Floats], tuple[Floats, Floats]]:
    """From sums over n queries of quality, cost, its square and strong calls."""
    quality, spent, squared, share = (total / n for total in totals)
    spread = np.sqrt(np.maximum(squared - spent**2, 0.0) / n)
    return cuts, quality, (spent, spread), (share, np.sqrt(np.maximum(share * (1 - share), 0.0) / n))


def _upper(found: tuple[Floats, Floats]) -> Floats:
    """Means with what they may be short by, from means and standard errors."""
    return found[0] + _SHORT_BY * found[1]


def shape_of(
    fits: VoteFits, rounds: Rounds, strong: str, way: PickRule = VOTE, picking: Picking | None = None
) -> PlanShape:
    """The shape, which stops by probability, its votes cross-fitted. `picking` is required for every way but the vote.

    See `by_gain` for the other rule.
    """
    stages = stages_of(rounds)
    judged = [fits.judged(calls) for calls in stages]
    costs = [sum((fits.answers.cost(call) for call in calls), np.zeros(len(fits.answers))) for calls in stages]
    first = next((i for i, calls in enumerate(rounds) if any(c.pool == strong for c in calls)), len(rounds))
    p, quality = np.column_stack([j.p for j in judged]), np.column_stack([j.quality for j in judged])
    hoped = p.copy()
    if way == LAST:
        says = np.array([bool(fits.answers.candidates(row, rounds[-1])) for row in range(len(p))])
        alone = fits.judged(rounds[-1]).quality
        quality[:, -1] = np.where(says, alone, quality[:, -2])
    elif way != VOTE:
        assert picking is not None
        found = [picking.stage(calls, j.leaders, way).quality for calls, j in zip(stages, judged, strict=True)]
        quality = np.column_stack(found)
    if way not in (VOTE, LAST):
        hoped = np.column_stack([_expected(j.log_odds, good) for j, good in zip(judged, quality.T, strict=True)])
    if len(rounds) > 1:  # what the last round is worth, by what is known before it is called
        hoped[:, -1] = _expected(judged[-2].log_odds, quality[:, -1])
    return PlanShape(rounds, p, quality, hoped, np.column_stack(costs), first, way)


def by_gain(shape: PlanShape, fits: VoteFits) -> PlanShape | None:
    """The same, stopping by what further rounds are expected to add: the members that are called later may be no better
    on this query. None where accuracy does not depend on the query.
    """
    liked = fits.liked([call for calls in shape.rounds for call in calls])
    if not liked or len(shape.rounds) < 2:
        return None
    p, hoped = shape.p.copy(), shape.hoped.copy()
    expectations: list[tuple[Expectation, Expectation] | None] = []
    for at, calls in enumerate(stages_of(shape.rounds)[:-1]):
        one = fits.judged(calls)
        says = np.array([bool(leader) for leader in one.leaders])
        now, good = fits.expectation(one.log_odds, shape.quality[:, at], liked)
        later, further = fits.expectation(one.log_odds, shape.quality[:, -1], liked)
        expectations.append((now, later))
        p[:, at] = np.where(says, 1.0 - np.maximum(0.0, further - good), 0.0)
        hoped[:, at] = np.where(says, good, 0.0)
        hoped[:, -1] = further
    return replace(shape, p=p, hoped=hoped, expectations=tuple(expectations))


def stages_of(rounds: Rounds) -> list[tuple[MemberCalls, ...]]:
    """All calls by the end of each round."""
    return [tuple(call for calls in rounds[: i + 1] for call in calls) for i in range(len(rounds))]


def _expected(log_odds: Floats, quality: Floats) -> Floats:
    """What quality is expected of each query by the log-odds of its vote, shape [n] each."""
    expected: Floats = sigmoid(calibration(log_odds, quality).log_odds(log_odds[:, None]))
    return expected


def replay(plan: EnsemblePlan, answers: Answers, strong: str, picking: Picking | None = None) -> PlanOutcome:
    """What a plan does to each query, as it is served; `strong` is the member whose calls are counted.

    Of a query to which no called member says anything the quality is 0. `picking` is required for a plan that ranks or
    fuses. Raises DataError if a member is not recorded.
    """
    return replayed(plan, answers, strong, picking)[0]


def replayed(
    plan: EnsemblePlan, answers: Answers, strong: str, picking: Picking | None = None
) -> tuple[PlanOutcome, tuple[str, ...]]:
    """The same with the answers that are given out."""
    answers.check(plan)
    model = agreement_of(plan)
    if model is None:
        raise ValueError("only a plan that stops by fitted votes can be replayed")
    n, strengths = len(answers), strengths_of(plan)
    picking = picking or Picking(answers, strengths)
    way = PickRule(plan.select, plan.fuse_top if plan.fuser is not None else 0)
    if (way.select == "ranker" and picking.ranked is None) or (way.fuse_top and picking.fused is None):
        raise ValueError("the plan ranks or fuses: give its ranker and fuser")
    rounds = tuple(each.calls for each in plan.rounds)
    stages = stages_of(rounds)
    ends, led = np.zeros(n, dtype=np.int64), np.zeros(n)
    shown, leaders = [], []
    for row in range(n):
        mine = model.for_query(answers.queries[row])
        for at, stage in enumerate(stages):
            votes, good = answers.votes(row, stage)
            if at == len(stages) - 1 or (votes and mine.sure(votes) >= plan.rounds[at].stop_at):
                break
        leader = mine.probability(votes)[0] if votes else ""
        if way.select == "last":
            at_last = next((i for i in range(at, -1, -1) if answers.votes(row, rounds[i])[0]), at)
            stage = rounds[at_last]
            votes, good = answers.votes(row, stage)
            leader = mine.probability(votes)[0] if votes else ""
        ends[row] = at
        says = [vote.answer == leader for vote in votes]
        led[row] = returned_quality(votes, good, says, strengths) if votes else 0.0
        shown.append(stage)
        leaders.append(leader)
    found = picking.picked(dict(enumerate(zip(shown, leaders, strict=True))), way)
    costs = np.column_stack([sum((answers.cost(call) for call in stage), np.zeros(n)) for stage in stages])
    reaches = np.array([any(call.pool == strong for call in stage) for stage in stages])
    quality = led if way in (VOTE, LAST) else found.quality
    return PlanOutcome(ends, quality, costs[np.arange(n), ends], reaches[ends]), found.texts


def strengths_of(plan: EnsemblePlan) -> dict[str, float]:
    """Quality of each member alone, as fitted."""
    return {k.removeprefix("quality:"): v for k, v in plan.expected.items() if k.startswith("quality:")}
