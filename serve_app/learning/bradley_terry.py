"""Bradley-Terry strengths from weighted wins (Bradley & Terry 1952): P(a beats b) = sigmoid(theta_a - theta_b).

The same as a logistic regression without penalty on +1 for one model and -1 for the other, a tie being half a win for
either, but from a table of wins instead of a row for each battle: the table is all that the likelihood depends on.
"""

from math import log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ELO = 400 / log(10)
"""Elo points per unit of log-odds: at 400 points apart the odds are ten to one."""
_ROUNDS = 100
_CLOSE = 1e-9
"""Newton ends where no strength moves by more than this."""
_SMALLEST_STEP = 1e-9


def strengths(wins: Floats, start: Floats | None = None) -> Floats:
    """Maximum-likelihood theta, shape [k], mean zero; `wins[a, b]` is the weight of a's wins over b, shape [k, k].

    Two have a closed form, more take a few Newton steps from `start`. Raises ValueError where the likelihood has no
    maximum, see `has_maximum`.
    """
    if not has_maximum(wins):
        raise ValueError("the wins have no maximum-likelihood strengths: some never lose to the others")
    if len(wins) == 2:
        half = log(wins[0, 1] / wins[1, 0]) / 2
        return np.array([half, -half])
    return _newton(wins, np.zeros(len(wins)) if start is None else start)


def has_maximum(wins: Floats) -> bool:
    """Whether strengths are finite and unique: everyone is linked to everyone by a chain of wins (Ford 1957)."""
    reached = (wins > 0) | np.eye(len(wins), dtype=bool)
    for _ in range(max(1, len(wins)).bit_length()):
        reached = (reached.astype(np.int64) @ reached) > 0
    return bool(reached.all())


def linked(wins: Floats, member: int) -> NDArray[np.bool_]:
    """Who is linked to `member` by a chain of battles, won or lost, shape [k]."""
    met = (wins > 0) | (wins.T > 0)
    found = np.zeros(len(wins), dtype=bool)
    found[member] = True
    for _ in range(len(wins)):
        found |= met[found].any(0)
    return found


def curvature(wins: Floats, theta: Floats) -> Floats:
    """Minus the Hessian of the log-likelihood, shape [k, k]; its null space is the common level of all strengths."""
    chance = _chance(theta)
    between = (wins + wins.T) * chance * (1 - chance)
    laplacian: Floats = np.diag(between.sum(1)) - between
    return laplacian


def _newton(wins: Floats, theta: Floats) -> Floats:
    games = wins + wins.T
    won = wins.sum(1)
    value, level = _likelihood(wins, theta), _likelihood(wins, np.zeros_like(theta))
    if value < level:  # a start that is worse than none
        theta, value = np.zeros_like(theta), level
    for _ in range(_ROUNDS):
        gradient = won - (games * _chance(theta)).sum(1)
        # the last one's strength is held while the others move: theta is known up to a constant
        step = np.append(np.linalg.solve(curvature(wins, theta)[:-1, :-1], gradient[:-1]), 0.0)
        size = 1.0
        while (after := _likelihood(wins, theta + size * step)) < value and size > _SMALLEST_STEP:
            size /= 2
        theta, value = theta + size * step, after
        if np.abs(size * step).max() < _CLOSE:
            break
    centred: Floats = theta - theta.mean()
    return centred


def _chance(theta: Floats) -> Floats:
    chance: Floats = 0.5 * (1 + np.tanh((theta[:, None] - theta[None, :]) / 2))
    return chance


def _likelihood(wins: Floats, theta: Floats) -> float:
    return float(-(wins * np.logaddexp(0, theta[None, :] - theta[:, None])).sum())
