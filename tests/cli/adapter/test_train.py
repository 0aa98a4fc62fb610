"""`jethro adapter train`: from rows to a folder, its choices of what to learn from, and mistakes."""

import json

import numpy as np
import pytest

from serve_app.adapters.base_model import BaseModel
from serve_app.adapters.files import ABOUT as NOTE
from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.lab import models_dir
from serve_app.types import Message, Query

ROWS = [{"prompt": f"say {i}", "completion": f"{i % 7} it is"} for i in range(40)]
SMALL = ("--epochs", "1", "--rank", "2", "--device", "cpu")


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return file


def about(folder):
    return json.loads((folder / NOTE).read_text("utf-8"))


def test_rows_become_an_adapter_of_the_base(run, rows, tmp_path):
    out = tmp_path / "polite"
    result = run(
        *("adapter", "train", "polite", "--base", "lab:small", "--data", str(rows), "--out", str(out), *SMALL),
        *("--task", "manners", "--licence", "MIT"),
    )
    assert result.exit_code == 0, result.stderr
    found = about(out)
    assert (found["name"], found["base"], found["task"]) == ("polite", "lab:small", "manners")
    assert (found["rank"], found["licence"]) == (2, "MIT")
    assert found["base_sha256"] == BaseModel("lab:small", models_dir() / "small").sha256
    assert found["metrics"]["rows"] + found["metrics"]["held_out"] == len(ROWS)
    assert "held-out exact" in result.stdout and "epoch 1 of 1" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["polite", "rows.jsonl"], "the checkpoint is gone"
    again = run("adapter", "train", "polite", "--base", "lab:small", "--data", str(rows), "--out", str(out), *SMALL)
    assert again.exit_code == 2 and "exists already" in again.stderr


def test_a_pools_model_is_a_base(run, rows, tmp_path):
    out = tmp_path / "a"
    result = run("adapter", "train", "a", "--base", "pool:small", "--data", str(rows), "--out", str(out), *SMALL)
    assert result.exit_code == 0, result.stderr
    assert about(out)["base"] == "lab:small"


def test_recorded_answers_of_high_quality_are_learned(run, tmp_path):
    quality = np.array([[float(i % 2)] for i in range(60)])
    nothing = np.zeros((60, 1))
    texts = tuple((f"answer {i}",) for i in range(60))
    dataset = Dataset(
        queries=tuple(Query((Message("user", f"question {i}"),)) for i in range(60)),
        pools={"large": PoolAnswers("l", texts, quality, nothing, nothing, nothing)},
        groups=("",) * 60,
        ids=tuple(map(str, range(60))),
    )
    file, out = tmp_path / "answers.parquet", tmp_path / "a"
    dataset.save(file)
    result = run("adapter", "train", "a", "--base", "lab:small", "--answers", str(file), "--out", str(out), *SMALL)
    assert result.exit_code == 0, result.stderr
    assert about(out)["metrics"]["rows"] + about(out)["metrics"]["held_out"] == 30


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ((), "give one of --data FILE and --answers FILE"),
        (("--log", "x.sqlite3", "--data", "{rows}"), "--log needs --answers"),
        (("--data", "{rows}", "--targets", "w_proj"), "target 'w_proj': the model has no such layer"),
        (("--data", "{rows}", "--max-tokens", "5"), "40 of 40 rows are longer than 5 tokens"),
        (("--data", "{rows}", "--base", "pool:tiny"), "there is no such pool; the config has"),
        (("--data", "{rows}", "--base", "lab:medium"), "jethro lab build"),
        (("--data", "{rows}", "--learning-rate", "2"), "learning_rate 2.0 above 0 and below 1"),
        (("--data", "none.jsonl"), "none.jsonl: no such file"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(run, rows, tmp_path, given, fault):
    base = () if "--base" in given else ("--base", "lab:small")
    options = [one.format(rows=rows) for one in given]
    result = run("adapter", "train", "a", *base, "--out", str(tmp_path / "a"), *SMALL, *options)
    assert result.exit_code == 2
    assert fault in result.stderr
    assert not (tmp_path / "a").exists()


def test_a_lab_adapter_without_its_base_says_how_to_get_it(run, tmp_path):
    result = run("lab", "adapters", "--dir", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2 and "jethro lab build --model small" in result.stderr
    result = run("lab", "adapters", "--task", "poems", "--out", str(tmp_path / "out"))
    assert result.exit_code == 2 and "no lab adapter is named 'poems'" in result.stderr
