"""What answers say of each model's quality, as one vector: log-odds of each, which agree, and the prompt's prior.

Columns, for K models: 1; the prior; the log-odds z_r of each answer; agreement A_rs of each pair r < s; and z_r · A_rm
for each ordered pair r, m. Those of models that were not asked are 0. Estimates are linear in it, in log-odds.
"""

from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.sets import members

Floats = NDArray[np.float64]
PRIOR = 1
"""Column of the prompt's prior."""


def evidence(log_odds: Floats, agree: Floats, prior: Floats) -> Floats:
    """Rows [n, columns] from log-odds [n, K], agreement [n, K, K] in {0, 1}, and the prompt's prior [n]."""
    models = log_odds.shape[1]
    first, second = pairs(models)
    one, other = ordered_pairs(models)
    return np.concatenate(
        [
            np.ones((len(log_odds), 1)),
            prior[:, None],
            log_odds,
            agree[:, first, second],
            log_odds[:, one] * agree[:, one, other],
        ],
        axis=1,
    )


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


def directions(asked: int, model: int, models: int) -> Floats:
    """What the estimate of `model` may lean on once the set `asked` has answered: [columns, directions].

    For a model that answered: its log-odds, and of each other one its log-odds, whether both agree, its log-odds where
    they agree, and the sum over others of their log-odds for or against (one weight for the whole vote). For a model
    to come: the log-odds of those that answered and which of them agree. No directions where none has answered.
    """
    at = {pair: 2 + models + i for i, pair in enumerate(zip(*pairs(models), strict=True))}
    scaled = {pair: 2 + models + len(at) + i for i, pair in enumerate(zip(*ordered_pairs(models), strict=True))}
    there = members(asked, models)
    if not there:
        return np.zeros((columns_of(models), 0))
    found = [_unit(PRIOR, models), *(_unit(2 + r, models) for r in there)]
    if not asked >> model & 1:
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
