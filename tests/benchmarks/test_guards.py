"""The labelled texts are as the page says, and the benchmark reports every guard on both parts."""

from collections import Counter
from pathlib import Path

from benchmarks import guards as bench


def test_the_texts_are_many_and_half_of_them_harmless() -> None:
    rows = bench.rows_of("guards.jsonl")
    assert len(rows) >= 300 and 0.45 < sum(row["unsafe"] for row in rows) / len(rows) < 0.55
    assert len({(row["guard"], row["text"]) for row in rows}) == len(rows)
    parts = Counter((row["guard"], row["unsafe"], row["part"]) for row in rows)
    assert all(abs(n - parts[guard, unsafe, "dev"]) <= 2 for (guard, unsafe, _), n in parts.items())
    personal = bench.rows_of("personal_data.jsonl")
    assert sum(row["category"] is None for row in personal) > 100 and len(personal) > 190


def test_every_guard_is_reported_on_both_parts(tmp_path: Path) -> None:
    assert bench.main(["--out", str(tmp_path)]) == 0
    page = (tmp_path / "guards.md").read_text("utf-8")
    assert (
        page.count("\n| injection  ") + page.count("\n| injection |") == 2
        and page.count("held out") > 10
        and "p50, ms" in page
    )
    found = {(r["guard"], r["part"]): r for r in bench.guard_rates()}
    assert found["words", "dev"]["detection"] == 1.0
    assert found["injection", "held_out"]["detection"] > 0.7 > 0.1 > found["injection", "held_out"]["false_alarms"]


def test_an_interval_holds_the_share() -> None:
    low, high = bench.interval(9, 10)
    assert low < 0.9 < high <= 1.0 and bench.interval(0, 10)[0] == 0.0
