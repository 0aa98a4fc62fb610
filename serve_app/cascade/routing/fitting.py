"""Fits a cascade router to recorded answers: estimates, shape and λ for a budget; falls back where it does not pay.

Every figure that a choice depends on is of cross-fitted estimates, by fits that did not see the row: a policy would
trust its own too much. If a router is not better than the best single model of at most its mean cost, that model is
served instead, or the best mixture of two, and `fell_back` says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.cascade.base import Signal
from serve_app.cascade.fitting.confidence import ConfidencePlan, check_defined, recorded_values
from serve_app.cascade.fitting.fit import Report
from serve_app.cascade.fitting.held_out import origin
from serve_app.cascade.fitting.worth import check_held_out, kinds_of
from serve_app.cascade.routing.estimates import (
    MOST_MODELS,
    CascadeEstimates,
    Observations,
    fit_estimates,
    observations_of,
)
from serve_app.cascade.routing.mixing import (
    Mixture,
    Shaped,
    best_model,
    best_single_mix,
    choose_shape,
    expected,
    pays,
    refined,
)
from serve_app.cascade.routing.router import CascadeRouter, version_of
from serve_app.cascade.routing.supermodels import Form
from serve_app.cascade.routing.walk import Tables, Walked, fit_moves
from serve_app.cascade.signals.combined import fit_combined, joint_needs
from serve_app.data.recorded import Recorded
from serve_app.errors import ConfigError, InsufficientData
from serve_app.learning.logistic import folds_of
from serve_app.numbers import fixed, significant

FOLDS = 10


def estimate_all(estimates: CascadeEstimates, seen: Observations) -> tuple[Floats, Floats]:
    """Quality and cost [2 ** K, n, K] in every state."""
    rows = estimates.evidence(seen)
    sets = range(2**estimates.models)
    quality = np.stack([estimates.qualities(called, rows) for called in sets])
    return quality, np.stack([estimates.costs(called, seen) for called in sets])


def crossfitted(seen: Observations, ok: Floats, difficulty: Floats, folds: NDArray[np.int64]) -> Tables:
    """Tables of all rows, each estimated by a fit on the other folds; moves counted on the same estimates."""
    n, models = ok.shape
    quality, cost = np.empty((2**models, n, models)), np.empty((2**models, n, models))
    for fold in np.unique(folds).tolist():
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        fitted = fit_estimates(seen.take(outside), ok[outside], difficulty[outside])
        quality[:, inside], cost[:, inside] = estimate_all(fitted, seen.take(inside))
    return Tables(quality, cost, fit_moves(quality), ok, seen.cost_usd)


FEWEST = 100
"""Queries required for a router: with fewer its held-out figures mean nothing."""


@dataclass(frozen=True, slots=True)
class RoutingPlan:
    """What to fit. `models` as recorded, in the order a cascade would call them; `budget_usd`: mean cost a query.

    `confidence`: signals of answers, combined for each model; None: the recorded confidence. `encoder`: of prompts;
    None: only their length is read. `pools`: the pool of each model, by default of the same name. `confidence_is`: the
    signal whose values the recorded confidences are.
    """

    models: tuple[str, ...]
    budget_usd: float
    form: Form = "any"
    confidence: ConfidencePlan | None = None
    encoder: str | None = None
    pools: Mapping[str, str] = field(default_factory=dict)
    confidence_is: str | None = None
    seed: int = 0


def fit_routing(recorded: Recorded, plan: RoutingPlan, report: Report = lambda _: None) -> CascadeRouter:
    """The router, estimates fitted on all queries.

    Raises ConfigError for a budget below the cheapest model or invalid models, InsufficientData for too few
    queries, DataError for an unknown model, DependencyError without the extra `train`.
    """
    _check(recorded, plan)
    chosen = recorded.of(plan.models)
    if plan.confidence is not None and any(s.needs.samples or s.needs.verdicts for s in plan.confidence.signals):
        chosen = replace(chosen, cost_usd=chosen.cost_usd + chosen.extra_cost_usd)
    signals, confidence = _signals(chosen, plan)
    digest, vectors = _vectors(chosen, plan.encoder)
    seen = observations_of(chosen, vectors, confidence)
    difficulty = recorded.ok.mean(1)
    folds = folds_of(chosen.prompts, FOLDS, plan.seed)
    check_held_out(folds)
    tables = crossfitted(seen, chosen.ok, difficulty, folds)
    shaped = choose_shape(tables, plan.form, plan.seed)
    shape = shaped.shape
    figures = f"area {fixed(shaped.area, 4)}, form {shape.form}, spread {shape.spread:g}, later {shape.later:g}"
    report(f"{', '.join(plan.models)}: {figures}")
    mixture, fell_back = within_budget(tables, shaped, plan.budget_usd)
    if not fell_back:
        kinds, kind = kinds_of(chosen)
        others = crossfitted(seen, chosen.ok, difficulty, kinds)
        if not holds(others, mixture):
            report(f"on queries of a {kind} that the fit has not seen a single model is better at the router's cost")
            mixture, fell_back = best_single_mix(tables.ok, tables.cost_usd, plan.budget_usd).mixture(), True
    walked = expected(tables, mixture)
    how = "single models" if fell_back else shape.form
    report(f"{how}: quality {fixed(walked.quality.mean(), 4)} at {significant(walked.cost_usd.mean())} USD a query")
    estimates = fit_estimates(seen, chosen.ok, difficulty)
    reads = len(estimates.prompts.weights) > 0  # where prompts do not help no encoder is run for them
    found = CascadeRouter(
        pools=tuple(plan.pools.get(model, model) for model in plan.models),
        estimates=estimates,
        move=tables.move,
        mixture=mixture,
        signals=signals,
        models=chosen.served,
        encoder=plan.encoder if reads else None,
        encoder_digest=digest if reads else None,
        expected=_figures(tables, walked, plan.models),
        data=_about(recorded, plan, fell_back),
    )
    return version_of(found)


def within_budget(tables: Tables, shaped: Shaped, budget_usd: float) -> tuple[Mixture, bool]:
    """The shape's policies mixed to the budget; or single models, and True, where they are not surely better."""
    mixture = refined(tables, shaped.rungs, budget_usd)
    walked = expected(tables, mixture)
    if pays(walked.quality, tables.ok, tables.cost_usd, float(walked.cost_usd.mean())):
        return mixture, False
    return best_single_mix(tables.ok, tables.cost_usd, budget_usd).mixture(), True


def holds(tables: Tables, mixture: Mixture) -> bool:
    """Whether a mixture is no worse on these rows than the best single model of at most its cost there."""
    walked = expected(tables, mixture)
    best = best_model(tables.ok, tables.cost_usd, float(walked.cost_usd.mean()))
    return best is None or float((walked.quality - tables.ok[:, best]).mean()) >= 0


def _check(recorded: Recorded, plan: RoutingPlan) -> None:
    if not 2 <= len(plan.models) <= MOST_MODELS:
        k = len(plan.models)
        raise ConfigError(f"cascade routing needs 2 to {MOST_MODELS} models, not {k}: name the ones that matter")
    if (n := len(recorded)) < FEWEST:
        raise InsufficientData(f"cascade routing needs at least {FEWEST} queries, there are {n}: collect more")
    if not isfinite(plan.budget_usd) or plan.budget_usd <= 0:
        raise ConfigError(f"budget is {plan.budget_usd!r}; give a mean cost a query in US dollars above 0")
    pools = [plan.pools.get(model, model) for model in plan.models]
    if len(set(pools)) < len(pools):
        raise ConfigError(f"two models are of one pool ({', '.join(pools)}); name a pool for each")


def _signals(recorded: Recorded, plan: RoutingPlan) -> tuple[dict[str, Signal | None], Floats]:
    """Each pool's signal, and its values [n, K] of the answers by fits that did not see them."""
    pools = [plan.pools.get(model, model) for model in plan.models]
    if plan.confidence is None:
        return dict.fromkeys(pools), recorded.confidence
    signals: dict[str, Signal | None] = {}
    columns = []
    for m, pool in enumerate(pools):
        how = plan.confidence
        raw = recorded_values(how.signals, recorded, m, how.prefix, plan.confidence_is)
        check_defined(plan.confidence.signals, raw, plan.models[m])
        if len(plan.confidence.signals) == 1:
            signals[pool], column = plan.confidence.signals[0], raw[:, 0]
        else:
            signals[pool], column = fit_combined(plan.confidence.signals, raw, recorded.ok[:, m], plan.seed)
        columns.append(column)
    return signals, np.column_stack(columns)


def _vectors(recorded: Recorded, encoder: str | None) -> tuple[str | None, Floats | None]:
    if encoder is None:
        return None, None
    from serve_app.learning.encoder import load_encoder

    loaded = load_encoder(encoder)
    return loaded.digest, loaded.embed(recorded.prompts).astype(np.float64)


def _figures(tables: Tables, walked: Walked, models: tuple[str, ...]) -> dict[str, float]:
    """Cross-fitted means; the reach of a model is the share of queries that call it on the dearer side."""
    found = {
        "quality": float(walked.quality.mean()),
        "cost_usd": float(walked.cost_usd.mean()),
        "strong_quality": float(tables.ok.mean(0).max()),
    }
    for m, model in enumerate(models):
        found[f"share:{model}"] = float((walked.answer == m).mean())
        found[f"reach:{model}"] = float((walked.called >> m & 1).mean())
    return found


def _about(recorded: Recorded, plan: RoutingPlan, fell_back: bool) -> dict[str, Any]:
    prior = None if plan.confidence is None else joint_needs(plan.confidence.signals).prior
    about = origin(recorded, prior, plan.confidence_is)
    return about | {"budget_usd": plan.budget_usd, "form": plan.form, "fell_back": fell_back, "seed": plan.seed}
