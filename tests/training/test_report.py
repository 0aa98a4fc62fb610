"""The report and the plot of an evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest

from serve_app.training.evaluation import Evaluation, ScoredQueries, evaluate, reliability
from serve_app.training.report import evaluation_markdown, markdown_table, plot_comparison, plot_evaluation


def evaluation(gap: bool = True) -> Evaluation:
    weak = np.array([1.0, 1.0, 0.0, 0.0] * 5)
    strong = np.ones(20) if gap else weak
    scores = np.array([0.1, 0.2, 0.8, 0.9] * 5)
    cost = np.full(20, 1e-6)
    return evaluate(
        ("mine", "v1"), ScoredQueries(scores, (strong > weak) * 1.0, weak, strong, cost, cost * 10), (0.5, 0.85)
    )


def test_figures_stand_beside_random_and_oracle() -> None:
    text = evaluation_markdown(evaluation())
    rows = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in text.splitlines()
        if "|" in line
    }
    assert rows["APGR"] == ["0.750 [0.650, 0.850]", "0.500", "0.750"]
    drop = rows["quality drop at 40% cost advantage"]
    assert drop[0].startswith("0.00 % [0.00") and drop[1:] == ["20.00 %", "0.00 %"]
    assert rows["0.5"][0].startswith("50.00 %") and rows["0.5"][4] == "0.0000055"
    assert rows["0.5"][5].startswith("55.00 %")
    assert rows["0.85"][0].startswith("25.00 %")


def test_figures_that_do_not_exist_are_dashes_and_null() -> None:
    found = evaluation(gap=False)
    assert "| APGR                                | - " in evaluation_markdown(found)
    body = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert body["figures"]["apgr"] == {"value": None, "low": None, "high": None}


def test_json_holds_thresholds_curve_and_reliability() -> None:
    body = evaluation().to_json()
    assert [t["threshold"] for t in body["thresholds"]] == [0.5, 0.85]
    assert body["thresholds"][0]["share"]["value"] == 0.5
    assert body["curve"]["share"][0] == 0.0 and body["curve"]["share"][-1] == 1.0
    assert sum(row["queries"] for row in body["reliability"]) == 20


def test_reliability_by_hand() -> None:
    rows = reliability(np.array([0.8, 0.2, 0.9, 0.1]), np.array([1.0, 0.0, 0.0, 0.0]), bins=2)
    assert [(r["score"], r["outcome"]) for r in rows] == [(pytest.approx(0.15), 0.0), (pytest.approx(0.85), 0.5)]


@pytest.mark.slow
def test_plots_are_pictures(tmp_path: Path) -> None:
    plot_evaluation(evaluation(), tmp_path / "a" / "one.png")
    plot_comparison([evaluation(), evaluation(gap=False)], tmp_path / "two.png")
    for file in (tmp_path / "a" / "one.png", tmp_path / "two.png"):
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5_000


def test_columns_are_of_even_width() -> None:
    assert markdown_table(["a", "bb"], [["ccc", "d"]]) == "| a   | bb |\n|-----|----|\n| ccc | d  |"
