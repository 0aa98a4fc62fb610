"""The benchmark of chat's hot path against another commit: its pass mark, its report, the other commit's code."""

import subprocess

import pytest
import yaml

from benchmarks.gateway.paired import Compared
from benchmarks.hot_path import BEFORE, THIS, arguments, checked_out, endpoint, passed, report
from benchmarks.process import BUILD, ROOT

STAMP = {"date": "2026-11-30T00:00:00", "commit": "c", "cores": 2, "cpu": "x", "python": "3", "load_average_1m": 0.0}


def cell(this: float, errors: int = 0) -> Compared:
    names = (THIS, BEFORE)
    return Compared(
        "one-shot", 16, names, {THIS: [this] * 4, BEFORE: [100.0] * 4}, {n: [1.0] * 4 for n in names}, errors
    )


def test_the_mark_needs_every_case_and_all_answers() -> None:
    assert passed([cell(97.0)])
    assert not passed([cell(97.0), cell(96.9)])
    assert not passed([cell(120.0, errors=1)])


def test_the_report_names_commit_and_ratio() -> None:
    text = report([cell(98.0)], "abc123", STAMP)
    assert "`abc123`" in text and "0.980" in text and "case: holds" in text
    assert "does not hold" in report([cell(90.0)], "abc123", STAMP)


def test_the_commit_must_be_named() -> None:
    with pytest.raises(SystemExit):
        arguments([])


def test_the_other_code_is_a_checkout_of_its_own() -> None:
    if subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, check=False).returncode:
        pytest.skip("this is no git checkout")
    with checked_out("HEAD") as folder:
        assert (folder / "serve_app" / "__init__.py").is_file()
    assert not folder.exists()


def test_an_endpoint_has_the_config_of_its_code_with_fake_engines() -> None:
    target, _ = endpoint(THIS, ROOT)
    config = yaml.safe_load((BUILD / "hot-path-this-code.yaml").read_text())
    assert target.url.endswith(str(config["server"]["port"]))
    engines = [pool["engine"]["path"] for pool in config["pools"].values()]
    assert engines and all(path.startswith("none: the fake") for path in engines)
