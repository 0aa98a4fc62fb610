"""`jethro lab`: arguments and mistakes; the lab's own tests hold what it computes."""

import json

from serve_app.lab.sample import sample


def test_sample_prints_queries_with_answers(run):
    items = sample(3, 5, "unseen")
    lines = run("lab", "sample", "-n", "3", "--seed", "5").stdout.splitlines()
    assert [line.endswith(f"{i.prompt}  ->  {i.answer}") for line, i in zip(lines, items, strict=True)] == [True] * 3


def test_sample_as_json_is_one_object_a_line(run):
    rows = [json.loads(line) for line in run("lab", "sample", "-n", "4", "--json").stdout.splitlines()]
    assert [set(row) for row in rows] == [{"task", "size", "difficulty", "prompt", "answer"}] * 4


def test_eval_without_weights_says_how_to_get_them(run, tmp_path):
    result = run("lab", "eval", "-n", "1", "--dir", str(tmp_path))
    assert result.exit_code == 2
    assert "jethro lab build" in result.stderr


def test_build_of_an_unknown_model_names_those_there_are(run, tmp_path):
    result = run("lab", "build", "--model", "huge", "--dir", str(tmp_path))
    assert result.exit_code == 2
    assert "'small', 'large'" in result.stderr


def test_a_router_cannot_be_trained_without_weights(run, tmp_path):
    result = run("lab", "router", "-n", "100", "--dir", str(tmp_path), "--out", str(tmp_path / "router"))
    assert result.exit_code == 2
    assert "jethro lab build" in result.stderr
    assert not (tmp_path / "router").exists()


def test_an_ensemble_cannot_be_trained_without_weights(run, tmp_path):
    out = tmp_path / "ensemble"
    result = run("lab", "ensemble", "-n", "200", "--dir", str(tmp_path / "none"), "--out", str(out))
    assert result.exit_code == 2
    assert "jethro lab build" in result.stderr
    assert not list(out.rglob("*.parquet"))
