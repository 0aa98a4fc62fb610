"""The benchmark of adapters: what it draws and counts, and a small run over real engines."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import adapters as bench


def test_requests_follow_zipfs_law_and_the_seed() -> None:
    requests = bench.zipf_requests(6000, bench.WORDS, seed=1)
    counts = [n for _, n in Counter(name for name, _ in requests).most_common()]
    assert len(counts) == 12
    total = sum(1 / k for k in range(1, 13))
    assert counts[0] / 6000 == pytest.approx(1 / total, rel=0.1)
    assert counts[3] / 6000 == pytest.approx(1 / 4 / total, rel=0.2)
    assert requests == bench.zipf_requests(6000, bench.WORDS, seed=1) != bench.zipf_requests(6000, bench.WORDS, seed=2)


def test_a_row_and_its_table() -> None:
    run = bench.Run(wrong=1, hits=[0.1, 0.3], misses=[0.5], seconds=2.0, loads=4, evictions=1)
    row = run.row()
    assert (row["answered"], row["hit_rate"], row["per_second"]) == (3, pytest.approx(2 / 3), 1.5)
    assert (row["hit_p50_ms"], row["miss_p95_ms"]) == (pytest.approx(200), pytest.approx(500))
    typical = bench._typical([row, {**row, "hit_rate": 0.0}, {**row, "hit_rate": 0.1}])
    assert (typical["wrong"], typical["hit_rate"]) == (3, 0.1)


@pytest.mark.slow
def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    arguments = ["--n", "40", "--adapters", "3", "--places", "1", "--rounds", "1", "--steps", "2", "--concurrency", "4"]
    assert bench.main([*arguments, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "adapters.json").read_text("utf-8"))
    assert [(r["answered"], r["failed"], r["wrong"]) for r in found["cases"].values()] == [(40, 0, 0)] * 3
    assert all(0 < r["loads"] <= 40 for r in found["cases"].values())
    assert "| 2 replicas, affinity" in capsys.readouterr().out
