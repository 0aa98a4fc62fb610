"""Training of one lab model: loss on answers only, Muon for matrices, resumable to the step.

Muon is Jordan et al. 2024 as torch ships it, scaled to AdamW's step size (Liu et al. 2025);
embeddings and norms take AdamW. Exactness during training is teacher-forced: all answer tokens
are the most likely ones, which is the same as a right greedy answer. A checkpoint holds weights, optimizer
states and counters; it is loaded with `weights_only=True`, so that it can hold no code.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, LlamaForCausalLM

from serve_app.files import replacing
from serve_app.lab.batches import IGNORE, RoundShape, TrainingBatch, held_out_batches, round_of_batches
from serve_app.lab.model import ModelSize, new_model
from serve_app.lab.tasks import CELLS, LEVELS

SMOOTHING = 0.98
"""Weight of the past in the running accuracy of a cell, per example seen."""

WARM_UP = 0.02
"""Share of the budget in which the learning rate rises to its peak."""

OPENS_AT = 0.7
HELD_BACK = 0.1
"""Accuracy of a difficulty at which the next one is drawn in full, and the least factor before."""


@dataclass(slots=True)
class TrainingProgress:
    """Counters of one run; `accuracy[c]` is the running share of cell c's fresh examples right."""

    rounds: int = 0
    tokens: int = 0
    seconds: float = 0.0
    accuracy: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(CELLS)))

    def observe(self, cells: NDArray[np.int64], right: NDArray[np.bool_]) -> None:
        """Take in whether each example of a batch was answered exactly."""
        for cell, ok in zip(cells, right, strict=True):
            self.accuracy[cell] = SMOOTHING * self.accuracy[cell] + (1 - SMOOTHING) * float(ok)

    def cell_weights(self, floor: float, hardest: int = LEVELS[-1]) -> list[float]:
        """Share of each cell in the next round: its running error, never below the floor.

        A difficulty whose easier neighbour is not yet learned is held back, so that the time goes
        to what can be learned now (a curriculum in the sense of Bengio et al. 2009). Difficulties
        above `hardest` are never drawn.
        """
        levels = self.accuracy.reshape(-1, len(LEVELS))
        gates = np.ones_like(levels)
        gates[:, 1:] = np.clip(levels[:, :-1] / OPENS_AT, HELD_BACK, 1.0)
        weights = floor + gates * (1 - levels)
        weights[:, hardest:] = 0.0
        return [float(weight) for weight in weights.ravel()]


def learning_rate_scale(done: float) -> float:
    """Factor on the peak rate at a share of the budget: linear rise, then linear fall to zero."""
    if done < WARM_UP:
        return max(done / WARM_UP, 0.02)
    return max(0.0, (1 - done) / (1 - WARM_UP))


FILE = "checkpoint.pt"


def save_checkpoint(
    folder: Path,
    seed: int,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    progress: TrainingProgress,
) -> None:
    """Write the run's state; a kill at any moment leaves the last whole checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "seed": seed,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "rounds": progress.rounds,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "accuracy": torch.from_numpy(progress.accuracy),
    }
    with replacing(folder / FILE) as part:
        torch.save(state, part)


def load_checkpoint(
    folder: Path,
    seed: int,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    progress: TrainingProgress,
) -> bool:
    """Restore the run in place; False if `folder` has no checkpoint.

    Raises ValueError if the checkpoint belongs to another seed or another model shape.
    """
    path = folder / FILE
    if not path.exists():
        return False
    state = torch.load(path, weights_only=True)
    if state["seed"] != seed:
        raise ValueError(f"{path} was made with seed {state['seed']}, not {seed}: remove it or use its seed")
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(f"{path} is of another model shape: remove it to start anew") from error
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    progress.rounds, progress.tokens, progress.seconds = state["rounds"], state["tokens"], state["seconds"]
    progress.accuracy = state["accuracy"].numpy().copy()
    return True


MATRIX_RATE = 8e-3
VECTOR_RATE = 8e-3
"""Peak learning rates of Muon and of AdamW."""

HELD_OUT_ROWS = 64
"""Unseen queries evaluated at once."""

WEIGHT_DECAY = 0.02
CLIP_NORM = 1.0


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How one model is trained. The budget is `minutes` of training if given, else `tokens`.

    A budget in tokens makes the run the same on every machine; one in minutes does not.
    `held_out` unseen queries are evaluated at each checkpoint; difficulties above `hardest` are not trained.
    """

    seed: int
    tokens: int
    minutes: float | None = None
    shape: RoundShape = field(default_factory=RoundShape)
    held_out: int = 1300
    floor: float = 0.05
    hardest: int = LEVELS[-1]
    bfloat16: bool = False
    checkpoint_s: float = 60.0


def train(
    size: ModelSize,
    settings: TrainSettings,
    folder: Path,
    report: Callable[[str], None],
    on_checkpoint: Callable[[LlamaForCausalLM, TrainingProgress], None] | None = None,
) -> tuple[LlamaForCausalLM, TrainingProgress]:
    """Train from `folder`'s checkpoint, or from nothing if it has none, until the budget is spent.

    Writes checkpoints into `folder` and one line a round to `report`; `on_checkpoint` is called
    after each checkpoint. Raises ValueError if the checkpoint is of another seed or shape.
    """
    model = new_model(size, settings.seed)
    if settings.bfloat16:
        use_float32_attention(model)
    optimizers = make_optimizers(model)
    progress = TrainingProgress()
    load_checkpoint(folder, settings.seed, model, optimizers, progress)
    saved_at = time.monotonic()
    held_out = held_out_batches(settings.seed, settings.held_out, HELD_OUT_ROWS)
    while share_done(progress, settings) < 1:
        started, before = time.monotonic(), progress.tokens
        loss = train_round(model, optimizers, progress, settings)
        seconds = time.monotonic() - started
        progress.seconds += seconds
        report(_line(size.name, progress, settings, loss, (progress.tokens - before) / seconds))
        if time.monotonic() - saved_at > settings.checkpoint_s or share_done(progress, settings) >= 1:
            save_checkpoint(folder, settings.seed, model, optimizers, progress)
            saved_at = time.monotonic()
            report(f"{size.name}: unseen exact {100 * held_out_accuracy(model, held_out):.1f} %")
            if on_checkpoint is not None:
                on_checkpoint(model, progress)
    return model, progress


def share_done(progress: TrainingProgress, settings: TrainSettings) -> float:
    """Share of the budget that is spent, 0 to 1 and beyond."""
    if settings.minutes is not None:
        return progress.seconds / (settings.minutes * 60)
    return progress.tokens / settings.tokens


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon over the layers' matrices and AdamW over everything else."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=VECTOR_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train_round(
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    progress: TrainingProgress,
    settings: TrainSettings,
) -> float:
    """Run one round of steps in place; returns the mean loss per answer token."""
    model.train()
    done = share_done(progress, settings)
    weights = progress.cell_weights(settings.floor, settings.hardest)
    scale = learning_rate_scale(done)
    for optimizer, rate in zip(optimizers, (MATRIX_RATE, VECTOR_RATE), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
    steps = round_of_batches(settings.seed, progress.rounds, weights, settings.shape)
    losses = [_step(model, optimizers, progress, step, settings.bfloat16) for step in steps]
    progress.rounds += 1
    return float(np.mean(losses))


@torch.no_grad()
def held_out_accuracy(model: LlamaForCausalLM, batches: list[TrainingBatch]) -> float:
    """Share of the batches' examples that the model answers exactly."""
    model.eval()
    return float(np.mean(np.concatenate([answer_loss(model, batch)[1].numpy() for batch in batches])))


def answer_loss(model: LlamaForCausalLM, batch: TrainingBatch) -> tuple[Tensor, torch.Tensor]:
    """Summed loss over the answer tokens, and whether each example is answered exactly [rows].

    Padding is on the right and attention is causal, so that no mask is needed.
    """
    labels = torch.from_numpy(batch.labels)[:, 1:]
    hidden = model.model(input_ids=torch.from_numpy(batch.ids), use_cache=False).last_hidden_state[:, :-1]
    answer = labels != IGNORE
    logits = model.lm_head(hidden[answer]).float()
    loss = functional.cross_entropy(logits, labels[answer], reduction="sum")
    wrong = torch.zeros_like(answer)
    wrong[answer] = logits.detach().argmax(-1) != labels[answer]
    return loss, ~_last_answer(wrong, answer).any(1)


def _last_answer(wrong: Tensor, answer: Tensor) -> Tensor:
    """Keep of `wrong` only each row's last run of answer tokens."""
    starts = answer & ~functional.pad(answer, (1, 0))[:, :-1]
    run = starts.cumsum(1)
    return wrong & (run == run[:, -1:])


def _step(
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    progress: TrainingProgress,
    step: list[TrainingBatch],
    bfloat16: bool,
) -> float:
    targets = sum(int((batch.labels != IGNORE).sum()) for batch in step)
    total = 0.0
    for batch in step:
        with mixed(bfloat16):
            loss, right = answer_loss(model, batch)
        (loss / targets).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
        progress.observe(batch.cells, right.numpy())
        progress.tokens += batch.ids.size
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total / targets


def _line(name: str, progress: TrainingProgress, settings: TrainSettings, loss: float, rate: float) -> str:
    done = share_done(progress, settings)
    left = progress.seconds * (1 - done) / done
    return (
        f"{name}: round {progress.rounds} {100 * done:.1f} % loss {loss:.4f} "
        f"train exact {100 * progress.accuracy.mean():.1f} % {rate:,.0f} tokens/s {left / 60:.1f} min left"
    )


_ATTENTION = "causal_float32"
"""On CPUs with bfloat16 matrix products run in it, while weights, attention and the loss stay in float32: torch's
attention has a backward pass in bfloat16 that is ten times slower. Measured on one core with AVX512-BF16: 1.75 times
the tokens per second on the large model."""


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16 (AVX512-BF16 or AMX), so that mixed precision pays."""
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def use_float32_attention(model: LlamaForCausalLM) -> None:
    """Switch `model`, in place, to causal attention that computes in float32 under autocast."""
    AttentionInterface.register(_ATTENTION, _attention)
    model.set_attn_implementation(_ATTENTION)


def mixed(enabled: bool) -> AbstractContextManager[Any]:
    """Context for one forward pass in which matrix products run in bfloat16, if enabled.

    Weights are cast afresh at each use: a cache of casts would go stale when the optimizer steps.
    """
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    if mask is not None:
        raise ValueError("training attention takes no mask: pad on the right")
    with torch.autocast("cpu", enabled=False):
        mixed_values = functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, scale=options["scaling"]
        )
    return mixed_values.transpose(1, 2).contiguous().to(query.dtype), None
