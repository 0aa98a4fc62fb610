import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decision_latency import CONCURRENCY, InstantEncoder, Row, dataset, main, table, texts
from benchmarks.stamp import environment

ROW = Row("knn", "encoder, alone", 12, 100, 7.0, 9.0, 5.0, 140.0)


@pytest.mark.parametrize(
    ("scenario", "p50_ms", "per_second", "holds"),
    [
        ("encoder, alone", 8.0, 1.0, True),
        ("encoder, alone", 8.1, 999.0, False),
        ("encoder, concurrent", 999.0, 150.0, True),
        ("encoder, concurrent", 1.0, 149.0, False),
        ("feature, alone", 1.1, 999.0, False),
        ("beyond the encoder", 2.0, 1.0, True),
    ],
)
def test_bounds(scenario: str, p50_ms: float, per_second: float, holds: bool) -> None:
    assert replace(ROW, scenario=scenario, p50_ms=p50_ms, per_second=per_second).holds is holds


def test_the_table_says_what_holds() -> None:
    rows = [{**{n: getattr(ROW, n) for n in Row.__slots__}, "holds": True}]
    said = table({"rows": rows, "threads": 1, "batch": 16, "stored": 1000, "environment": environment()})
    assert "p50 <= 8 ms" in said and "yes" in said and f"{CONCURRENCY} callers" in said


def test_prompts_are_new_every_time_and_as_long_as_asked() -> None:
    short, long = (list(islice(texts(1, n), 500)) for n in (0, 2))
    assert len(set(short)) > 490 and len(set(long)) == 500
    assert len(long[0].split()) > 3 * len(short[0].split())


def test_the_stand_in_is_an_encoder_of_unit_vectors() -> None:
    encoder = InstantEncoder()
    vectors = encoder.embed(["a", "b", "a"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, rel=1e-5) and (vectors[0] == vectors[2]).all()
    assert vectors.shape == (3, encoder.dimensions) and encoder.cached("a") is None


def test_the_data_can_teach_a_router() -> None:
    made = dataset(200, 1)
    assert 0.2 < made.strong_win_rate().mean() < 0.8 and len({q.text for q in made.queries}) > 190


@pytest.mark.slow
def test_feature_routers_are_measured_and_written(tmp_path: Path) -> None:
    main(["--seconds", "0.1", "--kinds", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "decision_latency.json").read_text("utf-8"))
    assert [(r["router"], r["decisions"] > 10) for r in found["rows"]] == [("random", True), ("complexity", True)]
    assert (tmp_path / "decision_latency.md").read_text("utf-8").startswith("| router")
