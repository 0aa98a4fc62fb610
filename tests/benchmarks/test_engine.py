"""The engine benchmark's counting, on the fake engine."""

import math

from benchmarks.engine.__main__ import speedup
from benchmarks.engine.runs import CASES, MAX_TOKENS, Rate, queries


def rate(concurrency: int, tokens: float) -> Rate:
    return Rate(concurrency, tokens, 1.0, 1.0, 1.0)


def test_speedup_is_32_over_1() -> None:
    assert speedup([rate(1, 100.0), rate(8, 400.0), rate(32, 800.0)]) == 8.0
    assert math.isnan(speedup([rate(1, 100.0)]))


def test_long_texts_are_sampled_with_seeds_of_their_own_and_lab_queries_greedy() -> None:
    long = queries(CASES[0], ["a", "b"])
    assert long(0).sampling.seed != long(2).sampling.seed
    assert long(2).text == "a"
    assert long(0).sampling.max_tokens == MAX_TOKENS
    assert queries(CASES[1], ["a"])(0).sampling.temperature == 0
