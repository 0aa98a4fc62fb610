"""Keeps a fine-tuning run after every epoch, so that one that is killed goes on where it was, with the same result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FORMAT = 1
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""


@dataclass(slots=True)
class Course:
    """How far a run has come: epochs done, the least loss on what is held back, its weights, and epochs since then."""

    epochs: int = 0
    best_loss: float = float("inf")
    waited: int = 0
    best: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file in a folder; `key` names the data and the recipe, and another run's file is passed over."""

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "finetune.safetensors"

    def write(self, course: Course, parameters: Mapping[str, Any], optimizer: Any) -> None:
        """Replace the file as a whole."""
        from safetensors.torch import save_file

        tensors = {f"now.{name}": p.detach() for name, p in parameters.items()}
        tensors |= {f"best.{name}": p for name, p in course.best.items()}
        for name, parameter in parameters.items():
            state = optimizer.state[parameter]
            tensors |= {f"{moment}.{name}": state[moment] for moment in _MOMENTS}
        about = {
            "format": _FORMAT,
            "key": self.key,
            "epochs": course.epochs,
            "best_loss": course.best_loss,
            "waited": course.waited,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        save_file({n: t.contiguous() for n, t in tensors.items()}, unfinished, metadata={"course": json.dumps(about)})
        unfinished.replace(self.path)

    def resume(self, parameters: Mapping[str, Any], optimizer: Any) -> Course:
        """The course that the file holds, its weights and moments put back; a fresh one without a file of this key."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as kept:
                about = json.loads(kept.metadata()["course"])
                tensors = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return Course()  # none, or one that is not whole: the run begins anew
        if about.get("format") != _FORMAT or about.get("key") != self.key:
            return Course()
        for name, parameter in parameters.items():
            parameter.data.copy_(tensors[f"now.{name}"])
            optimizer.state[parameter] = {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS}
        best = {name.removeprefix("best."): t for name, t in tensors.items() if name.startswith("best.")}
        return Course(about["epochs"], about["best_loss"], about["waited"], best)

    def remove(self) -> None:
        """The run is through."""
        self.path.unlink(missing_ok=True)
