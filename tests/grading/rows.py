"""Datasets of given answers, for the tests of metrics."""

from collections.abc import Mapping, Sequence

import numpy as np

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.types import Message, Query


def answered(model: str, texts: Sequence[Sequence[str]]) -> PoolAnswers:
    """Answers that are not scored yet."""
    shape = (len(texts), len(texts[0]))
    rows = tuple(tuple(row) for row in texts)
    return PoolAnswers(model, rows, np.full(shape, np.nan), np.zeros(shape), np.ones(shape), np.ones(shape))


def dataset(
    pools: Mapping[str, Sequence[Sequence[str]]],
    references: Sequence[str | None] = (),
    groups: Sequence[str] = (),
    prompts: Sequence[str] = (),
) -> Dataset:
    """Rows r0, r1, ... with the answers of each pool, [n][k]."""
    n = len(next(iter(pools.values())))
    prompts = prompts or [f"question {i}" for i in range(n)]
    return Dataset(
        queries=tuple(Query((Message("user", prompt),)) for prompt in prompts),
        pools={name: answered(f"m-{name}", texts) for name, texts in pools.items()},
        groups=tuple(groups or ("",) * n),
        about={"source": "test"},
        ids=tuple(f"r{i}" for i in range(n)),
        references=tuple(references),
    )
