"""Fine-tunes a text network on labels that are distributions over classes, by the loop of `learning.descent`.

Cross-entropy against soft labels, as Hybrid LLM (arXiv 2404.14618, section 3) and RouteLLM's BERT classifier
(arXiv 2406.18665, section 4.2) train.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.learning.descent import Checkpoint, Descent, descend, half_precision
from serve_app.routing.base import Report
from serve_app.routing.kinds.fine_tuned.text_network import TextNetwork
from serve_app.routing.kinds.fine_tuned.text_network import states as frozen_states

_HELD_BACK = 10
"""One distinct text in so many is not trained on: the loss over these says when to stop."""
_ROWS = 32
_SCORED_ROWS = 128


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast: `epochs` at most, `learning_rate` at its peak, `seed` of order and dropout."""

    epochs: int = 6
    learning_rate: float = 3e-4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Examples:
    """Distinct texts as tokens, with the mean label and the count of each."""

    rows: list[list[int]]
    labels: Floats
    weights: Floats
    held_back: NDArray[np.bool_]

    @classmethod
    def of(cls, network: TextNetwork, texts: Sequence[str], labels: Floats, seed: int) -> Examples:
        """`labels` of shape [len(texts), classes], each row a distribution. Held back by the text's hash."""
        distinct, where = np.unique(np.array(texts, dtype=object), return_inverse=True)
        counts = np.bincount(where).astype(np.float64)
        means = np.stack([np.bincount(where, column) / counts for column in labels.T], axis=1)
        keys = [zlib.crc32(f"{seed}\n{t}".encode("utf-8", "surrogatepass")) % _HELD_BACK == 0 for t in distinct]
        held_back = np.array(keys, dtype=np.bool_) & (not all(keys))
        return cls(network.tokens(list(distinct)), means, counts, held_back)

    def prior(self) -> Floats:
        """Smoothed class frequencies, shape [classes], all above 0."""
        totals = (self.labels * self.weights[:, None]).sum(0) + 0.5
        shares: Floats = totals / totals.sum()
        return shares

    def key(self, network: TextNetwork, recipe: Recipe) -> str:
        """Names the data, the recipe and the tensors that are trained."""
        digest = hashlib.blake2b(
            repr((self.rows, recipe, sorted(network.trained()), half_precision())).encode(), digest_size=16
        )
        digest.update(self.labels.tobytes() + self.weights.tobytes())
        return digest.hexdigest()


def finetune(
    network: TextNetwork,
    texts: Sequence[str],
    labels: Floats,
    recipe: Recipe,
    report: Report,
    checkpoint: Path | None = None,
) -> None:
    """Train the network's own part in place, up to the epoch with the least loss on the texts held back.

    `labels` has shape [n, classes], each row a distribution. Without anything held back (few texts) all epochs run.
    With `checkpoint`, a folder, a killed run of the same data and recipe resumes.
    """
    examples = Examples.of(network, texts, labels, recipe.seed)
    _start_at_prior(network, examples.prior())
    kept = None if checkpoint is None else Checkpoint(checkpoint, examples.key(network, recipe))
    how = Descent(recipe.epochs, recipe.learning_rate, recipe.seed)
    descend(TextLearner(network, examples, recipe.seed), how, report, kept)


class TextLearner:
    """A text network with its examples, and the frozen part's output for them."""

    def __init__(self, network: TextNetwork, examples: Examples, seed: int) -> None:
        self._network, self._examples, self._seed = network, examples, seed
        self._inside = np.flatnonzero(~examples.held_back)
        self._outside = np.flatnonzero(examples.held_back)
        self._half = half_precision()
        self._states = frozen_states.of(network, examples.rows)

    def trained(self) -> dict[str, Any]:
        """See `Trainable`."""
        return self._network.trained()

    def train(self, on: bool) -> None:
        """See `Trainable`."""
        self._network.train(on)

    def batches(self, epoch: int) -> list[Any]:
        """Rows of similar length together, in random batches and order."""
        rng = np.random.default_rng([self._seed, epoch])
        lengths = np.array([len(self._examples.rows[i]) for i in self._inside])
        order = self._inside[np.argsort(lengths + rng.random(len(lengths)) * 2, kind="stable")]
        batches = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
        rng.shuffle(batches)
        return batches

    def held_back(self) -> list[Any]:
        """The rows held back, by length."""
        order = sorted(self._outside, key=lambda i: len(self._examples.rows[i]))
        return [order[start : start + _SCORED_ROWS] for start in range(0, len(order), _SCORED_ROWS)]

    def loss(self, batch: Sequence[int]) -> tuple[Any, float]:
        """Cross-entropy, weighted by the texts' counts."""
        import torch

        rows = [self._examples.rows[i] for i in batch]
        labels = torch.tensor(self._examples.labels[batch], dtype=torch.float32)
        weights = torch.tensor(self._examples.weights[batch], dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._half):
            if self._states is None:
                logits = self._network.logits(rows)
            else:
                with self._network.above_only():
                    logits = self._network.logits_above(rows, [self._states[i] for i in batch])
        losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return (losses * weights).sum() / weights.sum(), float(self._examples.weights[batch].sum())


def _start_at_prior(network: TextNetwork, prior: Floats) -> None:
    """Head at the classes' frequencies: the first steps need not learn those."""
    import torch

    with torch.no_grad():
        network.head.bias.copy_(torch.tensor(np.log(prior), dtype=torch.float32))
