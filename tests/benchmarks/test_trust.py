"""What the kill table counts as an outage, and as readiness that lies."""

from collections import Counter
from pathlib import Path

import orjson
import pytest

from benchmarks.trust.kills import broken
from benchmarks.trust.results import write
from benchmarks.trust.traffic import Ready, Sent, longest_lie_s, longest_outage_s


def sent(*outcomes: str) -> list[Sent]:
    """One request a second, each over after half a second."""
    return [Sent(float(at), False, at + 0.5, outcome) for at, outcome in enumerate(outcomes)]


def test_an_outage_lasts_from_the_last_answer_to_the_next() -> None:
    assert longest_outage_s(sent(*["ok"] * 10)) == 1.0
    assert longest_outage_s(sent("ok", "ok", "lost", "503", "ok", "ok")) == 3.0


def test_one_that_never_ends_lasts_to_the_last_request() -> None:
    assert longest_outage_s(sent("ok", *["refused"] * 9)) == 8.5
    assert longest_outage_s(sent(*["refused"] * 9)) == 8.0


def test_readiness_lies_while_it_says_200_and_nothing_is_answered() -> None:
    outage = sent("ok", *["lost"] * 8, "ok", "ok")
    looks = [Ready(at / 2, ok=at < 8 or at > 17) for at in range(22)]
    assert longest_lie_s(outage, looks) == 2.5  # from 1.0 to 3.5, after the answer at 0.5
    assert longest_lie_s(outage, [Ready(at / 2, ok=False) for at in range(22)]) == 0.0


def test_the_endpoint_may_end_by_a_fatal_fault_alone_in_time_and_not_with_status_0() -> None:
    row = {"role": "raylet", "ready_while_failing_s": 0, "outage_s": None, "lost_before_first_byte": 9}
    assert not broken(row | {"exit": 2, "exit_s": 4.0})
    assert broken(row | {"exit": 0, "exit_s": 4.0}) and broken(row | {"exit": 2, "exit_s": 11.0})
    assert broken(row | {"exit": 2, "exit_s": 4.0, "role": "Gateway"})


def test_what_is_found_is_written_as_json_and_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "new", "trust_x", {"outcomes": Counter(ok=2), "rows": [(1, 2.5)]}, "| a |")
    assert orjson.loads((tmp_path / "new" / "trust_x.json").read_bytes()) == {"outcomes": {"ok": 2}, "rows": [[1, 2.5]]}
    assert (tmp_path / "new" / "trust_x.md").read_text() == "| a |"
    assert "| a |" in capsys.readouterr().out
