"""Fine-tunes a causal language model to answer with a rating: cross-entropy on the token after the instruction.

All weights are trained, as RouteLLM does with Llama-3-8B (Ong et al. 2024, section 4.2); for models that fit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.learning.rating_model import RatingModel

_HELD_BACK = 10
"""One distinct question in so many tells which epoch was the best."""
_PATIENCE = 2
"""Epochs without a better loss after which training stops."""
_WARM_UP = 0.1
_CLIP = 1.0


@dataclass(frozen=True, slots=True)
class RatingRecipe:
    """How long, how fast and in what portions; `seed` is that of the order."""

    epochs: int
    learning_rate: float
    batch: int
    seed: int


def train_ratings(
    model: RatingModel,
    questions: Sequence[str],
    ratings: NDArray[np.int64],
    recipe: RatingRecipe,
    report: Callable[[str], None],
) -> int:
    """Train the model in place on ratings 1 to 5 of shape [n]; gives the epoch that it is left at.

    That is the one with the least loss on questions held back by their hash, or the last where none is.
    """
    import torch

    rows = [model.tokens(q) for q in questions]
    keys = [zlib.crc32(f"{recipe.seed}\n{q}".encode("utf-8", "surrogatepass")) % _HELD_BACK for q in questions]
    outside = np.flatnonzero(np.array(keys) == 0)
    inside = np.flatnonzero(np.array(keys) != 0) if len(outside) < len(rows) else outside
    targets = torch.tensor(model.rating_ids)[torch.from_numpy(ratings - 1)]
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate)
    steps = recipe.epochs * -(-len(inside) // recipe.batch)
    course = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    best: dict[str, Any] = {}
    best_loss, best_epoch = float("inf"), 0
    for epoch in range(1, recipe.epochs + 1):
        learned = 0.0
        for at in _batches(inside, rows, recipe, epoch):
            loss = _loss(model, [rows[i] for i in at], targets[at])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
            optimizer.step()
            course.step()
            learned += float(loss.detach()) * len(at)
        judged = _mean_loss(model, rows, targets, outside, recipe.batch)
        report(f"epoch {epoch} of {recipe.epochs}: loss {learned / len(inside):.4f}, held back {judged:.4f}")
        if not judged >= best_loss:  # nan, nothing held back: the last one
            best_loss, best_epoch = judged, epoch
            best = {name: tensor.detach().clone() for name, tensor in model.model.state_dict().items()}
        elif epoch - best_epoch >= _PATIENCE:
            break
    model.model.load_state_dict(best)
    return best_epoch


def _pace(step: int, steps: int) -> float:
    """Up in a straight line, then down to nothing."""
    rising = max(1, round(_WARM_UP * steps))
    return min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))


def _batches(inside: NDArray[np.int64], rows: list[list[int]], recipe: RatingRecipe, epoch: int) -> list[Any]:
    """Questions of like length together; which of them, and the order of the batches, by chance."""
    rng = np.random.default_rng([recipe.seed, epoch])
    lengths = np.array([len(rows[i]) for i in inside])
    order = inside[np.argsort(lengths + rng.random(len(inside)) * 8, kind="stable")]
    batches = [order[start : start + recipe.batch] for start in range(0, len(order), recipe.batch)]
    rng.shuffle(batches)
    return batches


def _mean_loss(model: RatingModel, rows: list[list[int]], targets: Any, at: NDArray[np.int64], batch: int) -> float:
    import torch

    if len(at) == 0:
        return float("nan")
    parts = [at[start : start + batch] for start in range(0, len(at), batch)]
    with torch.inference_mode():
        total = sum(float(_loss(model, [rows[i] for i in part], targets[part])) * len(part) for part in parts)
    return total / len(at)


def _loss(model: RatingModel, rows: list[list[int]], targets: Any) -> Any:
    """Over the whole vocabulary: the model must also learn to answer with nothing but a rating."""
    import torch

    logits = model.next_logits(rows).float()
    return torch.nn.functional.cross_entropy(logits, targets.to(logits.device))
