"""Labels, losses and sampling against cases computed by hand and against the published formulas."""

from itertools import combinations
from math import exp, log

import numpy as np
import pytest
import torch
from torch.nn import functional

from serve_app.ensemble.ranking.labels import draw_pairs, pair_labels, pair_losses


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


LEFT, RIGHT = torch.tensor([[0.5, -1.0]]), torch.tensor([[-0.5, 2.0]])
LEFT_SCORES, RIGHT_SCORES = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 4.0]])


def test_labels_are_per_metric_and_a_tie_is_half() -> None:
    left = torch.tensor([[1.0, 0.2, 5.0]])
    right = torch.tensor([[0.5, 0.2, 7.0]])
    assert pair_labels(left, right).tolist() == [[1.0, 0.5, 0.0]]
    assert (pair_labels(left, right) + pair_labels(right, left)).eq(1).all()


def test_binary_cross_entropy_by_hand() -> None:
    # metric 1: left is better, labels 1 and 0; metric 2: right is better, labels 0 and 1; mean of sides and metrics
    first = -log(sigmoid(0.5)) - log(1 - sigmoid(-0.5))
    second = -log(1 - sigmoid(-1.0)) - log(sigmoid(2.0))
    found = pair_losses("bce", LEFT, RIGHT, LEFT_SCORES, RIGHT_SCORES)
    assert found.tolist() == pytest.approx([(first + second) / 4])


def test_a_tie_pulls_both_sides_to_one_half() -> None:
    left = torch.tensor([[1.0]], requires_grad=True)
    right = torch.tensor([[0.0]], requires_grad=True)
    loss = pair_losses("bce", left, right, torch.tensor([[2.0]]), torch.tensor([[2.0]])).sum()
    assert loss.item() == pytest.approx((-0.5 * log(sigmoid(1.0) * (1 - sigmoid(1.0))) - log(0.5)) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert left.grad is not None and right.grad is not None
    assert left.grad.item() > 0 and right.grad.item() == pytest.approx(0)


def test_bradley_terry_by_hand_and_a_tie_teaches_nothing() -> None:
    # margins in favor of the better: 0.5 - -0.5 = 1, and 2 - -1 = 3
    found = pair_losses("bradley_terry", LEFT, RIGHT, LEFT_SCORES, RIGHT_SCORES)
    assert found.tolist() == pytest.approx([(-log(sigmoid(1.0)) - log(sigmoid(3.0))) / 2])
    left = torch.tensor([[1.0]], requires_grad=True)
    tie = pair_losses("bradley_terry", left, torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    tie.sum().backward()  # type: ignore[no-untyped-call]
    assert tie.item() == pytest.approx(log(2)) and left.grad is not None and left.grad.item() == 0


def test_squared_error_by_hand() -> None:
    # metric 1: (0.5-3)^2 + (-0.5-1)^2 - 2*1*2 = 4.5; metric 2: (-1-1)^2 + (2-4)^2 - 2*(-3)*(-3) = -10
    found = pair_losses("mse", LEFT, RIGHT, LEFT_SCORES, RIGHT_SCORES)
    assert found.tolist() == pytest.approx([(4.5 - 10) / 2])


def test_losses_equal_the_published_formulas_on_random_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right, a, b = (torch.randn(32, 3, generator=generator) for _ in range(4))
    difference = a - b
    bce = functional.binary_cross_entropy_with_logits(left, (difference > 0).float())
    bce = (bce + functional.binary_cross_entropy_with_logits(right, (difference < 0).float())) / 2
    terry = -torch.log(torch.sigmoid(left * difference.sign() - right * difference.sign())).mean()
    mse = functional.mse_loss(left, a) + functional.mse_loss(right, b) - (2 * (left - right) * difference).mean()
    for kind, expected in (("bce", bce), ("bradley_terry", terry), ("mse", mse)):
        found = pair_losses(kind, left, right, a, b).mean()  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected)


SCORES = np.array([[0.1], [0.9], [0.5], [0.7], [0.3]])
TEXTS = ["a", "b", "c", "d", "e"]


def test_all_pairs_are_drawn_once_up_to_the_limit_and_both_sides_come() -> None:
    rng = np.random.default_rng(0)
    every = draw_pairs(SCORES, TEXTS, "all", 99, rng)
    assert sorted(map(sorted, every)) == [list(pair) for pair in combinations(range(5), 2)]
    some = [draw_pairs(SCORES, TEXTS, "all", 5, rng) for _ in range(200)]
    assert {len(pairs) for pairs in some} == {5}
    swapped = np.mean([left > right for pairs in some for left, right in pairs])
    assert 0.45 < swapped < 0.55
    assert {tuple(sorted(pair)) for pairs in some for pair in pairs} == set(combinations(range(5), 2))


def test_top_and_bottom_are_paired_by_rank() -> None:
    pairs = draw_pairs(SCORES, TEXTS, "top_bottom", 2, np.random.default_rng(0))
    # the order is b d c e a: the best with the second worst, the second best with the worst
    assert {frozenset(pair) for pair in pairs} == {frozenset({1, 4}), frozenset({3, 0})}
    assert draw_pairs(SCORES[:1], TEXTS[:1], "top_bottom", 2, np.random.default_rng(0)) == []


def test_uniform_takes_an_even_stride_of_the_order_and_random_never_pairs_one_with_itself() -> None:
    pairs = draw_pairs(SCORES, TEXTS, "uniform", 5, np.random.default_rng(0))
    assert {frozenset(pair) for pair in pairs} == {frozenset({1, 2}), frozenset({2, 0})}
    for seed in range(50):
        drawn = draw_pairs(SCORES, TEXTS, "random", 5, np.random.default_rng(seed))
        assert len(drawn) <= 2 and all(left != right for left, right in drawn)


@pytest.mark.parametrize("mode", ["all", "top_bottom", "random", "uniform"])
def test_equal_texts_are_one_candidate(mode: str) -> None:
    texts = ["same", "same", "other", "same", "third"]
    seen = set()
    for seed in range(20):
        pairs = draw_pairs(SCORES, texts, mode, 9, np.random.default_rng(seed))  # type: ignore[arg-type]
        seen |= {i for pair in pairs for i in pair}
    assert seen == ({0, 2} if mode in ("top_bottom", "uniform") else {0, 2, 4})
    assert draw_pairs(SCORES, ["x"] * 5, mode, 9, np.random.default_rng(0)) == []  # type: ignore[arg-type]
