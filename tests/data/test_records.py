""""""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve_app.data.records import Record, flag, messages_of, read_records
from serve_app.errors import DataError
from serve_app.types import Message
from tests.data.test_parquet import rich

ROWS = [{"id": "a", "prompt": "one, two"}, {"id": "b", "prompt": 'ü "q"\nline'}]


def written(folder: Path, name: str) -> Path:
    """ROWS in a file of this name."""
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    plain = folder / "plain"
    with plain.open("w", newline="", encoding="utf-8") as out:
        if ".csv" in name:
            writer = csv.DictWriter(out, ["id", "prompt"])
            writer.writeheader()
            writer.writerows(ROWS)
        else:
            out.write("".join(json.dumps(row) + "\n\n" for row in ROWS))
    path.write_bytes(gzip.compress(plain.read_bytes()) if name.endswith(".gz") else plain.read_bytes())
    return path


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.csv", "r.csv.gz", "r.parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    found = list(read_records(path))
    assert [dict(r.values) for r in found] == ROWS
    assert found[0].where.startswith(f"{path}, {'row 0' if name.endswith('parquet') else 'line '}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.txt", b"", ".jsonl"),
        ("r.jsonl", b'{"a": 1}\n{"a": \n', "line 2: not JSON"),
        ("r.jsonl", b"[1]\n", "line 1: .*JSON object"),
        ("r.jsonl", b"\xff\xfe\n", "cannot be read"),
        ("r.jsonl.gz", b"plain", "cannot be read"),
        ("r.csv", b"a,b\n1,2\n3\n", "line 3: .*fields"),
        ("r.csv", b"a,b\n1,2,3\n", "line 2: .*fields"),
        ("r.csv", b'a,b\n"1"2,3\n', "after line 1: not CSV"),
        ("r.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        list(read_records(path))
    assert str(path) in raised.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_records(tmp_path / "r.jsonl"))


def record(**values: Any) -> Record:
    return Record(values, "r.csv, line 7")


def test_conversations_in_all_forms() -> None:
    q, a = Message("user", "q"), Message("assistant", "a", {"name": "x"})
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "name": "x"}]
    assert messages_of(record(prompt="q")) == (q,)
    assert messages_of(record(messages=talk, prompt="unused")) == (q, a)
    assert messages_of(record(messages=json.dumps(talk))) == (q, a)
    assert messages_of(record(turns=["q", "r"])) == (q, Message("user", "r"))
    assert messages_of(record(turns=["q", "r"], turn=1)) == messages_of(record(turns='["q", "r"]', turn="1")) == (q,)


def test_conversations_of_our_own_files_stripped_of_their_metadata(tmp_path: Path) -> None:
    rich().save(tmp_path / "a.parquet")
    pq.write_table(pq.read_table(tmp_path / "a.parquet").replace_schema_metadata(None), tmp_path / "b.parquet")
    assert messages_of(next(iter(read_records(tmp_path / "b.parquet")))) == rich().queries[0].messages


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"messages": "["}, "messages is not JSON"),
        ({"messages": []}, "one element"),
        ({"messages": [{"role": "boss", "content": "q"}]}, "boss"),
        ({"messages": [{"role": "user", "content": None}]}, "content"),
        ({"messages": ["q"]}, "role"),
        ({"turns": [1]}, "turns .*list"),
        ({"turns": ["q"], "turn": 2}, "turn is 2"),
        ({"turns": ["q"], "turn": "x"}, "turn is 'x'"),
    ],
)
def test_rows_without_a_conversation_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        messages_of(record(**values))
    assert raised.value.message.startswith("r.csv, line 7: ")


def test_flags() -> None:
    assert [flag(record(x=v), "x") for v in (True, "True", 1, "1")] == [True] * 4
    assert [flag(record(x=v), "x") for v in (False, "false", 0, "", None)] == [False] * 5
    with pytest.raises(DataError, match=r"x .*'maybe'"):
        flag(record(x="maybe"), "x")
