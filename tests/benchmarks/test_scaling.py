import json
import sys
from pathlib import Path

import pytest

from benchmarks import scaling
from serve_app.autoscaling.report import plot
from serve_app.autoscaling.traces import STANDARD


@pytest.mark.slow
def test_every_trace_is_in_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    options = ["--seeds", "1", "--duration", "60", "--rate", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["scaling", *options])
    drawn = []

    def plot_one(found, path: Path) -> None:
        """A row of the picture: they are alike, and matplotlib takes longer than the simulations."""
        drawn.extend(comparison.trace for comparison in found)
        plot(found[:1], path)

    monkeypatch.setattr(scaling, "plot", plot_one)
    scaling.main()
    body = json.loads((tmp_path / "scaling.json").read_text())
    assert tuple(body["traces"]) == STANDARD and tuple(body["with_our_delays"]["traces"]) == STANDARD
    assert body["drawn"] == {"rate_per_s": 2.0, "duration_s": 60.0, "seeds": [scaling.FIRST_SEED]}
    text = (tmp_path / "scaling.md").read_text()
    reached = [name for name, found in body["traces"].items() if found["saving"]["reached"]]
    assert f"The line is reached on {len(reached)} of 7 traces" in text
    assert all(text.count(f"| {name} |") >= 1 and f"### {name}\n" in text for name in STANDARD)
    assert (tmp_path / "scaling.png").stat().st_size > 1000
    assert tuple(drawn) == STANDARD
    assert capsys.readouterr().out.strip() in text
