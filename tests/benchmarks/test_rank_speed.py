"""The benchmark of ranking speed: what it compares gives the same scores, and a row says what was measured."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import rank_speed as bench
from tests.ensemble.ranking.rankers import untrained


def test_the_loop_has_the_scores_of_the_batch(tmp_path: Path) -> None:
    ranker, (request, *_) = untrained(tmp_path), bench.short_requests(2, 4)
    np.testing.assert_allclose(bench.pair_by_pair(ranker, request), ranker.scores(*request), atol=1e-5)


@pytest.mark.parametrize(("slow_s", "requests"), [(0.0, bench.FEW), (60.0, 6)])
def test_fewer_requests_where_one_alone_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_s: float, requests: int
) -> None:
    monkeypatch.setattr(bench, "made", lambda *_: untrained(tmp_path))
    monkeypatch.setattr(bench, "FORMS", {"pair": ("pair", None)})
    monkeypatch.setattr(bench, "SLOW_S", slow_s)
    out = tmp_path / "out"
    arguments = ["--concurrent", "6", "--candidates", "3", "--rounds", "1", "--threads", "1", "--out", str(out)]
    monkeypatch.delenv("JETHRO_TEST_DATA", raising=False)
    assert bench.main(arguments) == 0
    (row,) = [line for line in (out / "rank_speed.md").read_text("utf-8").splitlines() if line.startswith("| short")]
    assert f" {requests} |" in row and (out / "rank_speed.json").stat().st_size > 100
