"""Best of n: what the best of n sampled answers is worth, exactly, from k recorded ones."""

from math import comb

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def best_of(quality: Floats, n: int) -> Floats:
    """Expected quality of the best of n answers drawn without return from the k recorded, [queries]; quality [.., k].

    A ranker that always finds the best is assumed, so this is the most that best of n can give. The i-th smallest of
    k is the greatest of n in C(i - 1, n - 1) of C(k, n) draws. Raises ValueError unless 1 <= n <= k.
    """
    k = quality.shape[1]
    _check(n, k)
    chances = np.array([comb(i, n - 1) for i in range(k)]) / comb(k, n)
    expected: Floats = np.sort(quality, axis=1) @ chances
    return expected


def match_rate(quality: Floats, reference: Floats, n: int, margin: float = 0.0) -> Floats:
    """P(the best of n is at most `margin` worse than one answer of the reference), [queries].

    `quality` [queries, k], `reference` [queries, r]; over all draws of n and all answers of the reference. These are
    BEST-Route's labels (Ding et al. 2025), as probabilities. Raises ValueError unless 1 <= n <= k.
    """
    k = quality.shape[1]
    _check(n, k)
    worse = (quality[:, :, None] < reference[:, None, :] - margin).sum(1)
    all_worse = np.array([comb(i, n) for i in range(k + 1)]) / comb(k, n)
    rate: Floats = 1.0 - all_worse[worse].mean(1)
    return rate


def _check(n: int, k: int) -> None:
    if not 1 <= n <= k:
        raise ValueError(f"the best of {n} of {k} answers: n must be between 1 and their number")
