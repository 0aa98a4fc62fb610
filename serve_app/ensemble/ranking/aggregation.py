"""From pairwise logits to scores, ranks and the best candidate, as LLM-Blender defines it (Jiang et al. 2023, 2.2).

`matrix[i, j]` is the logit that candidate i, read on the left, is better than candidate j, read on the right; its
diagonal counts for nothing. Ties go to the candidate with the lower index everywhere.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats

Policy = Literal["max_logits", "max_wins"]
Pairs = Sequence[tuple[int, int]]
BothOrders = Callable[[Pairs], tuple[Floats, Floats]]
"""Logits of pairs (i, j): with i on the left, and with j on the left. Each of shape [len(pairs)]."""


def max_logits(matrix: Floats) -> Floats:
    """s_i = sum over j of matrix[i, j] - matrix[j, i]; shape [n]."""
    scores: Floats = (matrix - matrix.T).sum(axis=1)
    return scores


def max_wins(matrix: Floats) -> Floats:
    """How often each candidate won, on the left (logit > 0) or on the right (logit < 0); shape [n]."""
    off = matrix * (1 - np.eye(len(matrix)))
    wins: Floats = ((off > 0).sum(axis=1) + (off < 0).sum(axis=0)).astype(np.float64)
    return wins


POLICIES: dict[Policy, Callable[[Floats], Floats]] = {"max_logits": max_logits, "max_wins": max_wins}


def ranks(scores: Floats) -> NDArray[np.int64]:
    """1 for the best; equal scores share the better rank. Shape [n]."""
    higher: NDArray[np.int64] = (scores[None, :] > scores[:, None]).sum(axis=1)
    return 1 + higher


def order(scores: Floats) -> list[int]:
    """Positions from the best to the worst."""
    return [int(i) for i in np.argsort(-scores, kind="stable")]


def bubble(n: int, compare: BothOrders, rng: np.random.Generator, worst: bool = False) -> int:
    """The winner of one pass over a random permutation: n - 1 comparisons of neighbors, each in both orders.

    Only the best is found, or the `worst`. A tie goes to the later one, as in LLM-Blender.
    """
    permutation = [int(i) for i in rng.permutation(n)]
    best = permutation[0]
    for challenger in permutation[1:]:
        forward, backward = compare([(best, challenger)])
        margin = float(forward[0] - backward[0])
        if (margin >= 0) if worst else (margin <= 0):
            best = challenger
    return best


def best_of(n: int, compare: BothOrders, policy: Policy, bound: float = np.inf, width: int = 8) -> tuple[int, int]:
    """The same winner as the policy has on the whole matrix, and the number of pairs compared, each in both orders.

    Pairs are compared `width` at a time; pairs of candidates of which neither can win are never compared, and the
    search ends once the leader cannot be overtaken. What is guaranteed: with `bound` at least the size of every logit,
    no comparison left out could change the winner. MaxWins needs no bound, since a pair decides two wins; MaxLogits
    without a finite bound compares every pair that has a candidate in it that can win, which is all of them.
    """
    scores, open_pairs = np.zeros(n), np.ones((n, n), dtype=np.bool_) & ~np.eye(n, dtype=np.bool_)
    swing = 2.0 if policy == "max_wins" else 2.0 * bound
    gains = 0.0 if policy == "max_wins" else -1.0  # of the loser of a pair: nothing, or what the winner gains
    compared = 0
    while True:
        left = open_pairs.sum(axis=1)
        highest = scores + np.where(left > 0, swing * np.maximum(left, 1), 0.0)
        lowest = scores + np.where(left > 0, gains * swing * np.maximum(left, 1), 0.0)
        alive = _can_win(lowest, highest)
        pending = [(i, j) for i in range(n) for j in range(i + 1, n) if open_pairs[i, j] and (alive[i] or alive[j])]
        if alive.sum() == 1 or not pending:
            best = int(np.flatnonzero(alive)[np.argmax(scores[alive])])
            return best, compared
        pending.sort(key=lambda pair: -max(scores[pair[0]], scores[pair[1]]))
        chosen = pending[:width]
        forward, backward = compare(chosen)
        for (i, j), there, back in zip(chosen, forward.tolist(), backward.tolist(), strict=True):
            _add(scores, (i, j), there, back, policy)
            open_pairs[i, j] = open_pairs[j, i] = False
        compared += len(chosen)


def _can_win(lowest: Floats, highest: Floats) -> NDArray[np.bool_]:
    """Whether no other candidate is surely above; of candidates that can only tie, the one with the lower index."""
    n = len(lowest)
    alive = np.ones(n, dtype=np.bool_)
    for i in range(n):
        for j in range(n):
            if i != j and (lowest[j] > highest[i] or (lowest[j] == highest[i] and j < i)):
                alive[i] = False
    return alive


def _add(scores: Floats, pair: tuple[int, int], there: float, back: float, policy: Policy) -> None:
    """What a comparison in both orders adds to the two scores."""
    i, j = pair
    if policy == "max_logits":
        scores[i] += there - back
        scores[j] += back - there
    else:
        scores[i] += (there > 0) + (back < 0)
        scores[j] += (there < 0) + (back > 0)
