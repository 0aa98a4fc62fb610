"""Building writes loadable folders, resumes from checkpoints, and refuses unknown names."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from serve_app.lab.batches import RoundShape
from serve_app.lab.build import CHECKPOINTS, build, export
from serve_app.lab.model import SIZES, ModelSize, new_model
from serve_app.lab.train import TrainingProgress, TrainSettings

MICRO = ModelSize("micro", hidden=32, layers=1, intermediate=32, train_tokens=1)


SHORT = partial(TrainSettings, shape=RoundShape(examples=384), held_out=65)
"""A round and an evaluation of a few queries only."""


def test_build_writes_a_model_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", MICRO)
    monkeypatch.setattr("serve_app.lab.build.TrainSettings", SHORT)
    lines: list[str] = []
    build(tmp_path, seed=1, models=("micro",), report=lines.append)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "micro")
    note = json.loads((tmp_path / "micro" / "training.json").read_text())
    assert note["parameters"] == model.num_parameters() and note["rounds"] == 1
    assert (tmp_path / CHECKPOINTS / "micro").is_dir()
    assert lines[-1].startswith("micro: written to")

    lines.clear()
    build(tmp_path, seed=1, models=("micro",), report=lines.append)
    assert len(lines) == 1
    build(tmp_path, seed=2, models=("micro",), report=lines.append, resume=False)
    assert json.loads((tmp_path / "micro" / "training.json").read_text())["seed"] == 2


def test_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'huge'.*tiny, small, large"):
        build(tmp_path, seed=1, models=("small", "huge"))


def test_export_replaces_the_folder_whole(tmp_path: Path) -> None:
    folder = tmp_path / "micro"
    folder.mkdir()
    (folder / "stale.txt").write_text("old")
    export(new_model(MICRO, 0), folder, 0, TrainingProgress())
    assert not (folder / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["micro"]
