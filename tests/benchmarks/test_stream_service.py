"""The parts of `benchmarks.stream_service` that need no application."""

import json

import pytest

from benchmarks.stream_service import expert
from benchmarks.stream_service.__main__ import plans, queries
from benchmarks.stream_service.expert import FakeExpert
from benchmarks.stream_service.report import figures, passed, plot, table
from benchmarks.stream_service.serving import Plan, Seen
from serve_app.types import Message, Query


def seen(right, alarms=0, kills=(), **learned):
    counts = {"queries": len(right), "llm_calls": 2, "labelled": 1, "unparsed": 1, "lost": 0, "refused": 0, **learned}
    made = Seen([*right], [False] * len(right), [0.01] * len(right), wall_s=2.0)
    made.figures = {**counts, "learner": {"drift_alarms": alarms, "drift_looks": alarms}}
    made.kills = list(kills)
    return made


KILL = {
    **{"pid": 1, "answered_before": 10, "answered_meanwhile": 5, "away_s": 2.0},
    **{"labels_before": 7, "labels_after": 8, "learned_again": 3},
}
PLAN = Plan("killed", {"name": "killed"})


def runs(**changes):
    made = {
        "undisturbed": figures(PLAN, seen([True] * 90 + [False] * 10)),
        "killed": figures(PLAN, seen([True] * 90 + [False] * 10, kills=[KILL, KILL])),
    }
    return {name: {**run, **changes.get(name, {})} for name, run in made.items()}


def test_two_runs_that_are_alike_pass():
    held = passed(runs())
    assert set(held) == {
        *("no query fails", "nothing is lost", "learning resumes", "accuracy within half a point"),
    }
    assert all(held.values())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"failed": 1}, "no query fails"),
        ({"accuracy": 0.89}, "accuracy within half a point"),
        ({"kills": [{**KILL, "labels_after": 6}]}, "learning resumes"),
        ({"learned": {"queries": 99, "llm_calls": 2, "labelled": 1, "unparsed": 1, "lost": 0}}, "nothing is lost"),
        ({"learned": {"queries": 100, "llm_calls": 3, "labelled": 1, "unparsed": 1, "lost": 0}}, "nothing is lost"),
    ],
)
def test_what_does_not_pass(change, what):
    assert passed(runs(killed=change))[what] is False


def test_a_change_is_noticed_and_recovered_from():
    right = [True] * 4000 + [False] * 1000 + [True] * 3000
    plan = Plan("shifted", {"name": "shifted"}, shift_at=0.5)
    good, blind = figures(plan, seen(right, alarms=1)), figures(plan, seen([True] * 4000 + [False] * 4000))
    assert (good["before_shift"], good["at_shift"], good["at_end"]) == (1.0, 0.0, 1.0)
    held = passed({"shifted": good, "shifted, plain": blind})
    assert all(held.values())
    assert "the released algorithm is worse" in held
    assert not passed({"shifted": blind})["the change is noticed"]
    assert not passed({"shifted": blind})["accuracy comes back to within three points"]


def test_the_released_algorithm_is_compared_at_equal_calls_only():
    plan = Plan("shifted", {"name": "shifted"}, shift_at=0.5)
    good, blind = figures(plan, seen([True] * 8000, alarms=1)), figures(plan, seen([True] * 4000 + [False] * 4000))
    few = {"shifted": good, "shifted, plain": {**blind, "llm_share": good["llm_share"] - 0.1}}
    assert "the released algorithm is worse" not in passed(few)
    stamp = {"date": "2026-01-01T00:00", "commit": "c", "cores": 2, "cpu": "x", "python": "3", "load_average_1m": 0.0}
    found = {"runs": few, "held": passed(few), "environment": stamp, "file": "x.jsonl", "texts": 9}
    assert "does not compare" in table(found)


@pytest.mark.slow
def test_table_and_plot(tmp_path):
    found = {"runs": runs(), "environment": {}, "file": "x.jsonl", "texts": 40}
    found["environment"] = {"date": "2026-01-01T00:00", "commit": "c", "cores": 2, "cpu": "x", "python": "3"}
    found["environment"]["load_average_1m"] = 0.0
    found["held"] = passed(found["runs"])
    text = table(found)
    assert "killed after 10 answers with 7 labels learned" in text
    assert "- no query fails: yes" in text
    assert "100 queries are repeated passes over the 40 texts of x.jsonl" in text
    plot(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


async def test_the_fake_expert_says_what_was_recorded_and_the_next_label_after_a_shift(tmp_path, monkeypatch):
    monkeypatch.setattr(expert, "RECORDED", tmp_path / "told.json")
    monkeypatch.setattr(expert, "SHIFTED", tmp_path / "shifted")
    monkeypatch.setattr(expert, "BUILD", tmp_path)
    monkeypatch.setattr(expert, "DELAY_S", 0.0)
    expert.record(["a", "b"], {"one": 0, "two": 1, "three": None})
    engine = FakeExpert("m", tmp_path / "told.json")
    await engine.start()
    assert [engine.label(text) for text in ("one", "two", "three", "four")] == ["a", "b", "unknown", "unknown"]
    expert.shift(True)
    assert [engine.label(text) for text in ("one", "two")] == ["b", "a"]
    chunks = [c async for c in engine.stream(Query((Message("user", "one"),)))]
    assert [c.text for c in chunks] == ["b"]
    expert.shift(False)
    assert engine.label("one") == "a"


def test_queries_are_passes_over_the_file_in_other_orders(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps({"t": str(i), "y": i % 2, "e": 0}) + "\n" for i in range(10)))

    class Args:
        text, label, expert, labels, seed = "t", "y", "e", "a,b", 1
        queries = 25
        llm_share, plain_mu, levels, runs = 0.2, 1e-3, "logistic", ["killed", "shifted, plain"]

    Args.file = file
    rows = queries(Args)
    assert len(rows) == 25
    assert sorted(r.text for r in rows[:10]) == sorted(r.text for r in rows[10:20])
    assert [r.text for r in rows[:10]] != [r.text for r in rows[10:20]]
    killed, plain = plans(Args)
    assert len(killed.kills) == 2
    assert plain.shift_at == 0.5
    assert not any(plain.stream["mends"].values())
