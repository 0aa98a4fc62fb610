""""""

from collections import Counter

import pytest

from serve_app.data.collection.lab import Half, half_of, unseen_queries
from serve_app.lab.sample import split_of
from serve_app.lab.tasks import CELLS

N = 2 * len(CELLS)


@pytest.mark.parametrize("half", ["learn", "measure"])
def test_queries_are_unseen_of_the_half_balanced_and_the_same_again(half: Half) -> None:
    items = unseen_queries(N, 3, half)
    assert len(items) == N and items == unseen_queries(N, 3, half) != unseen_queries(N, 4, half)
    assert all(split_of(i.prompt) == "unseen" and half_of(i.prompt) == half for i in items)
    counts = Counter((i.task, i.size) for i in items)
    assert len(counts) > 0.9 * len(CELLS) and max(counts.values()) <= 3


def test_halves_share_no_query_and_spelling_does_not_change_the_half() -> None:
    one = {i.prompt for i in unseen_queries(200, 0, "learn")}
    assert not one & {i.prompt for i in unseen_queries(200, 0, "measure")}
    assert half_of("What is  12 + 30?") == half_of("what is 12 + 30")


def test_queries_that_a_router_learned_from_are_left_out() -> None:
    known = frozenset(item.prompt for item in unseen_queries(300, 0, "learn"))
    left = unseen_queries(300, 0, "learn", known)
    assert len(left) > 200 and not known & {item.prompt for item in left}
