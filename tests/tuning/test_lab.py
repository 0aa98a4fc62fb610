"""The lab's task adapters: how they are built, and that what ships is what it says."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from serve_app.adapters.base_model import BaseModel
from serve_app.adapters.files import ABOUT as NOTE
from serve_app.adapters.files import CONFIG, WEIGHTS
from serve_app.lab import adapters_dir, models_dir
from serve_app.lab.batches import RoundShape
from serve_app.lab.evaluate import greedy_answer, load_model
from serve_app.lab.sample import sample
from serve_app.lab.tasks import TASKS
from serve_app.lab.train import TrainSettings
from serve_app.tuning import lab

SHIPPED = sorted(path.parent.name for path in adapters_dir().glob(f"*/{NOTE}"))
TOKENS = 60_000
BUDGET = lab.LabTuning(3, TOKENS)


@pytest.fixture
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(*args: Any, **named: Any) -> TrainSettings:
        shape = RoundShape(examples=384, rows=32, parts=3)
        return TrainSettings(*args, **{**named, "shape": shape, "held_out": 64, "checkpoint_s": 0.0})

    monkeypatch.setattr(lab, "TrainSettings", settings)
    monkeypatch.setattr(lab, "_HELD_OUT", 64)


@pytest.mark.usefixtures("small_rounds")
def test_an_adapter_is_built_and_an_interrupted_run_resumes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    lab.build_adapters(models_dir(), tmp_path / "whole", BUDGET, ["reverse"], said.append)
    about = json.loads((tmp_path / "whole" / "reverse" / NOTE).read_text())
    assert (
        about["base"] == "lab:small" and about["base_sha256"] == BaseModel("lab:small", models_dir() / "small").sha256
    )
    assert about["metrics"]["tokens"] >= TOKENS and about["task"] == "reverse"
    losses = [float(line.split("loss ")[1].split()[0]) for line in said if "loss" in line]
    assert losses[-1] < losses[0]
    save, calls = lab.save_adapter, 0

    def die(*args: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        save(*args, **named)
        if calls == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lab, "save_adapter", die)
        with pytest.raises(KeyboardInterrupt):
            lab.build_adapters(models_dir(), tmp_path / "cut", BUDGET, ["reverse"], said.append)
    said.clear()
    lab.build_adapters(models_dir(), tmp_path / "cut", BUDGET, ["reverse"], said.append)
    assert "round 3 " in said[0]
    whole, cut = (load_file(tmp_path / name / "reverse" / WEIGHTS) for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_what_cannot_be_built_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no lab adapter is named 'poems': there are reverse"):
        lab.build_adapters(models_dir(), tmp_path, BUDGET, ["poems"])
    with pytest.raises(FileNotFoundError, match="jethro lab build --model small"):
        lab.build_adapters(tmp_path, tmp_path, BUDGET, ["reverse"])


def test_three_or_more_adapters_ship_and_are_small() -> None:
    assert len(SHIPPED) >= 3 and set(SHIPPED) == set(lab.ADAPTERS)
    files = [path for path in adapters_dir().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    assert {path.name for path in files if path.parent != adapters_dir()} == {NOTE, CONFIG, WEIGHTS}


@pytest.mark.parametrize("task", SHIPPED)
def test_what_ships_is_bound_to_the_small_model_that_ships(task: str) -> None:
    about = json.loads((adapters_dir() / task / NOTE).read_text())
    assert about["base_sha256"] == BaseModel("lab:small", models_dir() / "small").sha256
    assert (about["name"], about["task"], about["rank"]) == (task, task, lab.ADAPTERS[task].rank)
    assert lab.ADAPTERS[task].rank <= 64


@pytest.mark.slow
@pytest.mark.parametrize("task", SHIPPED)
def test_an_adapter_raises_the_small_model_on_its_task(task: str) -> None:
    items = sample(240, 7, "unseen", (task,))
    model, tokenizer = load_model(models_dir() / "small")

    def share() -> float:
        answers = greedy_answer(model, tokenizer)([item.prompt for item in items])
        grades = [TASKS[task].grade(item, text) for item, text in zip(items, answers, strict=True)]
        return sum(grades) / len(grades)

    before = share()
    peft.PeftModel.from_pretrained(model, adapters_dir() / task).eval()  # the layers are put into `model`
    after = share()
    assert after >= min(before + 0.2, 0.95) - 0.03, (before, after)  # 240 queries: a standard error of 2 points


def test_a_sample_of_some_tasks_is_balanced_and_of_these_alone() -> None:
    items = sample(100, 1, "unseen", ("reverse",))
    counts = {size: sum(item.size == size for item in items) for size in TASKS["reverse"].sizes}
    assert {item.task for item in items} == {"reverse"} and set(counts.values()) == {10}
    with pytest.raises(ValueError, match="tasks are poems: they must be of add"):
        sample(1, 1, "unseen", ("poems",))
