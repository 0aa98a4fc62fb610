"""Training of a ranking network on scored candidates: pairs drawn anew each epoch, early stop on held-out pairs.

The loop is `learning.descent`'s: warm-up, linear decay, clipping, checkpoints to the step. One example in ten, by the
hash of its source, is held back; training stops when the share of its pairs that are ordered wrongly no longer falls.
"""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from serve_app.arrays import Floats
from serve_app.data.mixinstruct import ScoredCandidates
from serve_app.ensemble.ranking.labels import Loss, Sampling, draw_pairs, pair_losses
from serve_app.ensemble.ranking.lower_states import LowerStates, row_lengths
from serve_app.ensemble.ranking.network import Parts, RankingNetwork
from serve_app.ensemble.ranking.sequence import SequenceTokenizer
from serve_app.errors import ConfigError, DataError
from serve_app.learning.descent import Checkpoint, Descent, descend
from serve_app.learning.encoder import DEFAULT
from serve_app.precision import has_bfloat16, mixed

Weighting = Literal["none", "gap"]
_HELD_BACK = 10
_TOKENS = 4096
"""Tokens of one forward pass, not counting padding; an optimizer step may take several."""


@dataclass(frozen=True, slots=True)
class RankingRecipe:
    """How a ranker is trained. LLM-Blender's figures: bce or bradley_terry, all pairs, 5 a step, 5 epochs, 1e-5.

    `pairs`: most pairs of an example in an epoch. `batch`: examples of an optimizer step. `weighting`: by gap counts a
    pair by the difference of its mean scores, so that choosing between near equals matters little. `train_layers`
    counts the layers trained, from the encoder's end, None is all of it with its embeddings. `encoder`: minilm, the
    folder of a Hugging Face encoder, or small-from-scratch.
    """

    epochs: int = 5
    learning_rate: float = 3e-5
    batch: int = 16
    pairs: int = 5
    loss: Loss = "bce"
    sampling: Sampling = "all"
    weighting: Weighting = "none"
    train_layers: int | None = None
    patience: int = 2
    warm_up: float = 0.05
    encoder: str = DEFAULT
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Examples with the pairs of each; `held_back` ones are only measured."""

    examples: tuple[int, ...]
    pairs: tuple[tuple[tuple[int, int], ...], ...]
    held_back: bool = False


class RankingLearner:
    """A ranking network with its examples; see `learning.descent.Learner`.

    Where all layers below the joint ones are frozen, what they give is kept in `states`, see `LowerStates`.
    """

    def __init__(
        self,
        network: RankingNetwork,
        tokens: SequenceTokenizer,
        examples: Sequence[ScoredCandidates],
        recipe: RankingRecipe,
        states: LowerStates | None = None,
    ) -> None:
        self._network, self._recipe, self._half = network, recipe, has_bfloat16()
        self._examples = [e for e in examples if len(set(e.candidates)) > 1 and _differ(e.scores)]
        if not self._examples:
            raise DataError("nothing to learn from: no example has two different candidates with different scores")
        held = [_held_back(e.source, recipe.seed) for e in self._examples]
        self._held = [i for i, out in enumerate(held) if out and not all(held)]
        self._inside = sorted(set(range(len(held))) - set(self._held))
        self._parts = [_parts(tokens, e) for e in self._examples]
        self._freeze()
        layers, joint = recipe.train_layers, network.shape.joint_layers
        frozen = layers is not None and joint is not None and layers <= joint
        self._states = (states or LowerStates()) if frozen else None
        self._gap = float(np.mean([abs(_gaps(e)).mean() for e in self._examples])) or 1.0
        costs = [self._cost(i) for i in self._inside]
        self._micro = max(1, min(recipe.batch, int(_TOKENS / max(1.0, float(np.mean(costs))))))

    @property
    def inside(self) -> list[ScoredCandidates]:
        """The examples that it learns from."""
        return [self._examples[i] for i in self._inside]

    @property
    def outside(self) -> list[ScoredCandidates]:
        """The examples held back."""
        return [self._examples[i] for i in self._held]

    @property
    def accumulate(self) -> int:
        """Batches of an optimizer step."""
        return max(1, round(self._recipe.batch / self._micro))

    def trained(self) -> dict[str, Any]:
        """The parameters that are not frozen."""
        return {name: p for name, p in self._network.named_parameters() if p.requires_grad}

    def train(self, on: bool) -> None:
        """Dropout in the layers that are trained, or none."""
        self._network.train(on)

    def batches(self, epoch: int) -> list[PairBatch]:
        """Every example once, in random order, with pairs drawn anew."""
        rng = np.random.default_rng([self._recipe.seed, epoch])
        order = [self._inside[k] for k in rng.permutation(len(self._inside)).tolist()]
        return self._batched(order, rng, held_back=False)

    def held_back(self) -> list[PairBatch]:
        """The examples held back, with the same pairs each time."""
        return self._batched(self._held, np.random.default_rng(self._recipe.seed), held_back=True)

    def loss(self, batch: PairBatch) -> tuple[Any, float]:
        """Mean loss of the pairs; of a batch held back the share ordered wrongly, a tie as half."""
        pairs, scores, offset = list[tuple[int, int]](), list[Floats](), 0
        for example, own in zip(batch.examples, batch.pairs, strict=True):
            pairs += [(offset + left, offset + right) for left, right in own]
            scores.append(self._examples[example].scores)
            offset += len(self._examples[example].candidates)
        table = torch.tensor(np.concatenate(scores), dtype=torch.float32)
        left_scores, right_scores = table[[i for i, _ in pairs]], table[[j for _, j in pairs]]
        gaps = (left_scores - right_scores).mean(1)
        weights = gaps.abs() / self._gap if self._recipe.weighting == "gap" else torch.ones(len(pairs))
        with mixed(self._half):
            left, right = self._outputs(batch.examples, pairs)
        left, right = left.float(), right.float()
        if batch.held_back:
            known = weights * (gaps != 0)
            wrong = (1 - torch.sign((left - right).mean(1)) * torch.sign(gaps)) / 2
            return (wrong * known).sum() / known.sum().clamp(min=1e-9), float(known.sum())
        losses = pair_losses(self._recipe.loss, left, right, left_scores, right_scores)
        return (losses * weights).mean(), float(len(pairs))

    def _outputs(self, examples: Sequence[int], pairs: list[tuple[int, int]]) -> tuple[Any, Any]:
        parts = _together([self._parts[i] for i in examples])
        if self._states is None:
            return self._network(parts, pairs)  # type: ignore[no-any-return]
        training = self._network.training
        self._network.eval()
        lower = self._states.of(self._network, parts)
        self._network.train(training)
        return self._network.upper(lower, pairs)

    def _freeze(self) -> None:
        layers = self._recipe.train_layers
        if layers is None:
            return
        network = self._network
        if network.layers is None or not 1 <= layers <= len(network.layers):
            raise ConfigError(f"train_layers {layers}: give 1 to the layers of a BERT encoder, or leave it out")
        network.body.requires_grad_(False)
        for layer in list(network.body.encoder.layer)[-layers:]:
            layer.requires_grad_(True)

    def _cost(self, example: int) -> float:
        """Tokens that the trained layers read of an example in one epoch."""
        parts = self._parts[example]
        n, tokens = len(parts.candidates), sum(row_lengths(parts))
        if self._network.shape.form == "pointwise" or self._network.shape.joint_layers == 1:
            return tokens
        return 2 * tokens / n * min(self._recipe.pairs, n * (n - 1) // 2)

    def _batched(self, order: Sequence[int], rng: np.random.Generator, held_back: bool) -> list[PairBatch]:
        found = []
        for start in range(0, len(order), self._micro):
            chosen = order[start : start + self._micro]
            drawn = [self._draw(i, rng) for i in chosen]
            kept = [(i, tuple(pairs)) for i, pairs in zip(chosen, drawn, strict=True) if pairs]
            if kept:
                found.append(PairBatch(tuple(i for i, _ in kept), tuple(pairs for _, pairs in kept), held_back))
        return found

    def _draw(self, example: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        one = self._examples[example]
        return draw_pairs(one.scores, one.candidates, self._recipe.sampling, self._recipe.pairs, rng)


def train(
    learner: RankingLearner, recipe: RankingRecipe, report: Callable[[str], None], checkpoint: Checkpoint | None
) -> float:
    """Train in place; returns the least share of held-back pairs that were ordered wrongly, nan without any."""
    how = Descent(
        recipe.epochs,
        recipe.learning_rate,
        recipe.seed,
        warm_up=recipe.warm_up,
        patience=recipe.patience,
        accumulate=learner.accumulate,
    )
    return descend(learner, how, report, checkpoint)


def checkpoint_of(
    folder: Path | None, examples: Sequence[ScoredCandidates], recipe: RankingRecipe, about: object
) -> Checkpoint | None:
    """The checkpoint of a run in a folder; its key names the data, the recipe and the network."""
    if folder is None:
        return None
    digest = hashlib.blake2b(repr((recipe, about, has_bfloat16())).encode(), digest_size=16)
    for example in examples:
        digest.update(repr((example.source, example.candidates)).encode("utf-8", "backslashreplace"))
        digest.update(example.scores.tobytes())
    return Checkpoint(folder, digest.hexdigest())


def _held_back(source: str, seed: int) -> bool:
    return zlib.crc32(f"{seed}\n{source}".encode("utf-8", "surrogatepass")) % _HELD_BACK == 0


def _differ(scores: Floats) -> bool:
    return bool((scores != scores[0]).any())


def _gaps(example: ScoredCandidates) -> Floats:
    means = example.scores.mean(axis=1)
    gaps: Floats = means[:, None] - means[None, :]
    return gaps


def _parts(tokens: SequenceTokenizer, example: ScoredCandidates) -> Parts:
    source = tokens.source(example.source)
    candidates = tokens.candidates(example.candidates, len(source))
    return Parts([source], candidates, [0] * len(candidates))


def _together(parts: Sequence[Parts]) -> Parts:
    """Several examples' parts as one."""
    sources = [part.sources[0] for part in parts]
    candidates = [ids for part in parts for ids in part.candidates]
    return Parts(sources, candidates, [k for k, part in enumerate(parts) for _ in part.candidates])
