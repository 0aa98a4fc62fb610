"""The benchmark of AutoMix, on answers made up for it."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import automix

MODELS = tuple(dict.fromkeys(name for pair in automix.PAIRS for name in pair))
SMALL = {pair[0] for pair in automix.PAIRS}


def _write(path: Path, *, knows: bool, n: int = 160) -> None:
    """A small model's confidence, one of nine, shows whether it is right, or is a draw of its own."""
    rng = np.random.default_rng(0)
    with gzip.open(path, "wt") as out:
        for i in range(n):
            models = {}
            for name in MODELS:
                p = float(rng.choice(np.linspace(0.05, 0.95, 9)))
                right = rng.random() < (p if knows else 0.5) if name in SMALL else rng.random() < 0.95
                cost = 1e-5 if name in SMALL else 1e-4
                models[name] = {"ok": int(right), "conf": float(np.log(p)), "cost": cost, "ans": "x"}
            row = {"i": i, "split": "train" if i % 2 else "test", "prompt": f"query {i}", "m": models}
            out.write(json.dumps(row) + "\n")


@pytest.fixture
def data(tmp_path, monkeypatch):
    _write(tmp_path / automix.SETS["TriviaQA"], knows=True)
    _write(tmp_path / automix.SETS["MMLU"], knows=False)
    monkeypatch.setattr(automix, "_ROUNDS", 20)
    monkeypatch.setattr(automix, "DRAWS", 2)
    return tmp_path


@pytest.mark.slow
def test_who_knows_itself_is_lifted_and_who_does_not_is_not(data, tmp_path):
    assert automix.main(["--data", str(data), "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "automix.json").read_text())["rows"]
    assert len(rows) == len(automix.SETS) * len(automix.PAIRS)
    for decider in automix.DECIDERS:
        lifts = {s: np.mean([r[decider]["lift"] for r in rows if r["set"] == s]) for s in automix.SETS}
        assert lifts["TriviaQA"] > 20 > lifts["MMLU"]
    table = (tmp_path / "out" / "automix.md").read_text()
    assert "pomdp, 50 labels" in table and str(data) not in table
    assert "recorded confidence" in table.splitlines()[0] and "cost of that confidence was not recorded" in table
    assert (tmp_path / "out" / "automix.png").stat().st_size > 1000


def test_nothing_escalated_has_no_lift():
    n = 40
    labelled = automix.LabelledQueries(np.full(n, 0.5), np.ones(n), np.ones(n), np.full(n, 1.0), np.full(n, 2.0))
    assert automix.mean_lift(labelled, [np.zeros(n, dtype=bool)]) == 0.0
