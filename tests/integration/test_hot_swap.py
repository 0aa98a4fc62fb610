"""Versions of a router are taken into service under load, on the real application; the benchmark at a smaller size."""

import json
from pathlib import Path

import pytest

from benchmarks.hot_swap import main

pytestmark = pytest.mark.integration


def test_no_request_is_lost_and_every_decision_names_its_version(tmp_path: Path) -> None:
    assert main(["--swaps", "8", "--steady-s", "2", "--concurrency", "16", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "hot_swap.json").read_text("utf-8"))
    assert (found["failed"], found["swaps"], found["refusals"]) == (0, 8, 1) and found["requests"] > 100
