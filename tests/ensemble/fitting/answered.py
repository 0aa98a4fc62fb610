"""Data sets of answers by members of known accuracy."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.types import Message, Query


def answered(
    right: Mapping[str, NDArray[np.bool_]],
    cost_usd: Mapping[str, float],
    wrong: Mapping[str, NDArray[np.int64]] | None = None,
    groups: Sequence[str] = (),
) -> Dataset:
    """Query i has the answer i; `right` [n, k] by member; a wrong answer of row i is `-1 - wrong[i]`, or its own."""
    n = len(next(iter(right.values())))
    queries = tuple(Query((Message("user", f"question number {i}, please"),)) for i in range(n))
    pools = {}
    for number, (name, good) in enumerate(right.items()):
        k = good.shape[1]
        said = [
            [
                str(i) if good[i, j] else str(-1 - (wrong[name][i] if wrong else 1000 * number + 10 * i + j))
                for j in range(k)
            ]
            for i in range(n)
        ]
        ones = np.ones((n, k))
        pools[name] = PoolAnswers(
            f"model-{name}",
            tuple(map(tuple, said)),
            good.astype(np.float64),
            cost_usd[name] * ones,
            10 * ones,
            5 * ones,
        )
    return Dataset(queries, pools, tuple(groups) or ("",) * n)


def drawn(n: int, accuracy: Mapping[str, float], seed: int = 0, k: int = 1) -> dict[str, NDArray[np.bool_]]:
    """Independent outcomes [n, k] by member."""
    rng = np.random.default_rng(seed)
    return {name: rng.random((n, k)) < p for name, p in accuracy.items()}
