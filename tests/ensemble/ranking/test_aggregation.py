"""Aggregation against cases computed by hand and against the published formulas; early stop never changes a winner."""

from itertools import permutations

import numpy as np
import pytest

from serve_app.arrays import Floats
from serve_app.ensemble.ranking.aggregation import best_of, bubble, max_logits, max_wins, order, ranks

HAND = np.array([[0.0, 2.0, -1.0], [-1.0, 0.0, 0.5], [3.0, -0.5, 0.0]])
"""Three candidates: rows are read on the left, columns on the right."""


class Matrix:
    """Compares by a matrix and counts the pairs."""

    def __init__(self, matrix: Floats) -> None:
        self.matrix, self.pairs = matrix, 0

    def __call__(self, pairs: list[tuple[int, int]]) -> tuple[Floats, Floats]:
        self.pairs += len(pairs)
        left, right = [i for i, _ in pairs], [j for _, j in pairs]
        return self.matrix[left, right], self.matrix[right, left]


def random_matrix(n: int, rng: np.random.Generator, spread: float = 1.0) -> Floats:
    matrix = rng.normal(size=(n, n)) + spread * np.subtract.outer(*[rng.normal(size=n)] * 2)
    np.fill_diagonal(matrix, 0)
    return matrix


def test_max_logits_by_hand() -> None:
    # s_0 = (2 - -1) + (-1 - 3) = -1; s_1 = (-1 - 2) + (0.5 - -0.5) = -2; s_2 = (3 - -1) + (-0.5 - 0.5) = 3
    assert max_logits(HAND).tolist() == [-1.0, -2.0, 3.0]
    assert ranks(max_logits(HAND)).tolist() == [2, 3, 1] and order(max_logits(HAND)) == [2, 0, 1]


def test_max_wins_by_hand() -> None:
    # 0 wins left against 1, and right against 1 (-1 < 0); 1 wins left against 2 and right against 2; 2 wins both from 0
    assert max_wins(HAND).tolist() == [2.0, 2.0, 2.0]
    assert ranks(max_wins(HAND)).tolist() == [1, 1, 1] and order(max_wins(HAND)) == [0, 1, 2]


def test_both_equal_the_published_formulas_on_random_matrices() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 11):
        matrix = random_matrix(n, rng)
        logits = (matrix - matrix.T).sum(axis=-1)
        wins = (matrix > 0).sum(axis=-1) + (matrix < 0).sum(axis=-2)
        np.testing.assert_allclose(max_logits(matrix), logits)
        np.testing.assert_array_equal(max_wins(matrix), wins)
        descending = sorted(logits.tolist(), reverse=True)
        assert ranks(logits).tolist() == [descending.index(score) + 1 for score in logits.tolist()]


def test_the_diagonal_counts_for_nothing() -> None:
    matrix = HAND + np.diag([5.0, -5.0, 1.0])
    np.testing.assert_allclose(max_logits(matrix), max_logits(HAND))
    np.testing.assert_array_equal(max_wins(matrix), max_wins(HAND))


def test_bubble_makes_one_pass_and_finds_a_condorcet_winner_and_loser() -> None:
    scores = np.array([0.3, 2.0, -1.0, 0.9])
    matrix = np.subtract.outer(scores, scores)
    for seed in range(10):
        compare = Matrix(matrix)
        assert bubble(4, compare, np.random.default_rng(seed)) == 1
        assert compare.pairs == 3
        assert bubble(4, Matrix(matrix), np.random.default_rng(seed), worst=True) == 2
    assert bubble(1, Matrix(np.zeros((1, 1))), np.random.default_rng(0)) == 0


def test_bubble_follows_the_permutation_and_gives_ties_to_the_later_one() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        last = int(np.random.default_rng(seed).permutation(3)[-1])
        assert bubble(3, Matrix(np.zeros((3, 3))), rng) == last
    first, second, third = np.random.default_rng(3).permutation(3).tolist()
    matrix = np.zeros((3, 3))
    matrix[first, second], matrix[second, first] = 1.0, 0.5  # 1.0 - 0.5 > 0: the first stays
    matrix[first, third], matrix[third, first] = -0.2, 0.1  # below 0: the third wins
    assert bubble(3, Matrix(matrix), np.random.default_rng(3)) == third


@pytest.mark.parametrize("policy", ["max_logits", "max_wins"])
def test_early_stop_finds_the_winner_of_the_whole_matrix(policy: str) -> None:
    rng, saved = np.random.default_rng(1), 0
    score = max_logits if policy == "max_logits" else max_wins
    for _ in range(300):
        n = int(rng.integers(1, 9))
        matrix = np.clip(random_matrix(n, rng, spread=3.0), -2, 2)
        compare = Matrix(matrix)
        best, pairs = best_of(n, compare, policy, bound=2.0, width=2)  # type: ignore[arg-type]
        assert best == order(score(matrix))[0]
        assert pairs == compare.pairs <= n * (n - 1) // 2
        saved += n * (n - 1) // 2 - pairs
    assert saved > 200


def test_early_stop_with_ties_and_without_a_bound() -> None:
    for matrix in (np.zeros((4, 4)), HAND):
        for policy, score in (("max_logits", max_logits), ("max_wins", max_wins)):
            best, pairs = best_of(len(matrix), Matrix(matrix), policy)  # type: ignore[arg-type]
            assert best == order(score(matrix))[0]
            if policy == "max_logits":
                assert pairs == len(matrix) * (len(matrix) - 1) // 2


def test_early_stop_spares_the_pairs_of_losers() -> None:
    scores = np.array([4.0, 0.1, -0.1, 0.0, 0.2, -0.2])
    matrix = np.clip(np.subtract.outer(scores, scores), -1, 1)
    best, pairs = best_of(6, Matrix(matrix), "max_logits", bound=1.0, width=3)
    assert best == 0 and pairs < 15


def test_a_permutation_of_candidates_permutes_the_scores() -> None:
    for permutation in permutations(range(3)):
        at = np.array(permutation)
        np.testing.assert_allclose(max_logits(HAND[np.ix_(at, at)]), max_logits(HAND)[at])
