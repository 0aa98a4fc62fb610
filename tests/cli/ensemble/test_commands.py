"""`jethro ensemble fit`, `show` and `evaluate`, end to end."""

import json
from pathlib import Path

import pytest

from serve_app.ensemble.artefact import load_plan
from serve_app.ensemble.fusing import gen_fuser
from serve_app.ensemble.ranking import pair_ranker
from tests.cli.conftest import Run
from tests.ensemble.fitting.answered import answered, drawn
from tests.ensemble.fitting.test_plan import COST, EQUAL
from tests.ensemble.fitting.test_ways import cheap
from tests.ensemble.fitting.ways import Knowing, RandomPick


def test_fit_show_evaluate(run: Run, tmp_path: Path) -> None:
    data, other, out = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "plan"
    answered(drawn(400, EQUAL), COST).save(data)
    answered(drawn(400, EQUAL, seed=1), COST).save(other)
    result = run("ensemble", "fit", str(data), "--max-strong-share", "0.4", "--out", str(out))
    assert result.exit_code == 0, result.output
    plan = load_plan(out)
    assert plan.version in result.stdout and "round 2: large" in result.stdout and "(held out)" in result.stderr
    assert "call large" in result.stdout and "is taken if it is right with" in result.stdout
    assert "-> large, stops by probability (chosen)" in result.stdout, "accuracy does not depend on the query"
    assert json.loads((out / "ensemble.json").read_text())["version"] == plan.version
    assert "| **ensemble** |" in (out / "ensemble.md").read_text() and (out / "ensemble.png").stat().st_size > 1000
    shown = run("ensemble", "show", str(out))
    assert shown.exit_code == 0 and "fitted for strong-share=0.4" in shown.stdout
    measured = run("ensemble", "evaluate", str(out), "--data", str(other))
    assert measured.exit_code == 0 and "best single model at that cost" in measured.stdout
    again = run("ensemble", "evaluate", str(out), "--data", str(data))
    assert again.exit_code == 2 and "was fitted on these answers" in again.stderr


def test_a_ranker_and_a_fuser_are_tried_and_the_plan_finds_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    monkeypatch.setattr(pair_ranker, "load_ranker", lambda folder: folders.append(folder) or Knowing(0.95))
    monkeypatch.setattr(gen_fuser.GenFuser, "load", lambda folder: folders.append(folder) or RandomPick())
    data, other, out = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "plan"
    cheap().save(data)
    cheap(1).save(other)
    ranker, fuser = out / "ranker", tmp_path / "fuser"
    ranker.mkdir(parents=True)
    given = ("--ranker", str(ranker), "--fuser", str(fuser), "--budget-usd", "0.000045", "--out", str(out))
    result = run("ensemble", "fit", str(data), *given)
    assert result.exit_code == 0, result.output
    plan = load_plan(out)
    assert (plan.select, plan.ranker, plan.fuser) == ("ranker", "ranker", None), "it is in the plan's own folder"
    assert "picks by ranker ranker" in result.stdout and "(chosen)" in result.stdout
    assert "by vote: quality" in result.stdout and "by logprob: fewer than two" in result.stdout
    assert "fusing a + b + c: there is no other kind of set" in result.stdout
    assert "- by ranker: quality" in (out / "ensemble.md").read_text()
    assert folders == [ranker, fuser]
    measured = run("ensemble", "evaluate", str(out), "--data", str(other))
    assert measured.exit_code == 0 and folders[2:] == [ranker], measured.output
    quality = float(measured.stdout.split("quality ")[1].split()[0])
    assert abs(quality - plan.expected["quality"]) < 0.06


def test_mistakes_are_told(run: Run, tmp_path: Path) -> None:
    data, out = tmp_path / "a.parquet", str(tmp_path / "plan")
    answered(drawn(200, {"a": 0.3, "b": 0.3, "large": 0.95}), {"a": 1e-4, "b": 1e-4, "large": 1e-4}).save(data)
    refused = run("ensemble", "fit", str(data), "--budget-usd", "0.0003", "--out", out)
    assert refused.exit_code == 2 and "Use large" in refused.stderr and not Path(out).exists()
    no_goal = run("ensemble", "fit", str(data), "--out", out)
    assert no_goal.exit_code == 2 and "needs a goal" in no_goal.stderr
    split = run("ensemble", "fit", str(data), "--target", "strong-share=0.2", "--split", "test", "--out", out)
    assert split.exit_code == 2 and "there is no split 'test'" in split.stderr
