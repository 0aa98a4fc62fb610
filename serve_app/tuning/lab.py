"""Task adapters of the lab's small model: LoRA by the lab's own trainer, on queries of one task at every size.

`small` was never trained on sizes of difficulty 4 and 5. An adapter teaches it those of one task; all of its own
weights stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlamaForCausalLM

from serve_app.adapters.base_model import BaseModel
from serve_app.adapters.card import AdapterAbout
from serve_app.lab.batches import held_out_batches
from serve_app.lab.build import CHECKPOINTS
from serve_app.lab.train import HELD_OUT_ROWS, TrainingProgress, TrainSettings, held_out_accuracy, train_model
from serve_app.tuning.lora import LoraShape, add_lora, save_adapter

BASE: Final = "small"
BASE_ID: Final = f"lab:{BASE}"
LICENCE: Final = "Apache-2.0"
_REFUSAL: Final = "other"
"""The task of queries that no lab model answers: an adapter keeps on saying so."""
_HELD_OUT: Final = 600
"""Unseen queries of a task that are answered before and after."""


@dataclass(frozen=True, slots=True)
class LabAdapter:
    """How the adapter of a task is trained: `rank`, and `tokens` of budget."""

    rank: int = 16
    tokens: int = 3_000_000
    rate: float = 4e-3


ADAPTERS: Final[Mapping[str, LabAdapter]] = {
    "reverse": LabAdapter(),
    "roman": LabAdapter(),
    "sort": LabAdapter(),
    "units": LabAdapter(),
}
"""The task adapters, by task."""


@dataclass(frozen=True, slots=True)
class LabTuning:
    """`seed` of first weights and queries; `tokens`: a budget in place of each adapter's own.

    With `resume` an interrupted run continues from its last checkpoint.
    """

    seed: int = 0
    tokens: int | None = None
    resume: bool = True


def build_adapters(
    models_dir: Path,
    out_dir: Path,
    tuning: LabTuning,
    tasks: Sequence[str] = tuple(ADAPTERS),
    report: Callable[[str], None] = print,
) -> None:
    """Train the adapters of these tasks into `out_dir`/{task}, one after the other, on one thread each.

    The same seed gives the same adapters on the same kind of CPU. Raises ValueError for a task without adapter or a
    checkpoint of another seed, FileNotFoundError for a missing base.
    """
    unknown = sorted(set(tasks) - set(ADAPTERS))
    if unknown:
        raise ValueError(f"no lab adapter is named {unknown[0]!r}: there are {', '.join(ADAPTERS)}")
    base = models_dir / BASE
    if not (base / "config.json").exists():
        raise FileNotFoundError(f"{base} holds no model: build it with `jethro lab build --model {BASE}`")
    torch.set_num_threads(1)
    for task in tasks:
        if not tuning.resume:
            shutil.rmtree(out_dir / CHECKPOINTS / task, ignore_errors=True)
        _build(task, base, out_dir, tuning, report)


def _build(task: str, base: Path, out_dir: Path, tuning: LabTuning, report: Callable[[str], None]) -> None:
    plan, out, seed = ADAPTERS[task], out_dir / task, tuning.seed
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = add_lora(model, LoraShape(plan.rank), seed)
    settings = TrainSettings(
        seed,
        tuning.tokens or plan.tokens,
        held_out=_HELD_OUT,
        tasks=(task, _REFUSAL),
        foreign=0.0,
        matrix_rate=plan.rate,
    )
    unseen = held_out_batches(seed + 1, _HELD_OUT, HELD_OUT_ROWS, (task,), foreign=False)
    with wrapped.disable_adapter():
        before = held_out_accuracy(model, unseen)
    data = hashlib.sha256(json.dumps([task, seed, settings.tokens, asdict(plan)]).encode()).hexdigest()
    weights = BaseModel(BASE_ID, base).sha256

    def refresh(_: LlamaForCausalLM, progress: TrainingProgress) -> None:
        metrics: dict[str, Any] = {"exact_unseen_before": round(before, 4), "unseen": _HELD_OUT}
        metrics["exact_unseen"] = round(held_out_accuracy(model, unseen), 4)
        metrics |= {"tokens": progress.tokens, "seconds": round(progress.seconds), "seed": seed}
        save_adapter(wrapped, out, AdapterAbout(task, BASE_ID, weights, task, LICENCE, metrics, data_sha256=data))
        report(f"{task}: unseen exact {100 * before:.1f} % without, {100 * metrics['exact_unseen']:.1f} % with it")

    progress = train_model(model, task, settings, out_dir / CHECKPOINTS / task, report, refresh)
    if not out.exists():  # the run had ended before its folder was written
        refresh(model, progress)
    report(f"{task}: written to {out}")
