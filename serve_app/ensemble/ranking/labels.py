"""What a pair ranker learns from: labels of pairs, three losses, and how pairs are drawn from an example.

Jiang et al. 2023 (arXiv 2306.02561), section 4.1, and the released code. Tensors have shape [pairs, metrics]; `left`
and `right` are the network's outputs for the two candidates of a pair, `left_scores` and `right_scores` the metrics'.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serve_app.arrays import Floats

Loss = Literal["bce", "bradley_terry", "mse"]
Sampling = Literal["all", "top_bottom", "random", "uniform"]
_RATIO = 0.4
"""Share of the candidates that `random` and `uniform` draw pairs for."""


def pair_labels(left_scores: Tensor, right_scores: Tensor) -> Tensor:
    """For each metric 1 if the left score is higher, 0 if it is lower, and 0.5 for a tie.

    The paper gives a tie to the left one (Q(left) >= Q(right)). Since sides are swapped at random, 0.5 is the mean of
    that label. The released code labels both sides of a tie 0.
    """
    return (torch.sign(left_scores - right_scores) + 1) / 2


def pair_losses(kind: Loss, left: Tensor, right: Tensor, left_scores: Tensor, right_scores: Tensor) -> Tensor:
    """The loss of each pair, shape [pairs], the mean over metrics.

    bce: binary cross-entropy of each side against its label, averaged over both sides (the paper's).
    bradley_terry: -log sigmoid of the margin in favor of the better one; a tie teaches nothing.
    mse: (left - s_left)^2 + (right - s_right)^2 - 2 (left - right)(s_left - s_right).
    """
    if kind == "bce":
        label = pair_labels(left_scores, right_scores)
        losses = functional.binary_cross_entropy_with_logits(left, label, reduction="none")
        losses = (losses + functional.binary_cross_entropy_with_logits(right, 1 - label, reduction="none")) / 2
    elif kind == "bradley_terry":
        losses = -functional.logsigmoid(torch.sign(left_scores - right_scores) * (left - right))
    else:
        losses = (left - left_scores) ** 2 + (right - right_scores) ** 2
        losses = losses - 2 * (left - right) * (left_scores - right_scores)
    return losses.mean(dim=1)


def draw_pairs(
    scores: Floats, candidates: Sequence[str], mode: Sampling, most: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Pairs (left, right) of positions in `candidates`, at most `most`; `scores` [candidates, metrics].

    Of equal texts the first one counts. all: `most` of all pairs at random; top_bottom: the i-th best with the i-th of
    as many worst, half of all at most; random: pairs drawn with replacement; uniform: neighbors at an even stride of
    the order by mean score. Sides are swapped with probability 1/2.
    """
    first = {text: i for i, text in reversed(list(enumerate(candidates)))}
    distinct = sorted(first.values())
    ranked = sorted(distinct, key=lambda i: (-float(scores[i].mean()), i))
    n = len(distinct)
    if mode == "all":
        every = list(combinations(distinct, 2))
        pairs = [every[k] for k in rng.permutation(len(every))[:most]]
    elif mode == "top_bottom":
        half = max(1, min(most, n // 2))
        pairs = list(zip(ranked[:half], ranked[-half:], strict=True))
    elif mode == "random":
        drawn = rng.integers(0, n, size=(min(most, max(int(n * _RATIO), 1)), 2))
        pairs = [(distinct[a], distinct[b]) for a, b in drawn.tolist()]
    else:
        stride = max(1, int(1 / _RATIO))
        pairs = list(zip(ranked[:-stride:stride], ranked[stride::stride], strict=False))[:most]
    swaps = rng.random(len(pairs)) < 0.5
    return [(b, a) if swap else (a, b) for (a, b), swap in zip(pairs, swaps, strict=True) if a != b]
