"""Fine-tunes a text network on labels that are distributions over classes: AdamW, warm-up, clipping, early stopping.

Cross-entropy against soft labels, as Hybrid LLM (arXiv 2404.14618, section 3) and RouteLLM's BERT classifier
(arXiv 2406.18665, section 4.2) train. Reproducible: the order of batches and the dropout of an epoch follow from the
seed and the epoch's number, whatever ran before.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.learning.text_network import TextNetwork

Floats = NDArray[np.float64]
Report = Callable[[str], None]
"""Takes a line of progress."""
_WEIGHT_DECAY = 0.01
_WARM_UP = 0.1
"""Share of the steps in which the learning rate rises; it then falls to nothing at the last planned step."""
_CLIP = 1.0
"""Largest norm of a step's gradient."""
_HELD_BACK = 10
"""One distinct text in so many is not trained on: the loss over these says when to stop."""
_PATIENCE = 2
"""Epochs without a better loss after which training stops."""
_ROWS = 32
_SCORED_ROWS = 128
_STATES_BYTES = 1 << 30
"""The frozen part's output is kept up to this size; beyond, it is computed anew for every batch."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast: `epochs` at most, `learning_rate` at its peak, `seed` of order and dropout."""

    epochs: int = 6
    learning_rate: float = 3e-4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Examples:
    """Distinct texts as tokens, with the mean label of each and how often it came."""

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
        return cls(network.tokens(list(distinct)), means, counts, np.array(keys, dtype=np.bool_))


def finetune(network: TextNetwork, texts: Sequence[str], labels: Floats, recipe: Recipe, report: Report) -> None:
    """Train the network's own part in place and leave it at the epoch with the least loss on the texts held back.

    `labels` has shape [n, classes], each row a distribution. Without anything held back (few texts) all epochs run.
    """
    examples = Examples.of(network, texts, labels, recipe.seed)
    prior = (examples.labels * examples.weights[:, None]).sum(0) + 0.5
    _start_at_prior(network, prior / prior.sum())
    training = _Training(network, examples, recipe)
    best, best_loss, waited = None, np.inf, 0
    started = perf_counter()
    for epoch in range(recipe.epochs):
        trained_loss = training.epoch(epoch)
        loss = training.held_back_loss()
        report(
            f"epoch {epoch + 1} of {recipe.epochs}: loss {trained_loss:.4f}, held back {loss:.4f}, "
            f"{perf_counter() - started:.0f} s"
        )
        if not loss >= best_loss:
            best_loss, waited = loss, 0
            best = {name: p.detach().clone() for name, p in network.trained().items()}
        else:
            waited += 1
        if waited >= _PATIENCE:
            break
    if best is not None:
        for name, parameter in network.trained().items():
            parameter.data.copy_(best[name])
    network.train(False)


class _Training:
    """One run's optimizer, schedule and the frozen part's output."""

    def __init__(self, network: TextNetwork, examples: Examples, recipe: Recipe) -> None:
        import torch

        self._network, self._examples, self._recipe = network, examples, recipe
        self._inside = np.flatnonzero(~examples.held_back)
        self._outside = np.flatnonzero(examples.held_back)
        self._states = self._frozen_states()
        self._parameters = list(network.trained().values())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=recipe.learning_rate, weight_decay=_WEIGHT_DECAY, fused=True
        )
        steps = max(1, -(-len(self._inside) // _ROWS) * recipe.epochs)
        rising = max(1, round(_WARM_UP * steps))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))
        )

    def epoch(self, number: int) -> float:
        """One pass over the texts that are not held back; the mean loss on the way."""
        import torch

        network, total = self._network, 0.0
        network.train(True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._recipe.seed * 1_000 + number)
            for batch in self._batches(number):
                loss = self._loss(batch)
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self._parameters, _CLIP)
                self._optimizer.step()
                self._schedule.step()
                total += float(loss.detach()) * len(batch)
        network.train(False)
        return total / max(1, len(self._inside))

    def held_back_loss(self) -> float:
        """Mean loss over what is held back, weighted as the texts came; nan if nothing is."""
        import torch

        if len(self._outside) == 0:
            return float("nan")
        order = sorted(self._outside, key=lambda i: len(self._examples.rows[i]))
        batches = [order[start : start + _SCORED_ROWS] for start in range(0, len(order), _SCORED_ROWS)]
        with torch.inference_mode():
            parts = [(float(self._loss(b)), float(self._examples.weights[b].sum())) for b in batches]
        return sum(loss * weight for loss, weight in parts) / sum(weight for _, weight in parts)

    def _loss(self, batch: Sequence[int]) -> Any:
        import torch

        rows = [self._examples.rows[i] for i in batch]
        labels = torch.tensor(self._examples.labels[batch], dtype=torch.float32)
        weights = torch.tensor(self._examples.weights[batch], dtype=torch.float32)
        if self._states is None:
            logits = self._network.logits(rows)
        else:
            with self._network.above_only():
                logits = self._network.logits_above(rows, [self._states[i] for i in batch])
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return (losses * weights).sum() / weights.sum()

    def _batches(self, number: int) -> list[Any]:
        """Rows of like length together; which of them, and the order of the batches, by chance."""
        rng = np.random.default_rng([self._recipe.seed, number])
        lengths = np.array([len(self._examples.rows[i]) for i in self._inside])
        order = self._inside[np.argsort(lengths + rng.random(len(lengths)) * 2, kind="stable")]
        batches = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
        rng.shuffle(batches)
        return batches

    def _frozen_states(self) -> list[Any] | None:
        rows = self._examples.rows
        width = int(self._network.body.config.hidden_size)
        if not self._network.frozen_below or 4 * width * sum(map(len, rows)) > _STATES_BYTES:
            return None
        states: list[Any] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), _SCORED_ROWS):
            batch = order[start : start + _SCORED_ROWS]
            for i, found in zip(batch, self._network.below([rows[i] for i in batch]), strict=True):
                states[i] = found
        return states


def _start_at_prior(network: TextNetwork, prior: Floats) -> None:
    """Head at the classes' frequencies: the first steps need not learn those."""
    import torch

    with torch.no_grad():
        network.head.bias.copy_(torch.tensor(np.log(prior), dtype=torch.float32))
