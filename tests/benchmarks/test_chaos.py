"""The chaos benchmark's arithmetic."""

import pytest

from benchmarks.chaos.__main__ import longest_silence_s, marks
from benchmarks.load.loops import Run
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
    found = marks({"phases": {"x": {"failures": failures, "longest_silence_s": 1.0, "not_asked": 0}}, "kills": [1]})
    assert list(found.values())[1:3] == expected
