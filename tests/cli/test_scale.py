"""`jethro scale simulate`, on short traces."""

import json

import pytest

from tests.autoscaling.test_calls import log, record

SHORT = ("scale", "simulate", "--duration", "60", "--rate", "4")


@pytest.mark.slow
def test_a_trace_is_compared_and_written(run, tmp_path):
    result = run(*SHORT, "--trace", "poisson", "--seeds", "2", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.stderr
    for name in ("routed share", "Serve's default", "queue", "oracle"):
        assert f"| {name} |" in result.stdout
    assert "32 of 32 runs" in result.stderr
    body = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert list(body["traces"]) == ["poisson"]
    assert (tmp_path / "out" / "scaling.md").read_text() in result.stdout
    assert (tmp_path / "out" / "scaling.png").stat().st_size > 1000


def test_a_config_brings_its_bounds(run, tmp_path):
    config = tmp_path / "my.yaml"
    pool = "engine: {kind: transformers, path: 'lab:small'}, replicas: {min: 0, max: 1, concurrency: 3, warm_up_s: 5}"
    config.write_text(f"pools:\n  small: {{model: s, {pool}}}\n  large: {{model: l, {pool}}}\n")
    out = tmp_path / "out"
    assert run(*SHORT, "--trace", "night", "--config", str(config), "--out", str(out)).exit_code == 0
    body = json.loads((out / "scaling.json").read_text())
    assert body["pools"]["large"]["limits"]["max_replicas"] == 1 and body["pools"]["large"]["concurrency"] == 3
    assert all(f["large_hours"] <= 61 / 3600 for f in body["traces"]["night"]["rules"].values())


def test_a_decision_log_is_replayed_with_its_times(run, tmp_path):
    path = log(tmp_path / "log.sqlite3", [record(i, "large", 1000.0 + i) for i in range(30)])
    result = run("scale", "simulate", "--log", str(path))
    assert result.exit_code == 0, result.stderr
    assert "large: 0.150 s to the first token and 18.75 ms a token" in result.stdout
    assert "small: too few" in result.stdout
    assert "### log.sqlite3" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trace", "quiet"), "--trace quiet: choose from poisson, bursts"),
        (("--log", "missing.sqlite3"), "missing.sqlite3: no such file"),
        (("--log", "x.sqlite3", "--trace", "poisson"), "contradict each other: keep one"),
    ],
)
def test_mistakes_are_one_sentence(run, arguments, message):
    result = run("scale", "simulate", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and message in result.stderr and result.stderr.count("\n") == 1
