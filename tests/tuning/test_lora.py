"""LoRA layers and an adapter's folder: PEFT reads what is written, and a fresh adapter changes nothing."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors import safe_open

from serve_app.adapters.card import AdapterAbout, read_card
from serve_app.adapters.files import ABOUT, CONFIG, WEIGHTS
from serve_app.errors import ConfigError
from serve_app.tuning.bases import load_base
from serve_app.tuning.lora import (
    LoraShape,
    add_lora,
    linear_layers,
    save_adapter,
    trained_parameters,
)

ALL = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
GREEK = AdapterAbout(
    *("greek", "lab:small", "0" * 64, "translate", "Apache-2.0", {"held_out_loss": 0.5}), data_sha256="1" * 64
)
IDS = torch.arange(8, 40)[None]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
        return found


def test_a_fresh_adapter_changes_nothing_and_only_its_weights_are_trained(random_model: Path) -> None:
    base = load_base(str(random_model), device="cpu").model
    before, state = logits(base), torch.random.get_rng_state()
    assert linear_layers(base) == ALL
    model = add_lora(base, LoraShape(4), seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(logits(model), before)
    trained = trained_parameters(model)
    assert all("lora_" in name for name in trained)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == ALL
    again = trained_parameters(add_lora(load_base(str(random_model), device="cpu").model, LoraShape(4), seed=1))
    assert all(torch.equal(p, again[name]) for name, p in trained.items())


def test_targets_are_chosen_and_checked(random_model: Path) -> None:
    model = add_lora(load_base(str(random_model), device="cpu").model, LoraShape(2, targets=("v_proj",)), seed=0)
    assert all(".v_proj." in name for name in trained_parameters(model))
    with pytest.raises(ConfigError, match=r"target 'w_proj': the model has no such layer; it has down_proj"):
        add_lora(load_base(str(random_model), device="cpu").model, LoraShape(2, targets=("w_proj",)), seed=0)
    with pytest.raises(ConfigError, match="rank 0"):
        LoraShape(0)


@pytest.mark.parametrize("half", [False, True])
def test_peft_loads_the_folder_with_the_same_answers(half: bool, random_model: Path, tmp_path: Path) -> None:
    model = add_lora(load_base(str(random_model), device="cpu").model, LoraShape(4), seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path / "greek"
    for _ in range(2):  # the second replaces the first
        save_adapter(model, folder, GREEK, half)
    assert sorted(path.name for path in folder.iterdir()) == sorted([CONFIG, ABOUT, WEIGHTS])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["greek"]
    about = json.loads((folder / ABOUT).read_text())
    created = about.pop("created")
    written = {key: value for key, value in GREEK.to_json(4).items() if value is not None}
    assert created.startswith("20") and about == written and read_card(folder).about.data_sha256 == "1" * 64
    config = json.loads((folder / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], set(config["target_modules"])) == (4, 8, ALL)
    with safe_open(folder / WEIGHTS, "pt") as weights:
        kinds = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118
    assert kinds == {torch.float16 if half else torch.float32}
    loaded = peft.PeftModel.from_pretrained(load_base(str(random_model), device="cpu").model, folder).eval()
    plain = logits(load_base(str(random_model), device="cpu").model)
    assert torch.allclose(logits(loaded), logits(model), atol=1e-2 if half else 1e-6)
    assert float((logits(model) - plain).abs().max()) > 0.1
