"""`jethro orchestrate`: fit a classifier of tasks on examples, and try it."""

import json
from pathlib import Path

from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.lab.sample import sample

RUN = CliRunner()


def test_fit_and_classify(tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    rows = [
        {"text": i.prompt, "task": i.task if i.task in ("sort", "roman") else None} for i in sample(400, 5, "train")
    ]
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = RUN.invoke(app, ["orchestrate", "fit", str(examples), "--out", str(tmp_path / "tasks")])
    assert done.exit_code == 0 and "tasks roman, sort" in done.stdout and "% of 400 examples" in done.stdout
    done = RUN.invoke(app, ["orchestrate", "classify", str(tmp_path / "tasks"), "sort 52 17 88"])
    first, second = done.stdout.splitlines()
    assert first.endswith("sort") and float(first.split()[0]) > 0.5 > float(second.split()[0])


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a", "task": "b"}\n')
    done = RUN.invoke(app, ["orchestrate", "fit", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "t")])
    assert done.exit_code == 2 and "all of one task" in done.stderr
