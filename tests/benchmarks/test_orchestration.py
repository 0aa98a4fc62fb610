"""The benchmark of orchestration: what it counts, on few queries of the embedded models."""

import json
from pathlib import Path

import pytest

from benchmarks import orchestration as bench


@pytest.mark.slow
def test_a_run_writes_its_table(tmp_path: Path) -> None:
    assert bench.main(["-n", "12", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "orchestration.json").read_text("utf-8"))
    part = found["with_adapter"]
    assert set(part) == set(bench.NAMES) and part["jlab-large"]["n"] == 12 * len(found["adapters"])
    assert part["jlab-small"]["exact"] < part[bench.ORCHESTRATE]["exact"]
    assert part["jlab-small"]["usd_per_thousand"] < part[bench.ORCHESTRATE]["usd_per_thousand"]
    assert part["jlab-small"]["large_share"] == 0 and part["jlab-large"]["large_share"] == 1
    assert "| jethro-orchestrate" in (tmp_path / "orchestration.md").read_text("utf-8")


def test_figures() -> None:
    rows = [{"right": True, "usd": 1e-6, "large": False}, {"right": False, "usd": 3e-6, "large": True}]
    found = bench.figures(rows)
    assert (found["exact"], found["large_share"], found["n"]) == (0.5, 0.5, 2)
    assert found["usd_per_thousand"] == pytest.approx(2e-3)
