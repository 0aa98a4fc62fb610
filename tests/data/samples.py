"""A small world whose weak model adds one digit only: a stand-in for collected answers."""

from random import Random

import numpy as np

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.types import Message, Query


def answers(model: str, quality: list[float], samples: int = 1) -> PoolAnswers:
    """Answers of equal quality in every sample; ten tokens in, two out."""
    n = len(quality)
    shape = (n, samples)
    return PoolAnswers(
        model,
        tuple(("a",) * samples for _ in range(n)),
        np.repeat(np.array(quality, dtype=float).reshape(n, 1), samples, axis=1),
        np.full(shape, 1e-6),
        np.full(shape, 10.0),
        np.full(shape, 2.0),
    )


def sums(n: int, seed: int, flipped: bool = False) -> Dataset:
    """Sums of one-digit numbers (weak answers them) and of three-digit ones (it does not); `flipped` swaps that."""
    rng = Random(seed)
    texts, weak = [], []
    for _ in range(n):
        hard = rng.random() < 0.5
        a, b = (rng.randrange(100, 1000) if hard else rng.randrange(10) for _ in range(2))
        texts.append(rng.choice(("what is {} + {}?", "add {} and {}", "{}+{}")).format(a, b))
        weak.append(float(hard == flipped))
    pools = {"small": answers("m-small", weak), "large": answers("m-large", [1.0] * n)}
    return Dataset(tuple(Query((Message("user", t),)) for t in texts), pools, ("sums",) * n, {"seed": seed})
