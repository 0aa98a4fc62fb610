"""`jethro ensemble fuse` and `train-fuser`: from answers to a fuser to fused answers; a pool's model; a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.cli.ensemble import fusing as module
from serve_app.data.dataset import Dataset
from serve_app.ensemble.fusing.gen_fuser import GenFuser
from serve_app.ensemble.ranking import pair_ranker
from tests.cli.conftest import Run
from tests.cli.model_doubles import STRONG, ModelDoubles, answering, config, write_config
from tests.data.samples import sums
from tests.data.test_mixinstruct import rows as mixinstruct_rows
from tests.data.test_mixinstruct import saved
from tests.ensemble.fusing.fusers import copies


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def training_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"source": row.source, "candidates": list(row.candidates), "reference": row.reference} for row in copies(count)
    ]


SMALL = ("--size", "32x1", "--top", "2", "--learning-rate", "0.005")


def test_a_fuser_is_trained_and_fuses(run: Run, tmp_path: Path) -> None:
    data, out = written(tmp_path / "rows.jsonl", training_rows(800)), tmp_path / "fuser"
    result = run("ensemble", "train-fuser", "--data", data, *SMALL, "--epochs", "14", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "epoch 14 of 14" in result.stderr and "do not fit, or have no two different" in result.stderr
    assert GenFuser.load(out).version in result.stdout and not (tmp_path / "fuser.training").exists()
    assert run("ensemble", "train-fuser", "--data", data, "--out", str(out)).exit_code == 2, "nothing is overwritten"
    rows = [{"id": 7, "source": r["source"], "candidates": [{"text": c} for c in r["candidates"]], "scores": [0, 1]}
            for r in training_rows(60)]  # fmt: skip
    fused = tmp_path / "fused.jsonl"
    result = run("ensemble", "fuse", written(tmp_path / "c.jsonl", rows), "--fuser", str(out), "--out", str(fused))
    assert result.exit_code == 0, result.output
    found = read(fused)
    assert [{k: f[k] for k in row} for f, row in zip(found, rows, strict=True)] == rows, "all else stays"
    second = [f["fused"] == f["candidates"][1]["text"] for f in found if f["used"]]
    assert sum(second) > 30, "the answer is the one that the scores put first, chance is 4"
    assert {tuple(f["used"]) for f in found} <= {(1, 0), ()}, "positions are those of the file"
    assert f"{len(second)} of 60 rows fused" in result.stdout


@pytest.mark.parametrize("kind", ["recorded", "mixinstruct"])
def test_recorded_answers_and_mixinstruct_teach_a_fuser(run: Run, tmp_path: Path, kind: str) -> None:
    if kind == "mixinstruct":
        rows = mixinstruct_rows() + [{**mixinstruct_rows()[0], "id": f"x/{i}"} for i in range(8)]
        data = str(saved(tmp_path / "mix.json", rows))
    else:
        found = sums(40, seed=1)
        for pool, text in (("small", "1"), ("large", "2")):
            object.__setattr__(found.pools[pool], "texts", ((text,),) * 40)
        object.__setattr__(found, "references", ("2",) * 40)
        object.__setattr__(found, "splits", ("train",) * 30 + ("test",) * 10)
        found.save(tmp_path / "a.parquet")
        data = str(tmp_path / "a.parquet")
    out = str(tmp_path / "f")
    split = ("--split", "train") if kind == "recorded" else ()
    result = run(
        "ensemble", "train-fuser", "--data", data, *SMALL, "--epochs", "1", "--draws", "2", *split, "--out", out
    )
    assert result.exit_code == 0, result.output
    assert GenFuser.load(Path(out)).form.top == 2
    if kind == "recorded":
        wrong = run("ensemble", "train-fuser", "--data", data, "--split", "dev", "--out", str(tmp_path / "g"))
        assert wrong.exit_code == 2 and "it has test, train" in wrong.stderr
        queries = {q.text for q in Dataset.load(Path(data)).queries}
        assert len(queries) > 10


def test_a_pools_model_fuses_by_prompt(run: Run, tmp_path: Path) -> None:
    rows = [
        {"source": "say hello", "candidates": ["hi", "hey", "hello"]},
        {"messages": [{"role": "user", "content": "greet"}], "candidates": ["hi", "hey"]},
        {"source": "same", "candidates": ["hi", "hi"]},
    ]
    data, out = written(tmp_path / "c.jsonl", rows), tmp_path / "fused.jsonl"
    with answering(ModelDoubles()) as doubles:
        path = write_config(tmp_path / "my.yaml", config(doubles, tmp_path / "routers"))
        given = ("ensemble", "fuse", data, "--config", path, "--out", str(out))
        result = run(*given, "--pool", "large")
        assert result.exit_code == 0, result.output
        assert [(f["fused"], f["used"]) for f in read(out)] == [("Hello.", [0, 1, 2]), ("Hello.", [0, 1]), ("hi", [])]
        assert doubles.calls == [STRONG] * 2
        assert "2 of 3 rows fused" in result.stdout and "1 are the best candidate: there are no two" in result.stdout
        assert "no pool 'huge'" in run(*given, "--pool", "huge").stderr
    for wrong in ((), ("--pool", "large", "--fuser", "x")):
        result = run(*given, *wrong)
        assert result.exit_code == 2 and "give one of --fuser" in result.stderr


def test_calls_that_fail_leave_the_best_candidate(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = written(tmp_path / "c.jsonl", [{"source": "s", "candidates": ["a", "b"]}] * 2), tmp_path / "f.jsonl"
    with answering(ModelDoubles()) as doubles:
        tree = config(doubles, tmp_path / "routers")
        tree["pools"]["large"]["model"] = "gone"
        path = write_config(tmp_path / "my.yaml", tree)
        result = run("ensemble", "fuse", data, "--config", path, "--pool", "large", "--out", str(out))
    assert result.exit_code == 2 and not out.exists(), "every call failed: that is an error"


class ByLetter:
    """A ranker that likes later letters."""

    version = "pairranker-letters"

    def scores(self, source: str, candidates: list[str]) -> np.ndarray:
        return np.array([float(ord(text[0])) for text in candidates])


def test_a_ranker_puts_the_candidates_in_order(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []
    monkeypatch.setattr(pair_ranker, "load_ranker", lambda folder: folders.append(folder) or ByLetter())
    rows = [{"source": "greet", "candidates": ["a", "c", "b", "d"], "reference": "d"}] * 2
    data, out = written(tmp_path / "c.jsonl", rows), tmp_path / "fused.jsonl"
    with answering(ModelDoubles()) as doubles:
        path = write_config(tmp_path / "my.yaml", config(doubles, tmp_path / "routers"))
        given = ("--config", path, "--pool", "large", "--top", "2", "--ranker", "r", "--out", str(out))
        assert run("ensemble", "fuse", data, *given).exit_code == 0
    assert [row["used"] for row in read(out)] == [[3, 1]] * 2 and folders == [Path("r")]
    assert [row.candidates for row in module._training_rows(Path(data), (2, 1, 0), None, Path("r"))] == [
        ("d", "c", "b", "a")
    ] * 2


def test_wrong_files_are_named(run: Run, tmp_path: Path) -> None:
    out = str(tmp_path / "f.jsonl")
    empty = written(tmp_path / "e.jsonl", [])
    assert "there is no row" in run("ensemble", "fuse", empty, "--fuser", "x", "--out", out).stderr
    bad = written(tmp_path / "b.jsonl", [{"source": "s"}])
    assert "line 1: candidates must be" in run("ensemble", "fuse", bad, "--fuser", "x", "--out", out).stderr
    good = written(tmp_path / "g.jsonl", training_rows(3))
    missing = run("ensemble", "fuse", good, "--fuser", str(tmp_path / "none"), "--out", out)
    assert missing.exit_code == 2 and "no seq2seq model" in missing.stderr
    assert "write width x layers" in run("ensemble", "train-fuser", "--data", good, "--size", "64", "--out", out).stderr


def test_a_killed_training_resumes(tmp_path: Path) -> None:
    data, out = written(tmp_path / "rows.jsonl", training_rows(300)), tmp_path / "fuser"
    command = [sys.executable, "-m", "serve_app.cli.main", "ensemble", "train-fuser", "--data", data, *SMALL]
    command += ["--epochs", "8", "--out", str(out)]
    root = str(Path(module.__file__).parents[3])
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "fuser.training").glob("*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not out.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == 0, done.stderr
    assert "resumes after epoch" in done.stderr and "epoch 1 of 8" not in done.stderr
    assert GenFuser.load(out).version.startswith("genfuser-")
