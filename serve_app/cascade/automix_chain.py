"""Fits AutoMix to recorded answers of two models, as a chain that is served like any other.

The first model's answer is judged by one signal that is a fraction in [0, 1] (its self-verifications, in the paper);
`automix` has the three deciders. Held-out figures and the refusal are those of `fitting`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from serve_app.cascade.artefact import Fitted, version_of
from serve_app.cascade.automix import (
    DoubleThreshold,
    Labelled,
    Pomdp,
    Threshold,
    escalated,
    fit_double_threshold,
    fit_pomdp,
    fit_threshold,
)
from serve_app.cascade.base import Chain, Level, Signal
from serve_app.cascade.choosing import HeldOut
from serve_app.cascade.fitting import check_held_out, check_worth, expected
from serve_app.cascade.judging import check_told
from serve_app.cascade.recorded import Recorded
from serve_app.cascade.self_verification import SelfVerification
from serve_app.errors import ConfigError, DataError
from serve_app.learning.logistic import folds_of
from serve_app.routing.target import COST, STRONG_SHARE, Target

Fitting = Callable[[Labelled, float], Threshold | DoubleThreshold | Pomdp]
DECIDERS: Final[Mapping[str, Fitting]] = {
    "threshold": fit_threshold,
    "double-threshold": fit_double_threshold,
    "pomdp": fit_pomdp,
}
_BUDGETS: Final = 41
"""Mean costs that are tried for a quality target."""


@dataclass(frozen=True, slots=True)
class AutoMixPlan:
    """What to fit. `models`: the small one, the large one. `signal`: a fraction in [0, 1] of the small one's answer."""

    models: tuple[str, ...]
    target: Target
    decider: str = "pomdp"
    signal: Signal = field(default_factory=SelfVerification)
    folds: int = 5
    seed: int = 0


def fit_automix(recorded: Recorded, plan: AutoMixPlan) -> Fitted:
    """The chain, fitted on all queries, its figures measured by cross-fitting.

    Raises ConfigError for a plan or target that cannot be, InsufficientData for too few queries, DataError for a
    signal that is no fraction or a chain that is worse than a single model at the same cost.
    """
    if len(plan.models) != 2:
        raise ConfigError(f"AutoMix takes a small and a large model, not {', '.join(plan.models) or 'none'}: name two")
    if plan.decider not in DECIDERS:
        raise ConfigError(f"decider {plan.decider!r} is not known: give {', '.join(DECIDERS)}")
    labelled = labelled_of(recorded.of(plan.models), plan.signal)
    folds = folds_of(recorded.prompts, plan.folds, plan.seed)
    check_held_out(folds)
    asked = np.zeros(len(recorded), dtype=bool)
    for fold in np.unique(folds).tolist():
        inside = folds != fold
        asked[~inside] = escalated(_fit(labelled.take(inside), plan), labelled.p[~inside])
    held_out = HeldOut(
        plan.models,
        asked.astype(np.int64),
        np.where(asked, labelled.large, labelled.small),
        labelled.small_cost + np.where(asked, labelled.large_cost, 0.0),
    )
    check_worth(held_out, recorded)
    small = Level(plan.models[0], plan.signal, _fit(labelled, plan).calibrator(), 0.5)
    levels = (small, Level(plan.models[1]))
    chain = Chain(
        levels=levels,
        version=version_of(levels, None),
        expected=expected(held_out, recorded, plan.models),
        models=recorded.of(plan.models).served,
    )
    data: dict[str, Any] = {"digest": recorded.digest(), "queries": len(recorded), "figures": "cross-fitted"}
    return Fitted(chain, str(plan.target), {**data, "folds": plan.folds, "seed": plan.seed, "decider": plan.decider})


def labelled_of(recorded: Recorded, signal: Signal) -> Labelled:
    """Two models' answers as AutoMix sees them. Raises DataError for a signal that no answer has or no fraction is."""
    p = np.array([signal.value(row[0]) for row in recorded.judged])
    check_told((signal,), p[:, None], recorded.models[0])
    known = p[~np.isnan(p)]
    if known.min() < 0.0 or known.max() > 1.0:
        raise DataError(f"{signal.name} is no fraction in [0, 1]: AutoMix takes self_verification or agreement")
    cost = recorded.cost_usd.copy()
    if signal.needs.samples or signal.needs.verdicts:
        cost[:, 0] += recorded.extra_cost_usd[:, 0]
    return Labelled(p, recorded.ok[:, 0], recorded.ok[:, 1], cost[:, 0], cost[:, 1])


def _fit(labelled: Labelled, plan: AutoMixPlan) -> Threshold | DoubleThreshold | Pomdp:
    """The decider for the target: within its budget, or at the least budget that keeps the quality."""
    fit, target = DECIDERS[plan.decider], plan.target
    least, most = float(labelled.small_cost.mean()), float((labelled.small_cost + labelled.large_cost).mean())
    if target.name == COST:
        if target.value < least:
            raise ConfigError(f"{target} USD cannot be met: {plan.models[0]} alone costs {least:.3g} a query; raise it")
        return fit(labelled, target.value)
    if target.name == STRONG_SHARE:
        return fit(labelled, least + target.value * (most - least))
    wanted = (1 - target.value) * float(labelled.large.mean())
    for budget in np.linspace(least, most, _BUDGETS).tolist():
        found = fit(labelled, budget)
        if labelled.means(escalated(found, labelled.p))[0] >= wanted:
            return found
    raise ConfigError(f"{target} cannot be met with {' -> '.join(plan.models)}; loosen it or give other models")
