"""Trains the lab's models from nothing, and writes each as a Hugging Face folder with a note on its training."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from serve_app.lab.model import SIZES, build_tokenizer
from serve_app.lab.train import TrainingProgress, TrainSettings, has_compiler, train
from serve_app.precision import has_bfloat16

NOTE = "training.json"
"""File in the model's folder that says how it was trained."""


def export(model: LlamaForCausalLM, folder: Path, seed: int, progress: TrainingProgress) -> None:
    """Write weights, configs, tokenizer and training note to `folder`, replacing it whole.

    A reader sees the old folder or the new one, but for the moment between two renames.
    """
    fresh = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    model.config.save_pretrained(fresh)
    model.generation_config.save_pretrained(fresh)
    tied = "lm_head.weight"
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name != tied}
    save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
    (fresh / "model.safetensors").chmod(0o644)  # save_file makes it readable by its owner only
    build_tokenizer().save_pretrained(fresh)
    note = {
        "seed": seed,
        "parameters": model.num_parameters(),
        "rounds": progress.rounds,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds),
    }
    (fresh / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


WIDE_FROM_HIDDEN = 64
"""Width below which mixed precision costs more in conversions than it saves in products, and compiling takes longer
than it saves."""

CHECKPOINTS = ".checkpoints"
"""Folder under the output that holds the state of each run."""


def build(
    out_dir: Path,
    seed: int,
    models: Sequence[str] = ("small", "large"),
    resume: bool = True,
    minutes: float | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Train the named models into `out_dir`/{name}, one after the other, on one thread each.

    `minutes` bounds the training of each model by time; without it the budget is the size's number of tokens, and the
    same seed gives the same model. With `resume` an interrupted run continues from its last checkpoint. The folder is
    refreshed at each checkpoint. Raises ValueError for an unknown model name or a checkpoint of another seed.
    """
    unknown = sorted(set(models) - set(SIZES))
    if unknown:
        raise ValueError(f"no lab model is named {unknown[0]!r}: there are {', '.join(SIZES)}")
    torch.set_num_threads(1)
    for name in models:
        work = out_dir / CHECKPOINTS / name
        if not resume:
            shutil.rmtree(work, ignore_errors=True)
        size = SIZES[name]
        wide = size.hidden >= WIDE_FROM_HIDDEN
        settings = TrainSettings(
            *(seed, size.train_tokens, minutes),
            hardest=size.hardest,
            tasks=size.tasks,
            bfloat16=wide and has_bfloat16(),
            compiled=wide and has_compiler(),
        )

        def refresh(model: LlamaForCausalLM, progress: TrainingProgress, name: str = name) -> None:
            export(model, out_dir / name, seed, progress)

        model, progress = train(SIZES[name], settings, work, report, refresh)
        refresh(model, progress)
        report(f"{name}: written to {out_dir / name}")


if __name__ == "__main__":
    build(Path(sys.argv[1]), int(sys.argv[2]), models=(sys.argv[3],), minutes=float(sys.argv[4]))
