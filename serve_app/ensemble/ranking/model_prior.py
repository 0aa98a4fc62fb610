"""What is known of candidates by the models that wrote them, added to what a ranker reads off their texts.

A departure from LLM-Blender (Jiang et al. 2023), whose ranker does not know who wrote a candidate, as an ensemble does.
The chance that candidate i is better than j is sigmoid(scale * m_ij + t_i - t_j), with the ranker's logit m_ij and the
strengths t of the models that wrote the two. Strengths are first fitted alone (Bradley & Terry 1952), on the examples
that the ranker learned from. Then the weights of both, m and t, are fitted by logistic regression on the examples held
back: on those that it learned from the ranker is too sure of itself. Where a model is not known, the ranker's own
scores hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.mixinstruct import ScoredCandidates
from serve_app.learning.logistic import fit_ridge_logistic
from serve_app.routing.kinds.similarity_weighted.battles import strengths

FEWEST = 20
"""Examples held back without which no prior is fitted."""
MOST = 1000
"""Examples held back that are ranked for it."""
_DRAWN = 0.5
"""Wins that every two models start with against each other, so that one that never lost has a finite strength."""
_PENALTY = 1.0


@dataclass(frozen=True, slots=True)
class ModelPrior:
    """`scale` of the ranker's logits, and `strengths` in logits by the name of the model."""

    scale: float
    strengths: Mapping[str, float]

    def knows(self, models: Sequence[str]) -> bool:
        """Whether the writers of all candidates are known; () is none."""
        return bool(models) and set(models) <= self.strengths.keys()

    def added(self, values: Floats, models: Sequence[str]) -> Floats:
        """Values of candidates in logits, [n], with the strengths of the models that wrote them."""
        found: Floats = self.scale * values + np.array([self.strengths[model] for model in models])
        return found


def model_strengths(examples: Sequence[ScoredCandidates]) -> dict[str, float]:
    """Bradley-Terry strengths by model, mean zero, over all pairs of different models; ties count for neither.

    {} unless every example says who wrote its candidates, and there are two models at least.
    """
    names = sorted({model for example in examples for model in example.models})
    if len(names) < 2 or not all(example.models for example in examples):
        return {}
    at, wins = {name: k for k, name in enumerate(names)}, _DRAWN * (1 - np.eye(len(names)))
    for example in examples:
        means, own = example.scores.mean(axis=1), np.array([at[model] for model in example.models])
        better = (means[:, None] > means[None, :]) & (own[:, None] != own[None, :])
        left, right = np.nonzero(better)
        np.add.at(wins, (own[left], own[right]), 1.0)
    return dict(zip(names, strengths(wins).tolist(), strict=True))


def fit_prior(
    by_model: Mapping[str, float], examples: Sequence[ScoredCandidates], values: Sequence[Floats]
) -> ModelPrior | None:
    """The prior from strengths alone and a ranker's values (logits, one array an example) of examples held back.

    None where there are too few of them, or where who wrote a candidate says nothing beyond the ranker.
    """
    known = [(e, own) for e, own in zip(examples, values, strict=True) if e.models and set(e.models) <= by_model.keys()]
    if len(known) < FEWEST:
        return None
    rows, outcomes = list[tuple[float, float]](), list[float]()
    for example, own in known:
        means = example.scores.mean(axis=1)
        alone = [by_model[model] for model in example.models]
        for i, j in combinations(range(len(own)), 2):
            if means[i] != means[j]:
                rows.append((float(own[i] - own[j]), alone[i] - alone[j]))
                outcomes.append(float(means[i] > means[j]))
    pairs, won = np.array(rows).reshape(-1, 2), np.array(outcomes)
    both_orders = np.concatenate([pairs, -pairs]), np.concatenate([won, 1 - won])  # so that there is no bias
    scale, weight = fit_ridge_logistic(*both_orders, penalty=_PENALTY).weights.tolist()
    if weight <= 0:
        return None
    if scale < 0:  # the ranker is worse than chance: the models alone
        scale, weight = 0.0, float(fit_ridge_logistic(both_orders[0][:, 1:], both_orders[1], _PENALTY).weights[0])
    return ModelPrior(scale, {model: weight * strength for model, strength in by_model.items()})
