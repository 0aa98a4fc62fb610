"""Small made-up worlds: answers whose confidence tells something, and tables of estimates given by hand."""

import numpy as np

from serve_app.cascade.routing.walk import Tables
from serve_app.data.answers import AnswerEvidence
from serve_app.data.recorded import Recorded
from serve_app.types import Message, Query

MODELS = ("weak", "middle", "strong")
COSTS = (1e-5, 1e-4, 1e-3)
WORDS = ("red", "green", "blue", "teal")


def made_up(n: int = 400, seed: int = 0, models: tuple[str, ...] = MODELS) -> Recorded:
    """Answers out of four words: each model is right more often the stronger it is, and knows it a little."""
    rng = np.random.default_rng(seed)
    k = len(models)
    hard = rng.standard_normal(n)
    skill = np.linspace(0.0, 2.5, k)
    odds = skill - hard[:, None]
    ok = (rng.random((n, k)) < 1 / (1 + np.exp(-odds))).astype(float)
    confidence = -np.log1p(np.exp(-(1.5 * odds + 2.0 * (ok - 0.5) + rng.standard_normal((n, k)))))
    length = rng.integers(20, 200, n)
    cost = np.array([COSTS[MODELS.index(m)] for m in models]) * (length[:, None] / 100)
    right = rng.integers(0, 4, n)
    wrong = (right[:, None] + rng.integers(1, 4, (n, k))) % 4
    said = np.where(ok == 1, right[:, None], wrong)
    prompts = tuple(f"{i:05d}".ljust(int(size), "x") for i, size in enumerate(length))
    judged = tuple(
        tuple(AnswerEvidence(Query((Message("user", prompt),)), WORDS[word]) for word in row)
        for prompt, row in zip(prompts, said, strict=True)
    )
    zero = np.zeros((n, k))
    splits = tuple("train" if i % 2 == 0 else "test" for i in range(n))
    return Recorded(models, prompts, splits, ok, cost, zero, confidence, zero, zero, zero, judged)


def fixed(quality, cost, move=None) -> Tables:
    """Tables whose estimates never change: quality and cost [n, K], true as they stand."""
    quality, cost = np.asarray(quality, dtype=float), np.asarray(cost, dtype=float)
    sets, k = 2 ** quality.shape[1], quality.shape[1]
    moves = np.zeros((sets, k, k)) if move is None else move
    return Tables(np.stack([quality] * sets), np.stack([cost] * sets), moves, quality, cost)
