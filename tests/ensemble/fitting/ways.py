"""Answers, rankers and fusers of known skill, for fits that choose how the answer is picked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.data.dataset import LOGPROB, Dataset, PoolAnswers
from serve_app.ensemble.base import Comparison, Fused
from serve_app.types import Message, Query

Right = Mapping[str, NDArray[np.bool_]]


def asked(number: int) -> str:
    return f"question {number:04d}"


def right_text(source: str) -> str:
    """The right answer to a question: four characters, as all answers have."""
    return source[-4:]


def four_characters(right: Right, cost_usd: Mapping[str, float]) -> Dataset:
    """`right` [n, k] by member. Every answer has four characters, so that a fake engine counts four tokens of it; each
    wrong one differs from all others. References and metric are there, for fusers."""
    n = len(next(iter(right.values())))
    queries = tuple(Query((Message("user", asked(i)),)) for i in range(n))
    pools = {}
    for number, (name, good) in enumerate(right.items()):
        wrong = "pqrstuvw"[number]
        said = [
            [
                right_text(asked(i)) if good[i, j] else f"{wrong}{'abcdefgh'[j]}{i % 100:02d}"
                for j in range(good.shape[1])
            ]
            for i in range(n)
        ]
        ones = np.ones(good.shape)
        quality, cost = good.astype(np.float64), cost_usd[name] * ones
        pools[name] = PoolAnswers(f"m-{name}", tuple(map(tuple, said)), quality, cost, 14 * ones, 4 * ones)
    references = tuple(right_text(q.text) for q in queries)
    return Dataset(queries, pools, ("",) * n, {"metric": "exact"}, references=references)


def with_logprobs(data: Dataset, informed: float, seed: int = 0) -> Dataset:
    """Mean log-probabilities of -0.1 for right answers and -1 for wrong ones in `informed` of the answers, else the
    other way round."""
    rng = np.random.default_rng(seed)
    pools = {}
    for name, pool in data.pools.items():
        told = (pool.quality > 0.5) == (rng.random(pool.quality.shape) < informed)
        values = np.where(told, -0.1, -1.0) - 0.01 * rng.random(pool.quality.shape)
        pools[name] = replace(pool, scores={LOGPROB: values})
    return replace(data, pools=pools)


class Knowing:
    """A ranker that knows the right answer to a part of the questions, and prefers any other text elsewhere."""

    def __init__(self, part: float, bonus: float = 0.0) -> None:
        self.part, self.bonus, self.batches, self.pairs = part, bonus, 0, 0

    version = "pairranker-knowing"

    def value(self, source: str, text: str) -> float:
        knows = crc32(source.encode()) % 1000 < 1000 * self.part
        return (1.0 if (text == right_text(source)) == knows else -1.0) + (crc32(text.encode()) % 97) / 1000

    def compare(self, comparisons: Sequence[Comparison]) -> Floats:
        self.batches, self.pairs = self.batches + 1, self.pairs + len(comparisons)
        return np.array([self.value(c.source, c.left) - self.value(c.source, c.right) for c in comparisons])

    def informed(self, scores: Floats, models: Sequence[str]) -> Floats:
        """It knows a bonus for every model by its name."""
        assert len(models) == len(scores)
        return scores + np.array([self.bonus * (crc32(model.encode()) % 7) for model in models])

    def scores(self, source: str, candidates: Sequence[str]) -> Floats:
        return self.scores_of([(source, candidates)])[0]

    def scores_of(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[Floats]:
        return [
            np.array([2 * sum(self.value(s, t) - self.value(s, other) for other in own) for t in own])
            for s, own in requests
        ]


class Finding:
    """A fuser that writes the right answer to a part of the questions wherever a candidate has it, else nonsense."""

    def __init__(self, part: float) -> None:
        self.part, self.calls = part, 0

    version = "genfuser-finding"

    def fuse(self, sources: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[Fused]:
        self.calls += 1
        found = []
        for source, own in zip(sources, candidates, strict=True):
            knows = crc32(source.encode()) % 1000 < 1000 * self.part and right_text(source) in own
            found.append(Fused(right_text(source) if knows else "none", tuple(range(len(own)))))
        return found


class RandomPick:
    """A fuser of no skill: it repeats one of the candidates."""

    version = "genfuser-random"

    def fuse(self, sources: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[Fused]:
        at = [crc32(f"{s}{own}".encode()) % len(own) for s, own in zip(sources, candidates, strict=True)]
        return [Fused(own[i], (i,)) for i, own in zip(at, candidates, strict=True)]
