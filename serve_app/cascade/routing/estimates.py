"""Quality and cost of each model for a query, before any has answered and after some have (Dekoninck et al. 2025).

A set of models that have answered (a bit mask: bit m for model m) has its own weights: log-odds of quality linear in
the evidence, cost linear in the prompt's length and the costs seen. Quality weights build on those of the sets with one
answer less: what the last answer adds is shrunk towards nothing, so that a few hundred rows suffice for 2 ** K sets.

The evidence of K models is one vector: 1; the prompt's prior, a ridge regression on its sentence vector, left out where
it does not help; the log-odds z_r of each answer; agreement A_rs of each pair r < s; and z_r · A_rm for each ordered
pair r, m. Entries of models that were not called are 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.cascade.signals.calibration import ConfidenceCurve, fit_curve
from serve_app.data.recorded import Recorded
from serve_app.grading.normalizers import plain_text
from serve_app.learning.logistic import fit_ridge_logistic
from serve_app.learning.ridge import fit_ridge


@dataclass(frozen=True, slots=True)
class PromptHead:
    """Expected mean quality over models = vector · weights + bias; no weights: the same for every prompt."""

    weights: Floats
    bias: float

    def prior(self, vectors: Floats | None, rows: int) -> Floats:
        """[rows], from vectors [rows, d]; the bias alone where there are no weights."""
        if len(self.weights) == 0:
            return np.full(rows, self.bias)
        if vectors is None:
            raise ValueError("these estimates read a prompt's sentence vector")
        found: Floats = vectors @ self.weights + self.bias
        return found


def fit_prompt_head(vectors: Floats | None, difficulty: Floats) -> tuple[PromptHead, Floats]:
    """The head, and its prediction of each row by a fit on the others [n].

    Without vectors, or where leave-one-out predictions err no less than the mean does, it is the mean.
    """
    mean = float(difficulty.mean())
    plain = PromptHead(np.empty(0), mean), np.full(len(difficulty), mean)
    if vectors is None:
        return plain
    ridge, left_out = fit_ridge(vectors, difficulty)
    mean_left_out = (difficulty.sum() - difficulty) / max(len(difficulty) - 1, 1)
    if ((left_out - difficulty) ** 2).mean() >= ((mean_left_out - difficulty) ** 2).mean():
        return plain
    return PromptHead(ridge.weights, ridge.bias), left_out


@dataclass(frozen=True, slots=True)
class Observations:
    """n queries, K models: raw `confidence` [n, K] (nan where unknown), `agree` [n, K, K] in {0, 1}, `cost_usd` [n, K],
    `characters` of the prompt [n], and sentence `vectors` [n, d], None where no encoder is used.
    """

    confidence: Floats
    agree: Floats
    cost_usd: Floats
    characters: Floats
    vectors: Floats | None = None

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the queries."""
        vectors = None if self.vectors is None else self.vectors[rows]
        return type(self)(self.confidence[rows], self.agree[rows], self.cost_usd[rows], self.characters[rows], vectors)


def observations_of(
    recorded: Recorded, vectors: Floats | None = None, confidence: Floats | None = None
) -> Observations:
    """All recorded answers. `vectors` [n, d] of the prompts, by an encoder; `confidence` [n, K] in place of
    the recorded one. Costs are those of the answers, without further calls.
    """
    agree = np.array([agreement([answer.text for answer in row]) for row in recorded.evidence])
    characters = np.array([len(prompt) for prompt in recorded.prompts], dtype=np.float64)
    raw = recorded.confidence if confidence is None else confidence
    return Observations(raw, agree, recorded.cost_usd, characters, vectors)


def agreement(texts: Sequence[str]) -> Floats:
    """Which answers say the same once normalised, [K, K] in {0, 1}; an empty one agrees with none but itself."""
    said = [plain_text(text) for text in texts]
    found = np.array([[bool(a) and a == b for b in said] for a in said], dtype=np.float64)
    np.fill_diagonal(found, 1.0)
    return found


MOST_MODELS = 8
"""Estimates are kept for every set of models, 2 ** models of them."""


def members(models: int, count: int) -> list[int]:
    """The models in a set, of `count` there are, ascending."""
    return [m for m in range(count) if models >> m & 1]


def by_size(count: int) -> list[int]:
    """All sets of `count` models, the smaller ones first."""
    return sorted(range(2**count), key=lambda models: (models.bit_count(), models))


def parents(models: int, kept: int | None = None) -> Iterator[int]:
    """The sets with one model less, of those that keep the model `kept`."""
    for m in range(models.bit_length()):
        if models >> m & 1 and m != kept:
            yield models & ~(1 << m)


PRIOR = 1
"""Column of the prompt's prior."""


def evidence(log_odds: Floats, agree: Floats, prior: Floats) -> Floats:
    """Rows [n, columns] from log-odds [n, K], agreement [n, K, K] in {0, 1}, and the prompt's prior [n]."""
    models = log_odds.shape[1]
    first, second = pairs(models)
    one, other = ordered_pairs(models)
    start = [np.ones((len(log_odds), 1)), prior[:, None], log_odds]
    return np.concatenate([*start, agree[:, first, second], log_odds[:, one] * agree[:, one, other]], axis=1)


def columns_of(models: int) -> int:
    """How many columns there are."""
    return 2 + models + 3 * models * (models - 1) // 2


def pairs(models: int) -> tuple[list[int], list[int]]:
    """r and s of each pair r < s."""
    found = list(combinations(range(models), 2))
    return [r for r, _ in found], [s for _, s in found]


def ordered_pairs(models: int) -> tuple[list[int], list[int]]:
    """r and m of each ordered pair."""
    found = list(permutations(range(models), 2))
    return [r for r, _ in found], [m for _, m in found]


def directions(called: int, model: int, models: int) -> Floats:
    """What the estimate of `model` may use once the set `called` has answered: [columns, directions].

    For a model that answered: its log-odds, and of each other one its log-odds, whether both agree, its log-odds where
    they agree, and the sum over others of their log-odds for or against (one weight for the whole vote). For a model
    to come: the log-odds of those that answered and which of them agree. No directions where none has answered.
    """
    at = {pair: 2 + models + i for i, pair in enumerate(zip(*pairs(models), strict=True))}
    scaled = {pair: 2 + models + len(at) + i for i, pair in enumerate(zip(*ordered_pairs(models), strict=True))}
    there = members(called, models)
    if not there:
        return np.zeros((columns_of(models), 0))
    found = [_unit(PRIOR, models), *(_unit(2 + r, models) for r in there)]
    if not called >> model & 1:
        return np.stack([*found, *(_unit(at[r, s], models) for r, s in combinations(there, 2))], axis=1)
    vote = np.zeros(columns_of(models))
    for r in there:
        if r != model:
            found += [_unit(at[min(r, model), max(r, model)], models), _unit(scaled[r, model], models)]
            vote[2 + r] -= 1.0
            vote[scaled[r, model]] += 2.0
    return np.stack([*found, vote] if vote.any() else found, axis=1)


def _unit(column: int, models: int) -> Floats:
    found = np.zeros(columns_of(models))
    found[column] = 1.0
    return found


_ALONE = 2.0
"""Penalty of the estimates after one answer: few columns, the strongest evidence."""
_FURTHER = 12.0
"""Penalty of what each further answer adds."""
_COST_PENALTY = 1.0
_LEAST_COST = 0.2
"""An estimated cost is at least so much of the model's mean: a line may fall below 0 for short prompts."""


@dataclass(frozen=True, slots=True)
class CascadeEstimates:
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

    def evidence(self, seen: Observations) -> Floats:
        """Rows [n, columns]; entries of models that were not called are ignored by the estimates of `called`."""
        z = np.stack([curve(seen.confidence[:, m]) for m, curve in enumerate(self.curves)], axis=1)
        return evidence(z, seen.agree, self.prompts.prior(seen.vectors, len(z)))

    def qualities(self, called: int, rows: Floats) -> Floats:
        """Estimated quality [n, K] of every model once the set `called` has answered, from rows of evidence."""
        return sigmoid(rows @ self.quality[called].T)

    def costs(self, called: int, seen: Observations) -> Floats:
        """Estimated cost [n, K] in US dollars of calling each model; of those called, what they have cost."""
        there = [bool(called >> m & 1) for m in range(self.models)]
        spent = np.where(there, seen.cost_usd, 0.0)
        rows = np.column_stack([np.ones(len(spent)), seen.characters, spent])
        found = np.maximum(rows @ self.cost[called].T, _LEAST_COST * self.mean_cost)
        return np.where(there, seen.cost_usd, found)


def fit_estimates(seen: Observations, ok: Floats, difficulty: Floats) -> CascadeEstimates:
    """From n queries that every one of K models has answered, qualities `ok` [n, K] in [0, 1].

    `difficulty` [n]: what the prior of a prompt predicts, the mean quality over as many models as there are.
    """
    models = ok.shape[1]
    curves = tuple(fit_curve(seen.confidence[:, m], ok[:, m]) for m in range(models))
    prompts, left_out = fit_prompt_head(seen.vectors, difficulty)
    z = np.stack([curve(seen.confidence[:, m]) for m, curve in enumerate(curves)], axis=1)
    rows = evidence(z, seen.agree, left_out)
    return CascadeEstimates(curves, prompts, _fit_quality(rows, ok), _fit_cost(seen), seen.cost_usd.mean(0))


def _fit_quality(rows: Floats, ok: Floats) -> Floats:
    models = ok.shape[1]
    found = np.zeros((2**models, models, columns_of(models)))
    found[:, :, PRIOR] = _shared_slope(rows[:, PRIOR], ok)
    for called in by_size(models):
        for m in range(models):
            found[called, m] = _fit_one(rows, ok[:, m], found, called, m)
    return found


def _fit_one(rows: Floats, ok: Floats, found: Floats, called: int, model: int) -> Floats:
    """Weights of evidence for one model and set, on top of the mean of the smaller sets' weights."""
    turn = directions(called, model, found.shape[1])
    base = found[called, model]
    further = called.bit_count() > 1
    if further:
        base = np.mean([found[parent, model] for parent in parents(called, kept=model)], axis=0)
    penalties = (_FURTHER, 1.0) if further else (_ALONE, 1e-3)
    fitted = fit_ridge_logistic(rows @ turn, ok, penalties[0], rows @ base, bias_penalty=penalties[1])
    weights: Floats = base + turn @ fitted.weights
    weights[0] += fitted.bias
    return weights


def _shared_slope(prior: Floats, ok: Floats) -> float:
    """Log-odds for a unit of the prior, whichever the model; each has its own level.

    Before any answer decisions depend on differences between models, which separate slopes would blur. After one the
    slope is fitted again: otherwise the evidence of a hard prompt would count twice.
    """
    n, models = ok.shape
    rows = np.column_stack([np.repeat(np.eye(models), n, axis=0), np.tile(prior, models)])
    return float(fit_ridge_logistic(rows, ok.T.ravel(), _ALONE).weights[-1])


def _fit_cost(seen: Observations) -> Floats:
    """Ridge regressions on standardised columns."""
    models = seen.cost_usd.shape[1]
    found = np.zeros((2**models, models, 2 + models))
    for called in range(2**models):
        columns = [1, *(2 + r for r in members(called, models))]
        rows = np.column_stack([np.ones(len(seen.cost_usd)), seen.characters, seen.cost_usd])[:, columns]
        mean, scale = rows.mean(0), np.maximum(rows.std(0), 1e-12)
        x = (rows - mean) / scale
        y = seen.cost_usd - seen.cost_usd.mean(0)
        slopes = np.linalg.solve(x.T @ x + _COST_PENALTY * np.eye(len(columns)), x.T @ y) / scale[:, None]
        found[called][:, columns] = slopes.T
        found[called][:, 0] = seen.cost_usd.mean(0) - mean @ slopes
    return found
