""""""

import gzip
import json

import pytest

from serve_app.errors import DataError
from serve_app.streams.replay import ReplayRow, read_rows

LABELS = ("joy", "fear")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"t": "one", "y": "Joy", "e": 1}\n\n{"t": "two", "y": 1, "e": -1}\n'),
        ("a.csv", "t,y,e\none,joy,1\ntwo,1,-1\n"),
        ("a.tsv", "t\ty\te\none\tjoy\t1\ntwo\t1\tsurprise\n"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_formats(tmp_path, name, content, zipped):
    path = tmp_path / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    assert read_rows(path, LABELS, "t", "y", "e") == [ReplayRow("one", 0, 1), ReplayRow("two", 1, None)]


def test_plain_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n")
    assert read_rows(path, LABELS) == [ReplayRow("one"), ReplayRow("two")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no row"),
        (b"\n\n", "no row"),
        (b'{"t": "one"}', "row 1: .*'y'.* t"),
        (b'{"t": "", "y": 0}', "row 1: t .*text"),
        (b'{"t": 3, "y": 0}', "row 1: t .*text"),
        (b'{"t": "half \\ud83d of it", "y": 0}', "row 1: t .*text"),
        (b'{"t": "one", "y": "anger"}', "row 1: y 'anger' .*joy, fear"),
        (b'{"t": "one", "y": 2}', "row 1: y 2 .*label"),
        (b'{"t": "one", "y": 0}\n{"t"', "line 2: not JSON"),
        (b"[1]", "line 1: .*JSON object"),
        (b"\xff\xfe", "must be UTF-8"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(path, LABELS, "t", "y")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b't,y\n"one,0\n', "1: no column|row 1: y None"),
        ("a.csv", b"t,y\n", "no row"),
        ("a.csv", b"t\none\n", "row 1: .*'y'.* t"),
        ("a.csv.gz", gzip.compress(b"t,y\none,0\n" * 99, mtime=0)[:-20], "cannot be read"),
        ("a.csv.gz", gzip.compress(b"t,y\none,0\n", mtime=0)[:12] + b"\xff" * 30, "cannot be read"),
        ("a.jsonl", b'{"t": "one", "y": 1e999}', "row 1: y inf"),
        ("a.jsonl", b'{"t": "one", "y": NaN}', "row 1: y nan"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.parquet", b"PAR1\x00\xff", "must be UTF-8"),
        ("a.bin", b"\x00\x01\x02", "line 1: .*JSON .*.csv, .tsv or .txt"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(path, LABELS, "t", "y")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match=r"Is a directory"):
        read_rows(tmp_path, LABELS)


def test_a_csv_field_may_be_long_and_hold_line_ends_and_nul(tmp_path):
    path = tmp_path / "a.csv"
    text = "x" * 200_000 + "\r\ny\0"
    path.write_text(f't,y\n"{text}",0\n', newline="")
    assert read_rows(path, LABELS, "t", "y") == [ReplayRow(text, 0)]


def test_no_file_and_a_file_that_is_not_zipped(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.jsonl", LABELS)
    path = tmp_path / "a.jsonl.gz"
    path.write_text(json.dumps({"text": "x"}))
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(path, LABELS)
