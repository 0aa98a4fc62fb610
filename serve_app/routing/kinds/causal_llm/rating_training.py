"""Fine-tuning of a rating model: cross-entropy on the token of the rating, all weights trained.

RouteLLM does so with Llama-3-8B (Ong et al. 2024, section 4.2); the model must fit in memory. The loop is
`learning.descent`'s. The network stays as it is served, without dropout.
"""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.learning.descent import Checkpoint, Descent, descend
from serve_app.routing.kinds.causal_llm.rating_model import RatingModel

_HELD_BACK = 10
"""One distinct question in so many is held back to choose the best epoch."""
Rows = NDArray[np.int64]


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
    ratings: Rows,
    recipe: RatingRecipe,
    report: Callable[[str], None],
    checkpoint: Path | None = None,
) -> float:
    """Train the model in place on ratings 1 to 5 of shape [n]; returns the least loss on questions held back.

    They are held back by their hash, and the weights are of that epoch; nan where none is: then all epochs run. With
    `checkpoint`, a folder, a killed run of the same model, data and recipe resumes to the same weights.
    """
    learner = RatingLearner(model, questions, ratings, recipe)
    kept = None if checkpoint is None else Checkpoint(checkpoint, learner.key())
    return descend(learner, Descent(recipe.epochs, recipe.learning_rate, recipe.seed), report, kept)


class RatingLearner:
    """A rating model with questions and their ratings; see `learning.descent.Trainable`. A batch is rows of both."""

    def __init__(self, model: RatingModel, questions: Sequence[str], ratings: Rows, recipe: RatingRecipe) -> None:
        import torch

        self._model, self._recipe = model, recipe
        self._rows = [model.tokens(q) for q in questions]
        self._ratings = ratings
        self._targets = torch.tensor(model.rating_ids)[torch.from_numpy(ratings - 1)]
        keys = [zlib.crc32(f"{recipe.seed}\n{q}".encode("utf-8", "surrogatepass")) % _HELD_BACK for q in questions]
        outside = np.flatnonzero(np.array(keys) == 0)
        self._inside = np.flatnonzero(np.array(keys) != 0) if len(outside) < len(keys) else outside
        self._outside = outside

    def key(self) -> str:
        """Names the model's folder, the data and the recipe."""
        digest = hashlib.blake2b(repr((str(self._model.folder), self._rows, self._recipe)).encode(), digest_size=16)
        digest.update(self._ratings.tobytes())
        return digest.hexdigest()

    def trained(self) -> dict[str, Any]:
        """See `Trainable`."""
        return {name: p for name, p in self._model.model.named_parameters() if p.requires_grad}

    def train(self, on: bool) -> None:
        """See `Trainable`: no dropout in either case."""

    def batches(self, epoch: int) -> list[Rows]:
        """Questions of similar length together, in random batches and order."""
        rng = np.random.default_rng([self._recipe.seed, epoch + 1])
        lengths = np.array([len(self._rows[i]) for i in self._inside])
        order = self._inside[np.argsort(lengths + rng.random(len(lengths)) * 8, kind="stable")]
        batches = self._portions(order)
        rng.shuffle(batches)
        return batches

    def held_back(self) -> list[Rows]:
        """See `Trainable`."""
        return self._portions(self._outside)

    def loss(self, batch: Rows) -> tuple[Any, float]:
        """Cross-entropy over the whole vocabulary: the model must also learn to answer with nothing but a rating."""
        import torch

        logits = self._model.next_logits([self._rows[i] for i in batch]).float()
        targets = self._targets[torch.from_numpy(batch)].to(logits.device)
        return torch.nn.functional.cross_entropy(logits, targets), float(len(batch))

    def _portions(self, rows: Rows) -> list[Rows]:
        return [rows[start : start + self._recipe.batch] for start in range(0, len(rows), self._recipe.batch)]
