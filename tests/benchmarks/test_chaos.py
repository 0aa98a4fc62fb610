"""The chaos benchmark's arithmetic."""

import threading

import pytest

from benchmarks.chaos.__main__ import longest_silence_s, marks, table
from benchmarks.chaos.killer import Killer
from benchmarks.load.loops import Run
from benchmarks.load.prompts import Prompt
from benchmarks.load.result import by_pool, failures, result
from benchmarks.record import Record


def test_the_longest_silence_includes_the_ends() -> None:
    records = [Record(i, 0, 0, end, "ok", 200) for i, end in enumerate((1.0, 2.0, 5.0))]
    assert longest_silence_s(Run(records, 0.0, 5.5)) == 3.0
    assert longest_silence_s(Run(records, 0.0, 10.0)) == 5.0
    records.append(Record(3, 0, 0, 3.5, "lost", 0))
    assert longest_silence_s(Run(records, 0.0, 5.5)) == 3.0, "a failure is no sign of life"


@pytest.mark.parametrize(
    ("before", "after", "kinds", "expected"),
    [
        (0, 0, {}, [True, True]),
        (1, 0, {"lost": 1}, [False, True]),
        (0, 2, {"error_event": 2}, [True, True]),
        (0, 2, {"error_event": 1, "cut": 1}, [True, False]),
        (0, 1, {"timeout": 1}, [True, False]),
    ],
)
def test_marks(before: int, after: int, kinds: dict[str, int], expected: list[bool]) -> None:
    failures = {"before_first_byte": before, "after_first_byte": after, "by_kind": kinds}
    found = marks(
        {
            "phases": {"x": {"failures": failures, "longest_silence_s": 1.0, "not_asked": 0}},
            "kills": [1],
            "whole_after_s": 1.0,
        }
    )
    assert list(found.values())[1:3] == expected


def phase(**changes: object) -> dict[str, object]:
    run = Run([Record(0, 0.0, 0.0, 1.0, "ok", 200, "", [0.5], 1, 1, "small", "4")], 0.0, 1.0)
    return {
        **result(run, (95, 99), {}),
        "failures": failures(run.records),
        "pools": by_pool(run.records, [Prompt((), "4")]),
        "longest_silence_s": 1.0,
        "not_asked": 0,
        **changes,
    }


@pytest.mark.parametrize(("back_s", "word"), [(3.2, "3 s after"), (None, "never after")])
def test_the_table_says_it_all(back_s: float | None, word: str) -> None:
    found = {
        "phases": {"undisturbed": phase(), "killed": phase(not_asked=3)},
        "kills": [{"pool": "small", "at_s": 10.1}],
        "postponed_s": 0.5,
        "whole_after_s": back_s,
        "memory_mib": {"before": {"Gateway": [100.0], "SmallPool": [50.0, 51.0]}},
        "environment": {"date": "2026", "commit": "c", "cores": 2, "cpu": "x", "python": "3", "load_average_1m": 0.0},
    }
    found["marks"] = marks(found)
    text = table(found)
    assert word in text
    assert "50 + 51" in text
    assert "Kills: 1, one of small after 10 s" in text
    assert "every request was sent within the time limit: NO" in text
    assert found["marks"]["no request lost before its first byte"]


def test_the_last_replica_of_a_pool_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = iter([{"small": 1, "large": 1}, {"small": 1, "large": 2}, {"small": 2, "large": 2}])
    state = {"small": 1, "large": 1}
    killed: list[dict[str, int]] = []
    over = threading.Event()

    def look(url: str) -> dict[str, int]:
        return next(ready, state)

    def kill(self: Killer, seen: dict[str, int]) -> None:
        killed.append(seen)
        if len(killed) == 2:
            over.set()

    monkeypatch.setattr("benchmarks.chaos.killer.ready_replicas", look)
    monkeypatch.setattr(Killer, "_kill", kill)
    with Killer("http://x:1", every_s=0.01):
        assert over.wait(10)
    assert killed == [{"small": 1, "large": 2}, {"small": 2, "large": 2}]
