"""Replays a fitted chain over recorded answers that it was not fitted on, and fits one for each of several budgets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve_app.cascade.base import Chain
from serve_app.cascade.fitting.confidence import (
    ConfidenceModel,
    check_defined,
    fit_confidence,
    opening,
    recorded_values,
)
from serve_app.cascade.fitting.fit import ChainPlan, raw_of, thresholds_of
from serve_app.cascade.fitting.held_out import HeldOut
from serve_app.cascade.fitting.thresholds import ChainOutcome, ChainReplay
from serve_app.cascade.signals.answer_scorer import AnswerScorer
from serve_app.cascade.signals.specs import parts_of
from serve_app.data.recorded import Recorded
from serve_app.decision.target import COST, Target
from serve_app.errors import DataError
from serve_app.learning.metrics import auc, calibration_error


@dataclass(frozen=True, slots=True)
class SignalQuality:
    """How good one level's confidence is, over all its answers: AUC and expected calibration error."""

    pool: str
    auc: float
    calibration_error: float


def replay_of(chain: Chain, recorded: Recorded, confidence_is: str | None = None) -> ChainReplay:
    """The chain over recorded answers; `confidence_is` is the signal whose values the recorded confidences are.

    Raises DataError if a level's pool was not recorded, InsufficientData if a signal is undefined for all its answers.
    """
    missing = [level.pool for level in chain.levels if level.pool not in recorded.models]
    if missing:
        raise DataError(
            f"the recorded answers have none of {missing[0]}: they have {', '.join(recorded.models)}; the chain calls "
            f"{' -> '.join(level.pool for level in chain.levels)}"
        )
    mine = recorded.of([level.pool for level in chain.levels])
    cost = mine.cost_usd.copy()
    columns = []
    for at, level in enumerate(chain.levels[:-1]):
        assert level.signal is not None and level.calibrator is not None
        parts = [part for part in parts_of(level.signal) if not isinstance(part, AnswerScorer)]
        raw = recorded_values(parts, mine, at, chain.probe_tokens, confidence_is)
        check_defined(parts, raw, level.pool)
        answers = [opening(row[at], chain.probe_tokens) for row in mine.evidence]
        columns.append(ConfidenceModel(level.signal, level.calibrator).probabilities(raw, answers))
        if level.signal.needs.samples or level.signal.needs.verdicts:
            cost[:, at] += mine.extra_cost_usd[:, at]
    probability = np.array(columns, dtype=np.float64).T if columns else np.empty((len(mine), 0))
    return ChainReplay(probability, mine.ok, cost)


def held_out_of(chain: Chain, replay: ChainReplay) -> HeldOut:
    """The answers that the chain's thresholds take."""
    thresholds = np.array([level.threshold for level in chain.levels[:-1]])
    return HeldOut(tuple(level.pool for level in chain.levels), *replay.taken(thresholds))


def signal_qualities(chain: Chain, replay: ChainReplay) -> list[SignalQuality]:
    """Of every level that has a signal."""
    found = []
    for at, level in enumerate(chain.levels[:-1]):
        p, right = replay.probability[:, at], replay.ok[:, at]
        error = calibration_error(np.maximum(p, 0.0), right)
        found.append(SignalQuality(level.pool, auc(p, right >= 0.5), error))
    return found


def fit_replays(train: Recorded, test: Recorded, plan: ChainPlan) -> tuple[ChainReplay, ChainReplay]:
    """The plan's chain over queries its signals were fitted on (probabilities out of fold where trained), and others.

    The plan's target, choice and alternatives are not used.
    """
    mine, other = train.of(plan.models), test.of(plan.models)
    own, outside = [], []
    for model in range(len(plan.models) - 1):
        raw, raw_other = (raw_of(r, model, plan) for r in (mine, other))
        answers = [row[model] for row in mine.evidence]
        fitted, known = fit_confidence(plan.confidence, raw, mine.ok[:, model], answers, mine.cost_usd.max(1))
        own.append(known)
        others = [opening(row[model], plan.confidence.prefix) for row in other.evidence]
        outside.append(fitted.probabilities(raw_other, others))
    fitted_on = ChainReplay(np.column_stack(own), mine.ok, mine.cost_usd)
    return fitted_on, ChainReplay(np.column_stack(outside), other.ok, other.cost_usd)


def outcomes(
    train: Recorded, test: Recorded, plan: ChainPlan, budgets_usd: Sequence[float]
) -> list[ChainOutcome | None]:
    """For each mean budget a query the outcome on test of the plan's chain fitted to it on train.

    None where the budget is below the cost of the first model. See `fit_replays`, which is called once.
    """
    fitted, measured = fit_replays(train, test, plan)
    thresholds = [thresholds_of(fitted, Target(COST, budget)) for budget in budgets_usd]
    return [None if t is None else measured.outcome(t) for t in thresholds]
