"""The benchmark over made-up answers: its figures by hand, its report, and that an earlier run's scores are reused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.hybrid_llm import figures
from benchmarks.hybrid_llm.__main__ import arguments, main
from benchmarks.hybrid_llm.figures import pair_figures
from benchmarks.hybrid_llm.paper import PAPER
from benchmarks.hybrid_llm.report import _effect, in_order, text
from benchmarks.hybrid_llm.runs import Trained
from serve_app.data.dataset import Dataset
from tests.data.samples import answers, sums


def made_up(n: int, seed: int) -> Dataset:
    """Three models that are right on nothing hard but for the large one; tiny fails on half of the easy ones too."""
    data = sums(n, seed)
    hard = data.strong_win_rate() == 1.0
    rng = np.random.default_rng(seed)
    right = {
        "tiny": (~hard & (rng.random(n) < 0.5)).astype(float),
        "small": (~hard).astype(float),
        "large": (rng.random(n) < 0.97).astype(float),
    }
    pools = {}
    for name, grades in right.items():
        texts = tuple((("ab",) if grade else ("ax", "yx")[i % 2 :][:1]) * 2 for i, grade in enumerate(grades))
        pools[name] = replace(answers(f"jlab-{name}", grades.tolist(), samples=2), texts=texts)
    about = {"distinct": len({q.text for q in data.queries})}
    return Dataset(data.queries, pools, data.groups, about, references=("ab",) * n)


def folder(path: Path) -> Path:
    made_up(200, 1).save(path / "learn-200-2-0.parquet")
    made_up(150, 2).save(path / "measure-150-2-0.parquet")
    return path


def command(path: Path) -> list[str]:
    scratch = ["--encoder", "scratch-1x32", "--epochs", "1", "--train-layers", "0"]
    sizes = ["--n", "200", "--measure", "150", "--samples", "2"]
    return [*scratch, *sizes, "--data", str(path), "--out", str(path / "out")]


def test_figures_by_hand() -> None:
    """Ten queries, five of which the small model gets right; a perfect and an inverted router."""
    small = [1.0] * 5 + [0.0] * 5
    data = sums(10, 1)
    pools = {"small": answers("s", small), "large": answers("l", [1.0] * 10)}
    measure = Dataset(data.queries, pools, data.groups)
    right = np.linspace(0.0, 0.9, 10)
    trained = {"r_det": Trained(1 - right), "r_prob": Trained(right), "r_trans": Trained(right, 0.25)}
    found = pair_figures(trained, measure, seed=0)
    assert found["quality"] == {"small": 0.5, "large": 1.0, "gap": 0.5}
    assert found["routers"]["r_prob"]["drop"] == pytest.approx([0.0, 0.0, 0.0])
    assert found["routers"]["r_det"]["drop"] == pytest.approx([0.1, 0.2, 0.4])
    assert found["random"]["drop"] == pytest.approx([0.05, 0.1, 0.2])
    assert found["oracle"]["drop"] == pytest.approx([0.0, 0.0, 0.0])
    assert [d["value"] for d in found["trans_minus_prob"]] == [0.0] * 4
    assert found["trans_minus_det"][2]["value"] == pytest.approx(-0.4)
    assert found["trans_minus_det"][2]["high"] < 0
    assert found["routers"]["r_trans"]["relaxation"] == 0.25
    low, high = found["routers"]["r_det"]["drop_interval_95"][2]
    assert low < 0.4 <= high


@pytest.mark.slow
def test_a_whole_run_writes_its_results_and_a_second_reuses_its_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "ROUNDS", 20)
    path = folder(tmp_path)
    status = main(command(path))
    first = capsys.readouterr()
    found = json.loads((path / "out" / "hybrid_llm.json").read_text("utf-8"))
    assert status == (0 if all(v["kept"] for v in found["verdict"].values()) else 1)
    assert set(found["metrics"]) == {"exact_match", "edit_similarity"}
    gaps = [pair["quality"]["gap"] for _, _, pair in in_order(found["metrics"]["exact_match"])]
    assert gaps == sorted(gaps) and len(gaps) == 3
    assert found["metrics"]["exact_match"]["small to large"]["routers"]["r_trans"]["note"] == "labels equal r_prob's"
    written = (path / "out" / "hybrid_llm.md").read_text("utf-8")
    assert written == text(found) and written.strip() in first.out
    assert (path / "out" / "hybrid_llm.png").stat().st_size > 10_000
    assert "epoch 1 of 1" in first.err
    main(command(path))
    again = capsys.readouterr()
    assert "epoch" not in again.err and "kept from an earlier run" in again.err
    repeated = json.loads((path / "out" / "hybrid_llm.json").read_text("utf-8"))
    assert repeated["metrics"] == found["metrics"]


def test_the_effect_is_told_as_it_is() -> None:
    assert "cannot show" in _effect(None)
    assert _effect([]) == "does not show"
    assert _effect([0.4, 0.6]).startswith("shows at 40 % and 60 % cost advantage and not elsewhere")


def test_the_papers_table_has_its_form() -> None:
    assert [len(row) for routers in PAPER.values() for row in routers.values()] == [3] * 9


def test_too_few_queries_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--n", "10"])
    assert "at least 100" in capsys.readouterr().err
