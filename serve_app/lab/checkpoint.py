"""Checkpoints of a lab training run: weights, optimizer states and counters in one file.

Loaded with `weights_only=True`, so a checkpoint can hold no code.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from serve_app.lab.progress import Progress

FILE = "checkpoint.pt"


def save_checkpoint(
    folder: Path,
    seed: int,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    progress: Progress,
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
    part = folder / f"{FILE}.part"
    torch.save(state, part)
    os.replace(part, folder / FILE)


def load_checkpoint(
    folder: Path,
    seed: int,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    progress: Progress,
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
