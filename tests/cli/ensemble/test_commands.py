"""`jethro ensemble fit`, `show` and `evaluate`, end to end."""

import json
from pathlib import Path

from serve_app.ensemble.artefact import load_plan
from tests.cli.conftest import Run
from tests.ensemble.fitting.answered import answered, drawn
from tests.ensemble.fitting.test_plan import COST, EQUAL


def test_fit_show_evaluate(run: Run, tmp_path: Path) -> None:
    data, other, out = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "plan"
    answered(drawn(400, EQUAL), COST).save(data)
    answered(drawn(400, EQUAL, seed=1), COST).save(other)
    result = run("ensemble", "fit", str(data), "--max-strong-share", "0.4", "--out", str(out))
    assert result.exit_code == 0, result.output
    plan = load_plan(out)
    assert plan.version in result.stdout and "round 2: large" in result.stdout and "(held out)" in result.stderr
    assert "call large" in result.stdout
    assert json.loads((out / "ensemble.json").read_text())["version"] == plan.version
    assert "| **ensemble** |" in (out / "ensemble.md").read_text() and (out / "ensemble.png").stat().st_size > 1000
    shown = run("ensemble", "show", str(out))
    assert shown.exit_code == 0 and "fitted for strong-share=0.4" in shown.stdout
    measured = run("ensemble", "evaluate", str(out), "--data", str(other))
    assert measured.exit_code == 0 and "best single model at that cost" in measured.stdout
    again = run("ensemble", "evaluate", str(out), "--data", str(data))
    assert again.exit_code == 2 and "was fitted on these answers" in again.stderr


def test_mistakes_are_told(run: Run, tmp_path: Path) -> None:
    data, out = tmp_path / "a.parquet", str(tmp_path / "plan")
    answered(drawn(200, {"a": 0.3, "b": 0.3, "large": 0.95}), {"a": 1e-4, "b": 1e-4, "large": 1e-4}).save(data)
    refused = run("ensemble", "fit", str(data), "--budget-usd", "0.0003", "--out", out)
    assert refused.exit_code == 2 and "Use large" in refused.stderr and not Path(out).exists()
    no_goal = run("ensemble", "fit", str(data), "--out", out)
    assert no_goal.exit_code == 2 and "needs a goal" in no_goal.stderr
    split = run("ensemble", "fit", str(data), "--target", "strong-share=0.2", "--split", "test", "--out", out)
    assert split.exit_code == 2 and "there is no split 'test'" in split.stderr
