"""What a fitted chain does to recorded answers that it was not fitted on, and what budgets would buy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve_app.cascade.base import Chain
from serve_app.cascade.fitting.confidence import Judge, fit_judge, opening
from serve_app.cascade.fitting.fit import ChainPlan, HeldOut, raw_of, thresholds_of
from serve_app.cascade.fitting.thresholds import Outcome, Walk
from serve_app.data.recorded import Recorded
from serve_app.decision.target import COST, Target
from serve_app.errors import DataError
from serve_app.learning.metrics import auc, calibration_error


@dataclass(frozen=True, slots=True)
class Judgement:
    """How well one level knows itself, over all its answers: AUC and expected calibration error."""

    pool: str
    auc: float
    calibration_error: float


def walk_of(chain: Chain, recorded: Recorded) -> Walk:
    """The chain's judges over recorded answers. Raises DataError where a level's pool was not recorded."""
    missing = [level.pool for level in chain.levels if level.pool not in recorded.models]
    if missing:
        raise DataError(
            f"the recorded answers have none of {missing[0]}: they have {', '.join(recorded.models)}; the chain asks "
            f"{' -> '.join(level.pool for level in chain.levels)}"
        )
    mine = recorded.of([level.pool for level in chain.levels])
    cost = mine.cost_usd.copy()
    columns = []
    for at, level in enumerate(chain.levels[:-1]):
        assert level.signal is not None and level.calibrator is not None
        judge = Judge(level.signal, level.calibrator)
        columns.append([judge.probability(opening(row[at], chain.probe_tokens)) for row in mine.evidence])
        if level.signal.needs.samples or level.signal.needs.verdicts:
            cost[:, at] += mine.extra_cost_usd[:, at]
    probability = np.array(columns, dtype=np.float64).T if columns else np.empty((len(mine), 0))
    return Walk(probability, mine.ok, cost)


def held_out_of(chain: Chain, walk: Walk) -> HeldOut:
    """What the chain's thresholds make of the walk."""
    level = walk.level(np.array([level.threshold for level in chain.levels[:-1]]))
    rows = np.arange(len(level))
    pools = tuple(level.pool for level in chain.levels)
    return HeldOut(pools, level, walk.ok[rows, level], np.cumsum(walk.cost_usd, axis=1)[rows, level])


def judgements(chain: Chain, walk: Walk) -> list[Judgement]:
    """Of every level that has a judge."""
    found = []
    for at, level in enumerate(chain.levels[:-1]):
        p, right = walk.probability[:, at], walk.ok[:, at]
        error = calibration_error(np.maximum(p, 0.0), right)
        found.append(Judgement(level.pool, auc(p, right >= 0.5), error))
    return found


def walks(train: Recorded, test: Recorded, plan: ChainPlan) -> tuple[Walk, Walk]:
    """The plan's chain over queries its judges were fitted on (probabilities out of fold where trained), and others.

    The plan's target, choice and alternatives are not looked at.
    """
    mine, other = train.of(plan.models), test.of(plan.models)
    own, outside = [], []
    for model in range(len(plan.models) - 1):
        raw, raw_other = (raw_of(r, model, plan) for r in (mine, other))
        judged = [row[model] for row in mine.evidence]
        judge, known = fit_judge(plan.judge, raw, mine.ok[:, model], judged, mine.cost_usd.max(1))
        own.append(known)
        outside.append(
            judge.probabilities(raw_other, [opening(row[model], plan.judge.prefix) for row in other.evidence])
        )
    fitted = Walk(np.column_stack(own), mine.ok, mine.cost_usd)
    return fitted, Walk(np.column_stack(outside), other.ok, other.cost_usd)


def outcomes(train: Recorded, test: Recorded, plan: ChainPlan, budgets_usd: Sequence[float]) -> list[Outcome | None]:
    """For each mean budget a query: the plan's chain fitted on train to it, and what it does to test.

    None where the budget is below what the first model costs. As of `walks`; judges are fitted once.
    """
    fitted, measured = walks(train, test, plan)
    thresholds = [thresholds_of(fitted, Target(COST, budget)) for budget in budgets_usd]
    return [None if t is None else measured.outcome(t) for t in thresholds]
