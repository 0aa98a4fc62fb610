"""LoRA layers in a model, by PEFT, and the folder of an adapter (Hu et al. 2021, arXiv 2106.09685).

A folder holds PEFT's `adapter_config.json` and `adapter_model.safetensors`, and `jethro_adapter.json`: what it was
trained on and for, and the hash of the base model's weights, since an adapter is right for one version of one model
alone. Weights are in safetensors, which hold no code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve_app.adapters.card import AdapterAbout
from serve_app.adapters.files import ABOUT, CONFIG, WEIGHTS
from serve_app.errors import ConfigError, needs_extra
from serve_app.files import sync_folder, write_whole


@dataclass(frozen=True, slots=True)
class LoraShape:
    """`rank` of the update of each matrix, which is scaled by `alpha` / `rank`; `alpha` None: twice the rank.

    `targets`: names of the layers that get an update; none: all linear projections of attention and MLP.
    """

    rank: int = 16
    alpha: int | None = None
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or (self.alpha is not None and self.alpha < 1):
            raise ConfigError(f"rank {self.rank} and alpha {self.alpha} must be 1 or more")


def add_lora(model: Any, shape: LoraShape, seed: int) -> Any:
    """A PEFT model around `model`, which is changed in place: LoRA layers are added, everything else is frozen.

    The new layers change nothing until they are trained: of the two matrices of each, the second begins at zero.
    Raises ConfigError for a target that the model does not have.
    """
    with needs_extra("LoRA needs peft", "train"):
        import peft
    import torch

    present = linear_layers(model)
    unknown = sorted(set(shape.targets) - present)
    if unknown:
        raise ConfigError(f"target {unknown[0]!r}: the model has no such layer; it has {', '.join(sorted(present))}")
    config = peft.LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha or 2 * shape.rank,
        target_modules=sorted(shape.targets or present),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def linear_layers(model: Any) -> set[str]:
    """Last names of a model's linear layers, without the one that gives logits."""
    import torch

    head = model.get_output_embeddings()
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def trained_parameters(model: Any) -> dict[str, Any]:
    """The parameters that require gradients, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_adapter(model: Any, folder: Path, about: AdapterAbout, half: bool = False) -> None:
    """Write the adapter of a PEFT model to `folder`, replacing it whole; `half`: weights in float16.

    A reader sees the old folder or the new one, but for the moment between two renames.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    fresh = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    kind = torch.float16 if half else torch.float32
    save_file({n: w.detach().to("cpu", kind).contiguous() for n, w in weights.items()}, fresh / WEIGHTS,
              metadata={"format": "pt"})  # fmt: skip
    (fresh / WEIGHTS).chmod(0o644)  # save_file makes it readable by its owner only
    config = model.peft_config["default"]
    settings = config.to_dict() | {"base_model_name_or_path": about.base, "inference_mode": True}
    settings["target_modules"] = sorted(config.target_modules)  # a set has no order
    _write_json(fresh / CONFIG, settings)
    dated = replace(about, created=datetime.now(UTC).isoformat(timespec="seconds"))
    _write_json(fresh / ABOUT, {key: value for key, value in dated.to_json(config.r).items() if value is not None})
    sync_folder(fresh)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    plain = {key: entry.value if hasattr(entry, "value") else entry for key, entry in value.items()}
    write_whole(path, (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode())
