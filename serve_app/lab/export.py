"""Writes a lab model as an ordinary Hugging Face folder, with a note of how it was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from serve_app.lab.progress import Progress
from serve_app.lab.tokenizer import build_tokenizer

NOTE = "training.json"
"""File in the model's folder that says how it was trained."""


def export(model: LlamaForCausalLM, folder: Path, seed: int, progress: Progress) -> None:
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
