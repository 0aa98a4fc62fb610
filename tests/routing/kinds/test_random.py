""""""

import numpy as np

from serve_app.routing.kinds.random import RandomRouter
from tests.routing.fakes import query

QUERIES = [query(f"query number {i}") for i in range(4000)]


def test_scores_are_uniform_so_that_the_share_is_one_minus_the_threshold() -> None:
    scores = RandomRouter(0).score(QUERIES)
    for threshold in (0.1, 0.5, 0.9):
        assert abs(float(np.mean(scores >= threshold)) - (1 - threshold)) < 0.03
    assert ((scores >= 0) & (scores < 1)).all() and len(set(scores.tolist())) == len(scores)


def test_seeds_are_independent_and_texts_decide() -> None:
    one, two = RandomRouter(1).score(QUERIES), RandomRouter(2).score(QUERIES)
    assert abs(float(np.corrcoef(one, two)[0, 1])) < 0.06
    assert RandomRouter(1).score([query("query number 0")])[0] == one[0]
