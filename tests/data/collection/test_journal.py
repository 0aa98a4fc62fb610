""""""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from serve_app.data.collection.journal import AnswerJournal, CollectedCall
from serve_app.errors import ConfigError, DataError

ASKED = {"queries_digest": "d", "pools": {"small": "m"}, "temperature": 1.0}
ONE = CollectedCall("q1", "small", ("a\n", "\ud800"), 10, 4, 1e-6, 12.5)
REFUSED = CollectedCall("q2", "large", failed="400: no")


def kept(path: Path) -> list[CollectedCall]:
    with AnswerJournal(path, ASKED) as journal:
        return journal.entries


def test_entries_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.journal"
    with AnswerJournal(path, ASKED) as journal:
        journal.add(ONE)
        journal.add(REFUSED)
        assert journal.entries == [ONE, REFUSED]
    assert kept(path) == [ONE, REFUSED]
    assert len(path.read_bytes().splitlines()) == 3


def test_every_entry_is_in_the_file_when_add_returns(tmp_path: Path) -> None:
    with AnswerJournal(tmp_path / "j", ASKED) as journal:
        for n in range(1, 4):
            journal.add(ONE)
            assert (tmp_path / "j").read_bytes().count(b"\n") == n + 1


def test_a_file_cut_anywhere_loses_the_cut_line_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)  # hundreds of them; a crash of the machine is not played here
    path = tmp_path / "j"
    with AnswerJournal(path, ASKED) as journal:
        journal.add(ONE)
        journal.add(REFUSED)
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        whole = max(sum(end <= cut for end in ends) - 1, 0)
        assert kept(path) == [ONE, REFUSED][:whole]
        with AnswerJournal(path, ASKED) as journal:
            journal.add(REFUSED)
        assert kept(path) == [*[ONE, REFUSED][:whole], REFUSED]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.7}, r"temperature was 1\.0, .*0\.7.*--out"),
        ({"pools": {"small": "other"}}, "pools was"),
        ({"extra": 1}, "extra was null, .*1"),
    ],
)
def test_a_journal_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "j"
    with AnswerJournal(path, ASKED) as journal:
        journal.add(ONE)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=message):
        AnswerJournal(path, {**ASKED, **change})
    assert path.read_bytes() == before and kept(path) == [ONE]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"garbage", "line 2: .*JSON"),
        (b"[1]", "line 2: .*JSON object"),
        (b'{"query": "q"}', "line 2: .*entry"),
        (b'{"query": "q", "pool": "p", "texts": [], "what": 1}', "line 2: .*entry"),
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "j"
    with AnswerJournal(path, ASKED) as journal:
        journal.add(ONE)
    head, entry = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + line + b"\n" + entry)
    with pytest.raises(DataError, match=message):
        AnswerJournal(path, ASKED)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j").write_text(json.dumps({"prompt": "x"}) + "\n")
    with pytest.raises(DataError, match=r"line 1: .*journal"):
        AnswerJournal(tmp_path / "j", ASKED)
    assert (tmp_path / "j").read_text() == '{"prompt": "x"}\n'


def test_two_runs_cannot_write_to_one(tmp_path: Path) -> None:
    with AnswerJournal(tmp_path / "j", ASKED), pytest.raises(ConfigError, match="another run"):
        AnswerJournal(tmp_path / "j", ASKED)
    assert kept(tmp_path / "j") == []


def test_a_full_disk_is_said_and_what_was_kept_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(file: int, data: bytes) -> int:
        """Takes five bytes, and then no more."""
        if len(data) > 20:
            return write(file, data[:5])
        raise OSError("No space left on device")

    with AnswerJournal(tmp_path / "j", ASKED) as journal:
        journal.add(ONE)
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(ConfigError, match=r"No space left"):
            journal.add(REFUSED)
        monkeypatch.undo()
        assert journal.entries == [ONE]
    assert (tmp_path / "j").read_bytes().endswith(b"\n")
    assert kept(tmp_path / "j") == [ONE]
