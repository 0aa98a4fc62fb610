"""One real vLLM engine for all tests that want one: half a minute to start, so it is started once."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from serve_app.config.engines import VllmSettings as Settings
from serve_app.lab import models_dir
from serve_app.lab.model import SIZES, build_tokenizer, new_model

MODEL = "jlab-small"
ADAPTER = "loud"
MAX_RUNNING = 32
MAX_WAITING = 8


def model_folder(folder: Path) -> Path:
    """The lab's small model; where its weights are not built yet, one of the same shape with random weights."""
    built = models_dir() / "small"
    if (built / "model.safetensors").is_file():
        return built
    new_model(SIZES["small"], seed=3).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def adapter_folder(folder: Path, model: Path) -> Path:
    """A LoRA adapter in PEFT's format, strong enough to change any greedy answer."""
    rank = 4
    torch.manual_seed(5)
    folder.mkdir()
    tensors = {}
    for name, weight in AutoModelForCausalLM.from_pretrained(model).state_dict().items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            base = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{base}.lora_A.weight"] = torch.randn(rank, weight.shape[1])
            tensors[f"{base}.lora_B.weight"] = torch.randn(weight.shape[0], rank)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def settings(folder: Path) -> Settings:
    model = model_folder(folder / "model")
    return Settings(
        path=str(model),
        cpu_kv_cache_gib=1,
        tool_parser="hermes",
        adapters={ADAPTER: str(adapter_folder(folder / "adapter", model))},
        max_waiting=MAX_WAITING,
        # A model that never saw JSON writes blanks for ever where the grammar lets it.
        args={
            "max_num_seqs": MAX_RUNNING,
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        },
    )
