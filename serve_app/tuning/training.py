"""Trains a LoRA adapter of any causal language model by the loop of `learning.descent`: loss on answers only.

The base model's weights stay as they are. Rows of like length are in one batch, padded on the right; logits are made
of answers alone, which for a small model with a large vocabulary saves a third of the work. On request, matrix products
run in bfloat16 on a CPU, while weights, attention and the loss stay in float32.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np

from serve_app.adapters.base_model import BaseModel
from serve_app.adapters.card import AdapterAbout
from serve_app.errors import ConfigError, DataError
from serve_app.lab.train import use_float32_attention
from serve_app.learning.descent import Checkpoint, Descent, descend
from serve_app.precision import mixed
from serve_app.tuning.bases import TuningBase
from serve_app.tuning.encoding import EncodedRow, encode, within
from serve_app.tuning.lora import LoraShape, add_lora, save_adapter, trained_parameters
from serve_app.tuning.rows import FEWEST, TuningRow, rows_sha256

_TOKENS: Final = 16_384
"""Tokens of a batch, with padding."""
IGNORE: Final = -100
"""Label of a token that carries no loss."""


@dataclass(frozen=True, slots=True)
class TuningRecipe:
    """`epochs` at most; `learning_rate` at its peak; `rows` a step at most; one row in `held_out_of` is held out.

    Training stops after `patience` epochs without a better held-out loss. `most_tokens`: of a row, prompt and answer
    together (None: as many as the model reads); longer rows are an error unless `skip_long`. `seed`: of the first
    weights, the split and the order. `bfloat16`: matrix products on a CPU; whether it pays depends on the CPU. On one
    with AVX512-BF16, products of a model 576 wide ran at 92 GFLOP/s so, and at 150 in float32.
    """

    shape: LoraShape = field(default_factory=LoraShape)
    epochs: int = 3
    learning_rate: float = 5e-4
    rows: int = 16
    held_out_of: int = 10
    patience: int = 1
    most_tokens: int | None = None
    skip_long: bool = False
    bfloat16: bool = False
    seed: int = 0
    checkpoint_s: float = 60.0
    report_s: float = 10.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.rows < 1 or self.patience < 1 or not 0 < self.learning_rate < 1:
            raise ConfigError(
                f"epochs {self.epochs}, rows {self.rows} and patience {self.patience} must be 1 or more, learning_rate "
                f"{self.learning_rate} above 0 and below 1"
            )
        if self.held_out_of < 2:
            raise ConfigError(f"held_out_of {self.held_out_of}: one row in 2 or more can be held out")


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """On what is held out: mean loss of an answer's tokens, and share of answers whose every token is the likeliest.

    The latter is the share of exact answers under greedy decoding.
    """

    loss: float
    exact: float


def train_adapter(
    base: TuningBase,
    rows: Sequence[TuningRow],
    recipe: TuningRecipe,
    note: tuple[str, str, str],
    out: Path,
    report: Callable[[str], None],
) -> AdapterAbout:
    """Train an adapter and write its folder, `out`; returns what `jethro_adapter.json` says.

    `note`: its name, task and licence. The base model is changed in place: it has the adapter's layers afterwards. A
    run that was killed resumes to the step; until the end its checkpoint is in a folder next to `out`. Raises DataError
    for rows that cannot be used, before the first step.
    """
    learner = AdapterLearner(base, rows, recipe)
    report(
        f"{len(learner.inside):,} rows to learn from, {len(learner.outside):,} held out"
        + (f", {learner.left_out:,} too long: left out" if learner.left_out else "")
        + f"; {learner.parameters:,} parameters are trained"
    )
    started, worked = perf_counter(), process_time()
    before = learner.held_out()
    report(f"without the adapter: held-out loss {before.loss:.4f}, exact {100 * before.exact:.1f} %")
    checkpoint = out.with_name(f"{out.name}.training")
    kept = Checkpoint(checkpoint, learner.key())
    resumed = kept.path.exists()
    how = Descent(
        recipe.epochs,
        recipe.learning_rate,
        recipe.seed,
        patience=recipe.patience,
        checkpoint_s=recipe.checkpoint_s,
        report_s=recipe.report_s,
    )
    descend(learner, how, report, kept)
    after = learner.held_out()
    report(f"with the adapter: held-out loss {after.loss:.4f}, exact {100 * after.exact:.1f} %")
    metrics = {
        "rows": len(learner.inside),
        "held_out": len(learner.outside),
        "held_out_loss": round(after.loss, 4),
        "held_out_loss_before": round(before.loss, 4),
        "held_out_exact": round(after.exact, 4),
        "held_out_exact_before": round(before.exact, 4),
        "seed": recipe.seed,
    }
    if not resumed:  # what an earlier process took is not known
        metrics |= {"seconds": round(perf_counter() - started), "cpu_seconds": round(process_time() - worked)}
    name, task, licence = note
    weights = BaseModel(base.name, base.folder).sha256
    found = AdapterAbout(name, base.name, weights, task, licence, metrics, data_sha256=rows_sha256(rows))
    save_adapter(learner.model, out, found)
    rmtree(checkpoint, ignore_errors=True)
    return found


class AdapterLearner:
    """A base model with LoRA layers and its rows as tokens, held out by the hash of the conversation."""

    def __init__(self, base: TuningBase, rows: Sequence[TuningRow], recipe: TuningRecipe) -> None:
        self._base, self._recipe = base, recipe
        encoded = encode(rows, base.tokenizer, base.stops)
        fitting = within(rows, encoded, self._most_tokens(), recipe.skip_long)
        if len(fitting) < FEWEST:
            raise DataError(f"{len(fitting):,} of {len(rows):,} rows fit; an adapter needs {FEWEST} or more")
        self._rows = [encoded[i] for i in fitting]
        self.left_out = len(rows) - len(fitting)
        held = [_held_out(rows[i].text, recipe) for i in fitting]
        self.outside = [i for i, out in enumerate(held) if out]
        self.inside = [i for i, out in enumerate(held) if not out]
        if not self.outside or not self.inside:
            raise DataError(
                f"of {len(fitting):,} rows {len(self.outside):,} are held out: give rows with more different prompts"
            )
        self._place = str(base.model.device.type)
        self._half = self._place == "cpu" and recipe.bfloat16
        if self._half:
            use_float32_attention(base.model)
        self.model = add_lora(base.model, recipe.shape, recipe.seed)
        self.model.eval()

    def _most_tokens(self) -> int:
        requested, positions = self._recipe.most_tokens, self._base.positions
        if requested is not None and requested > positions:
            raise ConfigError(f"max_tokens {requested:,}: the model reads {positions:,} tokens at most")
        return requested or positions

    @property
    def parameters(self) -> int:
        """Number of weights that are trained."""
        return sum(parameter.numel() for parameter in self.trained().values())

    def key(self) -> str:
        """Names the rows, the recipe, the base and the adapter's first weights."""
        about = (self._rows, self.inside, self._recipe, BaseModel(self._base.name, self._base.folder).sha256)
        digest = hashlib.blake2b(repr(about).encode(), digest_size=16)
        for name, parameter in self.trained().items():
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def trained(self) -> dict[str, Any]:
        """See `Trainable`."""
        return trained_parameters(self.model)

    def train(self, on: bool) -> None:
        """See `Trainable`."""
        self.model.train(on)

    def batches(self, epoch: int) -> list[list[int]]:
        """Rows of like length together, in random order."""
        rng = np.random.default_rng([self._recipe.seed, epoch])
        mixed_up = [self.inside[i] for i in rng.permutation(len(self.inside))]  # rows of one length change company
        batches = self._by_length(mixed_up)
        return [batches[i] for i in rng.permutation(len(batches))]

    def held_back(self) -> list[list[int]]:
        """See `Trainable`."""
        return self._by_length(self.outside)

    def loss(self, batch: Sequence[int]) -> tuple[Any, float]:
        """Mean cross-entropy of the answers' tokens, weighted by their number."""
        loss, _ = self._answers(batch)
        return loss, float(sum(len(self._rows[i].answer) for i in batch))

    def held_out(self) -> HeldOutScore:
        """Loss and exactness on what is held out, with the adapter as it is."""
        import torch

        total = weight = right = 0.0
        with torch.inference_mode():
            for batch in self.held_back():
                loss, exact = self._answers(batch)
                tokens = sum(len(self._rows[i].answer) for i in batch)
                total, weight, right = total + float(loss) * tokens, weight + tokens, right + float(exact.sum())
        return HeldOutScore(total / weight, right / len(self.outside))

    def _answers(self, batch: Sequence[int]) -> tuple[Any, Any]:
        """Mean loss over the answers' tokens of a batch, and whether each row's answer is the likeliest, [rows]."""
        import torch

        rows = [self._rows[i] for i in batch]
        ids, labels = _padded(rows, self._base.filler)
        first = min(len(row.prompt) for row in rows) - 1
        kept = ids.shape[1] - first  # logits of the last so many positions: no answer begins before
        place = self._base.model.device
        with mixed(self._half):
            logits = self.model(
                input_ids=torch.from_numpy(ids).to(place), use_cache=False, logits_to_keep=kept
            ).logits.float()
        targets = torch.from_numpy(labels[:, first + 1 :]).to(place)
        logits = logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        wrong = (logits.detach().argmax(-1) != targets) & (targets != IGNORE)
        return loss, ~wrong.any(1)

    def _by_length(self, rows: Sequence[int]) -> list[list[int]]:
        batches: list[list[int]] = []
        for row in sorted(rows, key=lambda i: len(self._rows[i])):
            length = len(self._rows[row])
            if not batches or len(batches[-1]) == self._recipe.rows or (len(batches[-1]) + 1) * length > _TOKENS:
                batches.append([])
            batches[-1].append(row)
        return batches


def _padded(rows: Sequence[EncodedRow], filler: int) -> tuple[Any, Any]:
    """Ids and labels of shape [rows, tokens], filled on the right; labels are IGNORE outside answers.

    Attention is causal: what comes before a filler does not see it, so that no mask is needed.
    """
    width = max(map(len, rows))
    ids = np.full((len(rows), width), filler, dtype=np.int64)
    labels = np.full((len(rows), width), IGNORE, dtype=np.int64)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = [*row.prompt, *row.answer]
        labels[at, len(row.prompt) : len(row)] = row.answer
    return ids, labels


def _held_out(text: str, recipe: TuningRecipe) -> bool:
    return zlib.crc32(f"{recipe.seed}\n{text}".encode("utf-8", "surrogatepass")) % recipe.held_out_of == 0
