"""Training of one lab model: loss on answers only, Muon for matrices, mixed precision, resumable to the step.

Muon is Jordan et al. 2024 as torch ships it, scaled to AdamW's step size (Liu et al. 2025); embeddings and norms take
AdamW. Exactness during training is teacher-forced: all answer tokens are the most likely ones, which is the same as a
right greedy answer. With mixed precision, matrix products run in bfloat16 while weights, attention and the loss stay in
float32: torch's attention on CPU has a backward pass in bfloat16 that is ten times slower than the one in float32.
Measured on one core with AVX512-BF16: 1.75 times the tokens per second on the large model, and 1.8 times those
where torch can compile it.
"""

import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, LlamaForCausalLM, PreTrainedModel

from serve_app.files import replacing
from serve_app.lab.batches import IGNORE, Lesson, RoundShape, TrainingBatch, held_out_batches, round_of_batches
from serve_app.lab.model import ModelSize, new_model
from serve_app.lab.tasks import CELLS, LEVELS, TASKS
from serve_app.precision import mixed

FILE = "checkpoint.pt"
MATRIX_RATE = 4e-3
VECTOR_RATE = 4e-3
"""Peak learning rates of Muon and of AdamW by default."""
HELD_OUT_ROWS = 64
"""Unseen queries per batch."""
WEIGHT_DECAY = 0.02
CLIP_NORM = 1.0
SMOOTHING = 0.98
"""Weight of the past in the running accuracy of a cell, per example seen."""
WARM_UP = 0.02
"""Share of the budget in which the learning rate rises to its peak."""
FOREIGN = 0.3
"""Weight of a cell that a specialist does not know, against one that it does."""
PLAIN_UNTIL = 0.8
"""Share of the budget from which on no plain forms are drawn."""
OPENS_AT = 0.7
HELD_BACK = 0.1
"""Accuracy of a size at which the next one is drawn in full, and the least factor before."""
_ATTENTION = "causal_float32"


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """From one share of the budget to another, other tasks have but `others` of their weight."""

    since: float
    until: float
    tasks: tuple[str, ...]
    others: float


STAGES = (
    TrainingStage(0.0, 0.15, ("lookup", "sort", "largest"), 0.03),
    TrainingStage(0.74, 0.80, ("lookup", "count"), 0.3),
)
"""Tasks that need attention by content. In a mixture of all from the start, sort and largest were not learned in 59
million tokens. Lookup was at chance after 67 million; in a stage of its own, with questions that repeat themselves, two
values were right to 92 % after 2.7 million. From nothing, the same stage taught it nothing: it comes late. That it is
in the first one as well is how the models that ship were trained.
"""


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

    def lessons(self, done: float) -> list[Lesson]:
        """How each cell is taught: more simply the more of it is still wrong, and towards the end as it will be met."""
        left, stage = max(0.0, 1 - done / PLAIN_UNTIL), _stage_at(done)
        of_stage = stage.tasks if stage else ()
        return [
            Lesson((1.0 if task in of_stage else left) * (1 - right), 0.1 + 0.8 * (1 - right))
            for right, (task, _) in zip(self.accuracy.tolist(), CELLS, strict=True)
        ]

    def cell_weights(
        self,
        floor: float,
        hardest: int = LEVELS[-1],
        tasks: Collection[str] = TASKS,
        done: float = 1.0,
        foreign: float = FOREIGN,
    ) -> list[float]:
        """Share of each cell in the next round: its running error, never below the floor.

        A size whose smaller neighbour is not yet learned is held back, so that the time goes to what can be
        learned now (a curriculum in the sense of Bengio et al. 2009). Difficulties above `hardest` are never drawn,
        and cells of tasks outside `tasks`, which share one answer, at `foreign` of their weight. In a stage (`done` is
        the share of the budget that is spent) the other tasks have less, if it has any of `tasks`.
        """
        stage = _stage_at(done)
        chosen = set(stage.tasks) & set(tasks) if stage else set()
        weights: list[float] = []
        smaller: dict[str, float] = {}
        for accuracy, (task, size) in zip(self.accuracy.tolist(), CELLS, strict=True):
            gate = min(max(smaller.get(task, OPENS_AT) / OPENS_AT, HELD_BACK), 1.0)
            smaller[task] = accuracy
            if task not in tasks:
                weights.append(foreign * (floor + 1 - accuracy))
            else:
                weights.append(floor + gate * (1 - accuracy) if TASKS[task].sizes[size] <= hardest else 0.0)
            weights[-1] *= stage.others if stage and chosen and task not in chosen else 1.0
        return weights


def _stage_at(done: float) -> TrainingStage | None:
    return next((stage for stage in STAGES if stage.since <= done < stage.until), None)


def learning_rate_scale(done: float) -> float:
    """Factor on the peak rate at a share of the budget: linear rise, then linear fall to zero."""
    if done < WARM_UP:
        return max(done / WARM_UP, 0.02)
    return max(0.0, (1 - done) / (1 - WARM_UP))


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How one model is trained. The budget is `minutes` of training if given, else `tokens`.

    `compiled`: through torch's compiler, which needs one for C++ and a minute, and then takes half the time.
    A budget in tokens makes the run the same on every machine; one in minutes does not.
    `held_out` unseen queries are answered at each checkpoint; difficulties above `hardest` are not trained,
    and to tasks outside `tasks` the answer is that of `other`, drawn at `foreign` of the weight of others. Peak
    learning rates: `matrix_rate` is Muon's, `vector_rate` AdamW's.
    """

    seed: int
    tokens: int
    minutes: float | None = None
    shape: RoundShape = field(default_factory=RoundShape)
    held_out: int = 1300
    floor: float = 0.05
    hardest: int = LEVELS[-1]
    tasks: tuple[str, ...] = tuple(TASKS)
    foreign: float = FOREIGN
    matrix_rate: float = MATRIX_RATE
    vector_rate: float = VECTOR_RATE
    bfloat16: bool = False
    compiled: bool = False
    checkpoint_s: float = 60.0


OnCheckpoint = Callable[[LlamaForCausalLM, TrainingProgress], None]


def train(
    size: ModelSize,
    settings: TrainSettings,
    folder: Path,
    report: Callable[[str], None],
    on_checkpoint: OnCheckpoint | None = None,
) -> tuple[LlamaForCausalLM, TrainingProgress]:
    """Train from the checkpoint in `folder`, or from nothing, until the budget is spent.

    Writes checkpoints into `folder` and reports one line per round; `on_checkpoint` is called after each checkpoint.
    Raises ValueError if the checkpoint is of another seed or shape.
    """
    model = new_model(size, settings.seed)
    return model, train_model(model, size.name, settings, folder, report, on_checkpoint)


def train_model(
    model: LlamaForCausalLM,
    name: str,
    settings: TrainSettings,
    folder: Path,
    report: Callable[[str], None],
    on_checkpoint: OnCheckpoint | None = None,
) -> TrainingProgress:
    """Train those parameters of `model` that require gradients, in place; otherwise as `train`.

    `name` begins each line of progress.
    """
    run = _TrainingRun(model, settings, folder)
    saved_at = time.monotonic()
    held_out = held_out_batches(
        settings.seed, settings.held_out, HELD_OUT_ROWS, settings.tasks, foreign=settings.foreign > 0
    )
    while run.share_done < 1:
        report(f"{name}: {run.round()}")
        if time.monotonic() - saved_at > settings.checkpoint_s or run.share_done >= 1:
            run.save()
            saved_at = time.monotonic()
            report(f"{name}: unseen exact {100 * held_out_accuracy(run.model, held_out):.1f} %")
            if on_checkpoint is not None:
                on_checkpoint(run.model, run.progress)
    return run.progress


class _TrainingRun:
    """Model, optimizers and progress of one run, restored from its checkpoint if there is one.

    The checkpoint is loaded with `weights_only=True`, so that it can hold no code.
    """

    def __init__(self, model: LlamaForCausalLM, settings: TrainSettings, folder: Path) -> None:
        self._settings, self._path = settings, folder / FILE
        self.model = model
        if settings.bfloat16:
            use_float32_attention(self.model)
        if settings.compiled:
            self.model.model.compile(dynamic=True)  # one kernel for every length
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2 and p.requires_grad]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if p.requires_grad and id(p) not in chosen]
        muon = torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = [(muon, settings.matrix_rate)]
        if others:  # none where only LoRA's matrices are trained
            adamw = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)
            self._optimizers.append((adamw, settings.vector_rate))
        self.progress = TrainingProgress()
        if self._path.exists():
            self._restore()

    @property
    def share_done(self) -> float:
        """Share of the budget that is spent, 0 to 1 and beyond."""
        if self._settings.minutes is not None:
            return self.progress.seconds / (self._settings.minutes * 60)
        return self.progress.tokens / self._settings.tokens

    def save(self) -> None:
        """Write a checkpoint; a kill at any moment leaves the last whole one."""
        progress = self.progress
        self._path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "seed": self._settings.seed,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self._optimizers],
            "rounds": progress.rounds,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "accuracy": torch.from_numpy(progress.accuracy),
        }
        with replacing(self._path) as part:
            torch.save(state, part)

    def _restore(self) -> None:
        path, seed, progress = self._path, self._settings.seed, self.progress
        state = torch.load(path, weights_only=True)
        if state["seed"] != seed:
            raise ValueError(f"{path} was made with seed {state['seed']}, not {seed}: remove it or use its seed")
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(f"{path} is of another model shape: remove it to start anew") from error
        for (optimizer, _), saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        progress.rounds, progress.tokens, progress.seconds = state["rounds"], state["tokens"], state["seconds"]
        progress.accuracy = state["accuracy"].numpy().copy()

    def round(self) -> str:
        """Run one round of steps in place; returns a line on it."""
        started, before, progress, settings = time.monotonic(), self.progress.tokens, self.progress, self._settings
        self.model.train()
        weights = progress.cell_weights(
            settings.floor, settings.hardest, settings.tasks, self.share_done, settings.foreign
        )
        scale = learning_rate_scale(self.share_done)
        for optimizer, rate in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
        lessons = progress.lessons(self.share_done)
        steps = round_of_batches(settings.seed, progress.rounds, weights, settings.shape, settings.tasks, lessons)
        loss = float(np.mean([self._step(step) for step in steps]))
        progress.rounds += 1
        seconds = time.monotonic() - started
        progress.seconds += seconds
        done = self.share_done
        left = progress.seconds * (1 - done) / done
        return (
            f"round {progress.rounds} {100 * done:.1f} % loss {loss:.4f} "
            f"train exact {100 * progress.accuracy.mean():.1f} % {(progress.tokens - before) / seconds:,.0f} tokens/s "
            f"{left / 60:.1f} min left"
        )

    def _step(self, step: list[TrainingBatch]) -> float:
        """One optimizer step over several batches; returns the mean loss per answer token."""
        targets = sum(int((batch.labels != IGNORE).sum()) for batch in step)
        total = 0.0
        for batch in step:
            with mixed(self._settings.bfloat16):
                loss, right = answer_loss(self.model, batch)
            (loss / targets).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            self.progress.observe(batch.cells, right.numpy())
            self.progress.tokens += batch.ids.size
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        for optimizer, _ in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total / targets


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
    answers = labels != IGNORE
    logits = model.lm_head(hidden[answers]).float()
    loss = functional.cross_entropy(logits, labels[answers], reduction="sum")
    wrong = torch.zeros_like(answers)
    wrong[answers] = logits.detach().argmax(-1) != labels[answers]
    return loss, ~_judged_answer(wrong, answers, torch.from_numpy(batch.judged)).any(1)


def _judged_answer(wrong: Tensor, answers: Tensor, judged: Tensor) -> Tensor:
    """Keep of `wrong` only the tokens of each row's answer at the position `judged`, from 0."""
    starts = answers & ~functional.pad(answers, (1, 0))[:, :-1]
    return wrong & (starts.cumsum(1) == judged[:, None] + 1)


def has_compiler() -> bool:
    """Whether a C++ compiler is there for torch's own to call."""
    return any(shutil.which(name) for name in ("g++", "clang++"))


def use_float32_attention(model: PreTrainedModel) -> None:
    """Switch `model`, in place, to causal attention that computes in float32 under autocast."""
    AttentionInterface.register(_ATTENTION, _attention)
    model.set_attn_implementation(_ATTENTION)


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    if mask is not None:
        raise ValueError("training attention takes no mask: pad on the right")
    with torch.autocast("cpu", enabled=False):
        mixed_values = functional.scaled_dot_product_attention(
            *(query.float(), key.float(), value.float()),
            is_causal=True,
            scale=options["scaling"],
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return mixed_values.transpose(1, 2).contiguous().to(query.dtype), None
