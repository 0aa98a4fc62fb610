"""Trains fusers: from a request and its candidates to the reference, by the loop of `learning.descent`.

Candidates must come in the order in which they will be served: that of a ranker, or at random. Sorted by their true
quality the first would be the right one whenever any is, and the fuser would learn to copy it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from serve_app.data.dataset import Dataset
from serve_app.data.records import Record, messages_of
from serve_app.ensemble.base import Ranker
from serve_app.ensemble.fusing.gen_fuser import GenFuser, batches_by_length
from serve_app.ensemble.fusing.sequence import FEWEST, distinct
from serve_app.errors import ConfigError, DataError
from serve_app.learning.descent import Checkpoint, Descent, descend, half_precision
from serve_app.learning.seq2seq import IGNORED
from serve_app.types import Query

_HELD_BACK: Final = 10
"""One request in so many is not trained on: the loss over these says when to stop."""
_TOKENS: Final = 16_384
"""Input and target tokens of a batch, with padding."""
_HALF_FROM: Final = 512
"""Width from which bfloat16 pays on a CPU that has it: twice the speed at 512, none gained at 256."""


@dataclass(frozen=True, slots=True)
class FusionRow:
    """A request, its candidates, the best first as a ranker sees them, and the answer that should be written."""

    source: str
    candidates: tuple[str, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class FusionRecipe:
    """`epochs` at most; `learning_rate` at its peak: about 5e-5 for a pretrained model, 2e-3 from nothing.

    `rows` a batch at most; `seed` of held-back rows, order and dropout; `checkpoint_s` between checkpoints.
    """

    epochs: int = 5
    learning_rate: float = 5e-5
    rows: int = 32
    seed: int = 0
    checkpoint_s: float = 60.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.rows < 1 or not 0 < self.learning_rate < 1:
            raise ConfigError(
                f"epochs {self.epochs} and rows {self.rows} must be 1 or more, learning_rate {self.learning_rate} "
                "above 0 and below 1"
            )


def rows_of(
    dataset: Dataset, *, candidates: int = 3, draws: int = 1, seed: int = 0, ranker: Ranker | None = None
) -> list[FusionRow]:
    """Training rows from recorded answers with references, as the lab's are; those of all pools and samples.

    Of each query's distinct answers `candidates` are drawn, `draws` times. Without a ranker they are in random order;
    with one it scores all of them, and its best are taken in its order (once). Queries with less than two distinct
    answers, or without reference, yield none. Raises DataError if no row is left.
    """
    if candidates < FEWEST or draws < 1:
        raise ConfigError(f"candidates {candidates} must be {FEWEST} or more, draws {draws} 1 or more")
    found: dict[FusionRow, None] = {}
    rng = np.random.default_rng(seed)
    for row, reference in enumerate(dataset.references):
        if reference is None:
            continue
        texts = [text for pool in dataset.pools.values() for text in pool.texts[row]]
        texts = [texts[i] for i in distinct(texts)]
        if len(texts) < FEWEST:
            continue
        source = dataset.queries[row].text
        if ranker is not None:
            orders = [np.argsort(-ranker.scores(source, texts), kind="stable")]
        else:
            orders = [rng.permutation(len(texts)) for _ in range(draws)]
        for order in orders:
            found[FusionRow(source, tuple(texts[i] for i in order[:candidates]), reference)] = None
    if not found:
        raise DataError(
            "no query has both a reference and two different answers: there is nothing to learn fusing from"
        )
    return list(found)


def read_row(record: Record, reference: bool = True) -> FusionRow:
    """A row of a file: its request, `candidates`, and `reference` or `output`.

    The request is `source`, `prompt`, `messages`, or `instruction` and `input`. Candidates are texts, or objects with
    `text`. With `scores`, one number a candidate, higher is better, the best come first; without, they are taken in
    their order. Raises DataError naming row and key.
    """
    source = record.text("source", "prompt")
    if source is None and record.get("messages"):
        source = Query(messages_of(record)).text
    source = source or f"{record.text('instruction') or ''}{record.text('input') or ''}"
    if not source:
        raise record.fault("there is no source: a row needs source, prompt, messages, or instruction and input")
    given = record.get("candidates")
    texts: list[Any] = [c.get("text") if isinstance(c, dict) else c for c in given] if isinstance(given, list) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise record.fault("candidates must be a list of texts, or of objects with text, with at least one")
    if (scores := record.get("scores")) is not None:
        if not isinstance(scores, list) or len(scores) != len(texts) or not all(map(_is_number, scores)):
            raise record.fault(f"scores must be a list of {len(texts)} numbers, one a candidate")
        texts = [texts[i] for i in np.argsort(-np.array(scores, dtype=np.float64), kind="stable")]
    answer = record.text("reference", "output")
    if reference and answer is None:
        raise record.fault("there is no reference: the answer that should be written")
    return FusionRow(source, tuple(texts), answer or "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def train_fuser(
    fuser: GenFuser,
    rows: Sequence[FusionRow],
    recipe: FusionRecipe,
    report: Callable[[str], None],
    checkpoint: Path | None = None,
) -> Mapping[str, Any]:
    """Train the fuser in place up to the epoch with the least held-back loss; returns figures for its folder.

    Rows that do not fit, or have no two distinct candidates, are left out and counted. With `checkpoint`, a folder, a
    run that was killed resumes to the step. Raises DataError if no row is left to train on.
    """
    learner = FusionLearner(fuser, rows, recipe)
    left_out = len(rows) - len(learner)
    if left_out:
        report(f"{left_out:,} of {len(rows):,} rows do not fit, or have no two different candidates: left out")
    if not len(learner):
        raise DataError("no row is left to train on: raise max_tokens, or give rows with two different candidates")
    kept = None if checkpoint is None else Checkpoint(checkpoint, learner.key())
    how = Descent(recipe.epochs, recipe.learning_rate, recipe.seed, checkpoint_s=recipe.checkpoint_s)
    loss = descend(learner, how, report, kept)
    figures = {"rows": len(learner), "left_out": left_out, "epochs": recipe.epochs, "seed": recipe.seed}
    figures["learning_rate"] = recipe.learning_rate  # type: ignore[assignment]
    return figures | ({"held_back_loss": loss} if np.isfinite(loss) else {})


class FusionLearner:
    """A fuser with its rows as tokens; held back by the request's hash, so that all rows of one are on one side."""

    def __init__(self, fuser: GenFuser, rows: Sequence[FusionRow], recipe: FusionRecipe) -> None:
        self._fuser, self._recipe = fuser, recipe
        self._model, self._device = fuser.parts.model, fuser.parts.model.device.type
        inputs = [fuser.tokens.input(row.source, row.candidates) for row in rows]
        fitting = [i for i, own in enumerate(inputs) if own.ids]
        targets = {i: fuser.tokens.target(rows[i].reference) for i in fitting}
        most = fuser.parts.positions("decoder")
        fitting = [i for i in fitting if len(targets[i]) <= most]
        self._inputs = [inputs[i].ids for i in fitting]
        self._targets = [targets[i] for i in fitting]
        held = [_held_back(rows[i].source, recipe.seed) for i in fitting]
        self._outside = [i for i, out in enumerate(held) if out and not all(held)]
        self._inside = [i for i, out in enumerate(held) if not out or all(held)]
        wide = int(self._model.config.hidden_size) >= _HALF_FROM
        self._half = self._device != "cpu" or (wide and half_precision())

    def __len__(self) -> int:
        return len(self._inputs)

    def key(self) -> str:
        """Names the rows, the recipe and the weights to begin with."""
        digest = hashlib.blake2b(repr((self._inputs, self._targets, self._recipe, self._half)).encode(), digest_size=16)
        for name, parameter in self.trained().items():
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def trained(self) -> dict[str, Any]:
        """See `Trainable`."""
        return dict(self._model.named_parameters())

    def train(self, on: bool) -> None:
        """See `Trainable`."""
        self._model.train(on)

    def batches(self, epoch: int) -> list[list[int]]:
        """Rows of like length together, in random order."""
        rng = np.random.default_rng([self._recipe.seed, epoch])
        mixed = [self._inside[i] for i in rng.permutation(len(self._inside))]  # rows of one length change company
        batches = list(self._by_length(mixed))
        return [batches[i] for i in rng.permutation(len(batches))]

    def held_back(self) -> list[list[int]]:
        """See `Trainable`."""
        return list(self._by_length(self._outside))

    def loss(self, batch: Sequence[int]) -> tuple[Any, float]:
        """Mean cross-entropy of the targets' tokens, weighted by their number."""
        import torch

        parts = self._fuser.parts
        ids, mask = parts.padded([self._inputs[i] for i in batch], parts.tokenizer.pad_token_id)
        labels, _ = parts.padded([self._targets[i] for i in batch], IGNORED)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._half):
            logits = self._model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED)
        return loss, float(sum(len(self._targets[i]) for i in batch))

    def _by_length(self, rows: Sequence[int]) -> Iterator[list[int]]:
        lengths = [len(self._inputs[i]) + len(self._targets[i]) for i in rows]
        for batch in batches_by_length(lengths, self._recipe.rows, _TOKENS):
            yield [rows[i] for i in batch]


def _held_back(source: str, seed: int) -> bool:
    return zlib.crc32(f"{seed}\n{source}".encode("utf-8", "surrogatepass")) % _HELD_BACK == 0
