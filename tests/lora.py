"""LoRA adapters in PEFT's format for tests: random ones, strong enough to change any greedy answer."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from serve_app.adapters.base_model import BaseModel, known_base
from serve_app.config.adapters import AdaptersConfig

TARGETS = ("q_proj", "v_proj")


def registry_settings(folder: Path, **options: object) -> AdaptersConfig:
    return AdaptersConfig.model_validate({"registry": str(folder / "registry"), "reload_s": 0.05, **options})


def base_of(model: Path | str) -> BaseModel:
    return known_base(str(model))


def save_adapter(
    folder: Path,
    model: Path,
    *,
    name: str | None = None,
    seed: int = 0,
    rank: int = 4,
    targets: tuple[str, ...] = TARGETS,
    strength: float = 1.0,
    config: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
) -> Path:
    """An adapter of the model in a folder; with a `name` bound to it by jethro_adapter.json."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for file in sorted(Path(model).glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - no mapping
                module = key.removesuffix(".weight")
                if module.endswith(targets):
                    outputs, inputs = weights.get_slice(key).get_shape()
                    down = torch.randn(rank, inputs, generator=generator) / inputs**0.5
                    up = torch.randn(outputs, rank, generator=generator) * strength
                    tensors[f"base_model.model.{module}.lora_A.weight"] = down
                    tensors[f"base_model.model.{module}.lora_B.weight"] = up
    assert tensors
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(targets),
        "bias": "none",
        "base_model_name_or_path": str(model),
        **(config or {}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    if name is not None:
        described = {"name": name, "base": str(model), "base_sha256": base_of(model).sha256, "rank": rank}
        (folder / "jethro_adapter.json").write_text(json.dumps({**described, **(about or {})}))
    return folder
