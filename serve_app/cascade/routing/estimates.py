"""Quality and cost of each model for a query, before any has answered and after some have (Dekoninck et al. 2025).

A set of models that have answered has its own weights: log-odds of quality linear in the evidence, cost linear in the
prompt's length and the costs seen. Quality weights build on those of the sets with one answer less: what the last
answer adds is shrunk towards nothing, so that a few hundred rows will do for 2 ** models sets.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.confidence import ConfidenceCurve, fit_confidence
from serve_app.cascade.routing.evidence import PRIOR, columns_of, directions, evidence
from serve_app.cascade.routing.prompts import PromptHead, fit_prompt_head
from serve_app.cascade.routing.ridge_logistic import fit_ridge_logistic, sigmoid
from serve_app.cascade.routing.seen import Seen
from serve_app.cascade.routing.sets import by_size, members, parents

Floats = NDArray[np.float64]
_ALONE = 2.0
"""Penalty of the estimates after one answer: few columns, the strongest evidence."""
_FURTHER = 12.0
"""Penalty of what each further answer adds."""
_COST_PENALTY = 1.0
_LEAST_COST = 0.2
"""An estimated cost is at least so much of the model's mean: a line may fall below 0 for short prompts."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """Fitted estimates of K models. `quality` [2 ** K, K, columns of evidence], `cost` [2 ** K, K, 2 + K] in USD:
    weights of 1, the prompt's characters and the cost of each model; `mean_cost` [K].
    """

    curves: tuple[ConfidenceCurve, ...]
    prompts: PromptHead
    quality: Floats
    cost: Floats
    mean_cost: Floats

    @property
    def models(self) -> int:
        """K."""
        return len(self.curves)

    def evidence(self, seen: Seen) -> Floats:
        """Rows [n, columns]; entries of models that were not asked are ignored by the estimates of `asked`."""
        z = np.stack([curve(seen.confidence[:, m]) for m, curve in enumerate(self.curves)], axis=1)
        return evidence(z, seen.agree, self.prompts.prior(seen.vectors, len(z)))

    def qualities(self, asked: int, rows: Floats) -> Floats:
        """Estimated quality [n, K] of every model once the set `asked` has answered, from rows of evidence."""
        return sigmoid(rows @ self.quality[asked].T)

    def costs(self, asked: int, seen: Seen) -> Floats:
        """Estimated cost [n, K] in US dollars of asking each model; of those asked, what they have cost."""
        there = [bool(asked >> m & 1) for m in range(self.models)]
        spent = np.where(there, seen.cost_usd, 0.0)
        rows = np.column_stack([np.ones(len(spent)), seen.characters, spent])
        found = np.maximum(rows @ self.cost[asked].T, _LEAST_COST * self.mean_cost)
        return np.where(there, seen.cost_usd, found)


def fit_estimates(seen: Seen, ok: Floats, difficulty: Floats) -> Estimates:
    """From n queries that every one of K models has answered, qualities `ok` [n, K] in [0, 1].

    `difficulty` [n]: what the prior of a prompt predicts, the mean quality over as many models as there are.
    """
    models = ok.shape[1]
    curves = tuple(fit_confidence(seen.confidence[:, m], ok[:, m]) for m in range(models))
    prompts, left_out = fit_prompt_head(seen.vectors, difficulty)
    z = np.stack([curve(seen.confidence[:, m]) for m, curve in enumerate(curves)], axis=1)
    rows = evidence(z, seen.agree, left_out)
    return Estimates(curves, prompts, _fit_quality(rows, ok), _fit_cost(seen), seen.cost_usd.mean(0))


def _fit_quality(rows: Floats, ok: Floats) -> Floats:
    models = ok.shape[1]
    found = np.zeros((2**models, models, columns_of(models)))
    found[:, :, PRIOR] = _shared_slope(rows[:, PRIOR], ok)
    for asked in by_size(models):
        for m in range(models):
            found[asked, m] = _fit_one(rows, ok[:, m], found, asked, m)
    return found


def _fit_one(rows: Floats, ok: Floats, found: Floats, asked: int, model: int) -> Floats:
    """Weights of evidence for one model and set, on top of the mean of the smaller sets' weights."""
    turn = directions(asked, model, found.shape[1])
    base = found[asked, model]
    further = asked.bit_count() > 1
    if further:
        base = np.mean([found[parent, model] for parent in parents(asked, kept=model)], axis=0)
    penalties = (_FURTHER, 1.0) if further else (_ALONE, 1e-3)
    fitted = fit_ridge_logistic(rows @ turn, ok, penalties[0], rows @ base, bias_penalty=penalties[1])
    weights: Floats = base + turn @ fitted.weights
    weights[0] += fitted.bias
    return weights


def _shared_slope(prior: Floats, ok: Floats) -> float:
    """Log-odds for a unit of the prior, whichever the model; each has its own level.

    Before any answer decisions hang on differences between models, which a slope of each would blur more than it told.
    After one the slope is fitted again: what an answer shows of a hard prompt would else count twice.
    """
    n, models = ok.shape
    rows = np.column_stack([np.repeat(np.eye(models), n, axis=0), np.tile(prior, models)])
    return float(fit_ridge_logistic(rows, ok.T.ravel(), _ALONE).weights[-1])


def _fit_cost(seen: Seen) -> Floats:
    """Ridge regressions on standardised columns."""
    models = seen.cost_usd.shape[1]
    found = np.zeros((2**models, models, 2 + models))
    for asked in range(2**models):
        columns = [1, *(2 + r for r in members(asked, models))]
        rows = np.column_stack([np.ones(len(seen.cost_usd)), seen.characters, seen.cost_usd])[:, columns]
        mean, scale = rows.mean(0), np.maximum(rows.std(0), 1e-12)
        x = (rows - mean) / scale
        y = seen.cost_usd - seen.cost_usd.mean(0)
        slopes = np.linalg.solve(x.T @ x + _COST_PENALTY * np.eye(len(columns)), x.T @ y) / scale[:, None]
        found[asked][:, columns] = slopes.T
        found[asked][:, 0] = seen.cost_usd.mean(0) - mean @ slopes
    return found
