"""The benchmark of promises: it counts what it says it counts, and a pool that breaks them fails it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import calibration as benchmark
from benchmarks.calibration import Promise, promises_kept, shares_held, table, verdict
from serve_app.decision.threshold import Calibration

ABOUT = {"router": "made up", "trained_on": 0, "pool": 3000}


@pytest.fixture(scope="module")
def pool() -> Calibration:
    rng = np.random.default_rng(0)
    n = 3000
    scores = rng.beta(0.5, 0.5, n)
    weak = (rng.random(n) >= scores).astype(float)
    return Calibration(scores, weak, np.ones(n), np.ones((n, 2)), np.ones((n, 2)))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HALVES", 4), ("RESAMPLES", 100), ("DROPS", (0.05,)), ("SIZES", (20, 600))):
        monkeypatch.setattr(benchmark, name, value)


def test_shares_are_counted_on_the_other_half(pool: Calibration, small: None) -> None:
    rows = shares_held(pool, seed=0)
    assert [row["target"] for row in rows] == [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95]
    assert all(abs(row["mean"] - row["target"]) <= row["largest_miss"] < 0.08 for row in rows)
    assert any(row["largest_miss"] > 0 for row in rows)


@pytest.mark.slow
def test_promises_are_counted_against_the_whole_pool(pool: Calibration, small: None) -> None:
    found = {(p.method, p.queries): p for p in promises_kept(pool, seed=0, report=lambda _: None)}
    assert len(found) == 6
    assert found["none", 600].broken > 0.2  # a sample's own drop is no promise
    assert found["ltt", 600].broken <= 0.1 and found["ltt", 600].mean_share < 0.95
    assert found["ltt", 20].refused == 1.0 and found["ltt", 20].mean_share == 1.0
    expected = found["expectation", 600]
    assert expected.mean_drop <= 0.05 + 2 * expected.drop_error
    assert found["ltt", 600].mean_share >= found["expectation", 600].mean_share >= found["none", 600].best_share - 0.02


def test_the_verdict_falls_if_a_share_or_a_promise_is_missed() -> None:
    good = Promise("ltt", 0.05, max(benchmark.SIZES), 0.05, 0.03, 0.001, 0.6, 0.5, 0.0)
    expected = replace(good, method="expectation")
    shares = [{"target": 0.5, "mean": 0.5, "largest_miss": 0.01}]
    found = verdict(shares, [good, expected])
    assert found["held"] and found["weak_calls_of_the_possible_ltt"] == pytest.approx(0.8)
    assert not verdict([{**shares[0], "largest_miss": 0.04}], [good, expected])["held"]
    assert not verdict(shares, [replace(good, broken=0.11), expected])["held"]
    assert not verdict(shares, [good, replace(expected, mean_drop=0.06)])["held"]


@pytest.mark.slow
def test_it_writes_table_json_and_plot(
    pool: Calibration, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "lab_pool", lambda *_: (pool, ABOUT))
    monkeypatch.setattr(benchmark, "RESAMPLES", 60)
    monkeypatch.setattr(benchmark, "POINTS", 0.2)  # halves of 1,500 scatter more than those of the lab's pool
    assert benchmark.main(["--out", str(tmp_path)]) == 0
    body = json.loads((tmp_path / "calibration.json").read_text("utf-8"))
    assert body["verdict"]["held"] and len(body["promises"]) == 6 and len(body["shares"]) == 10
    text = (tmp_path / "calibration.md").read_text("utf-8")
    assert text in capsys.readouterr().out and "with confidence 0.9, drop <= 5 %" in text
    assert table(body["shares"], [Promise(**p) for p in body["promises"]], body["verdict"], ABOUT) in text
    assert (tmp_path / "calibration.png").stat().st_size > 10_000
    monkeypatch.setattr(benchmark, "POINTS", 0.0)
    monkeypatch.setattr(benchmark, "RESAMPLES", 2)
    assert benchmark.main(["--out", str(tmp_path)]) == 1
    missed = json.loads((tmp_path / "calibration.json").read_text("utf-8"))["verdict"]
    assert missed["largest_share_miss"] > 0 and missed["most_broken_ltt"] == 0


@pytest.mark.integration
def test_the_pool_is_of_queries_that_nobody_was_trained_on() -> None:
    from serve_app.lab import models_dir

    found, about = benchmark.lab_pool(models_dir(), 150, 200, 0, "complexity")
    assert about["trained_on"] == 150 and 100 < about["pool"] == len(found) <= 200
