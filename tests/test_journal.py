"""Lines come back whole: torn and broken ones are dropped, and a failing disk leaves no half line."""

import os

import pytest

from serve_app import journal as module
from serve_app.journal import Journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal-00000000.jsonl"


def test_a_new_journal_is_for_its_owner_alone(path):
    mask = os.umask(0o022)
    try:
        Journal(path).close()
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o600


def write(path, *lines):
    journal = Journal(path, checksums=True)
    for line in lines:
        journal.append(line)
    journal.close()


def read(path):
    journal = Journal(path, checksums=True)
    journal.close()
    return journal


def test_lines_come_back_in_order(path):
    write(path, b'{"a":1}', b'{"b":2}')
    write(path, b'{"c":3}')
    assert read(path).lines == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


@pytest.mark.parametrize("kept", range(1, 18))
def test_a_last_line_cut_anywhere_is_dropped_and_the_next_one_is_whole(path, kept):
    write(path, b'{"a":1}')
    size = path.stat().st_size
    write(path, b'{"second":2}')
    os.truncate(path, size + kept)
    write(path, b'{"c":3}')
    assert read(path).lines == [b'{"a":1}', b'{"c":3}']


def test_a_broken_line_is_left_out_and_counted(path):
    write(path, b'{"a":1}', b'{"b":2}', b'{"c":3}')
    path.write_bytes(path.read_bytes().replace(b'"b"', b'"x"'))
    found = read(path)
    assert (found.lines, found.broken) == ([b'{"a":1}', b'{"c":3}'], 1)


@pytest.fixture
def failing_disk(monkeypatch):
    """A fake of a disk that takes five bytes of a line and then fails, until it is repaired."""
    whole = os.write

    def turn(error):
        def write(file, data):
            whole(file, data[:5])
            raise error

        monkeypatch.setattr(module.os, "write", write)

    return turn


def test_what_cannot_be_written_leaves_no_half_line(path, monkeypatch, failing_disk):
    journal = Journal(path, checksums=True)
    journal.append(b'{"a":1}')
    failing_disk(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        journal.append(b'{"b":2}')
    monkeypatch.undo()
    journal.append(b'{"c":3}')
    journal.close()
    assert read(path).lines == [b'{"a":1}', b'{"c":3}']


def test_a_journal_that_cannot_be_read_leaves_no_file_open(path, monkeypatch):
    write(path, b'{"a":1}')

    def broken(self):
        raise OSError(5, "Input/output error")

    before = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(module.Journal, "_read", broken)
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            Journal(path, checksums=True)
    assert len(os.listdir("/dev/fd")) == before


def test_half_a_line_that_could_not_be_taken_back_is_before_the_next_one(path, monkeypatch, failing_disk):
    journal = Journal(path, checksums=True)
    journal.append(b'{"a":1}')

    def stuck(file, size):
        raise OSError(5, "Input/output error")

    failing_disk(OSError(5, "Input/output error"))
    monkeypatch.setattr(module.os, "ftruncate", stuck)
    with pytest.raises(OSError, match="Input/output error"):
        journal.append(b'{"b":2}')
    monkeypatch.undo()
    journal.append(b'{"c":3}')
    journal.close()
    assert (read(path).lines, read(path).broken) == ([b'{"a":1}', b'{"c":3}'], 0)


def test_without_checksums_lines_are_as_given(path):
    journal = Journal(path)
    journal.append(b'{"a":1}', sync=False)
    journal.sync()
    journal.close()
    assert path.read_bytes() == b'{"a":1}\n'
    again = Journal(path)
    again.close()
    assert (again.lines, again.broken) == ([b'{"a":1}'], 0)


def test_an_exclusive_journal_has_one_owner(path):
    journal = Journal(path, exclusive=True)
    with pytest.raises(BlockingIOError):
        Journal(path, exclusive=True)
    journal.close()
    Journal(path, exclusive=True).close()
