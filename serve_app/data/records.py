"""Rows of a file of records, each with its place for error messages: JSON lines (gzipped or not), CSV, Parquet.

Of a row only the id and the messages are read here, in any of their forms.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from serve_app.errors import DataError, needs_extra
from serve_app.types import Message, Role

_ROLES: Final = frozenset(get_args(Role))
_SUFFIXES: Final = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class Record:
    """One row: its values by column, and its place (`answers.csv, line 3`)."""

    values: Mapping[str, Any]
    where: str

    def get(self, *columns: str) -> Any:
        """The value of the first of these columns that there is and that is not empty; otherwise None."""
        for name in columns:
            value = self.values.get(name)
            if value is not None and value != "":
                return value
        return None

    def text(self, *columns: str) -> str | None:
        """The same as text; numbers as they are written."""
        value = self.get(*columns)
        return None if value is None else str(value)

    def fault(self, what: str) -> DataError:
        """An error that names this row."""
        return DataError(f"{self.where}: {what}")


def read_records(path: Path) -> Iterator[Record]:
    """The rows of a file in order; the kind follows from the name's end.

    Raises DataError naming file, line (or Parquet row, from 0) and fault.
    """
    name = path.name.lower()
    if not name.endswith(_SUFFIXES):
        raise DataError(f"{path}: unknown kind of file; give one that ends in {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if name.endswith(".parquet"):
            yield from _parquet(path)
        else:
            with gzip.open(path, "rb") if name.endswith(".gz") else path.open("rb") as raw:
                lines = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
                yield from _csv(path, lines) if ".csv" in name else json_lines(path, lines)
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: cannot be read ({e})") from e


def messages_of(record: Record) -> tuple[Message, ...]:
    """The conversation of a row, from `messages`, `prompt`, or `turns`.

    `messages` is OpenAI's list of objects; `turns` a list of the user's texts, of which a column `turn` takes the
    first so many: what the assistant said between them is not recorded, so the query is the user's side alone.
    Lists may be JSON in a text, as CSV needs it. Raises DataError if there is none or it is malformed.
    """
    for column in ("messages", "conversation"):
        if (value := _list(record, column)) is not None:
            return tuple(_message(record, column, item) for item in value)
    if (turns := _list(record, "turns")) is not None:
        if not all(isinstance(t, str) for t in turns):
            raise record.fault("turns must be a list of texts")
        return tuple(Message("user", text) for text in turns[: _turn(record, len(turns))])
    prompt = record.get("prompt", "question", "query")
    if not isinstance(prompt, str) or not prompt.strip():
        raise record.fault("there is no prompt: a row needs one of the columns prompt, messages, turns")
    return (Message("user", prompt),)


def unique_ids(records: Sequence[Record], prefix: str = "") -> tuple[str, ...]:
    """The column `id` of each row, or `prefix` and the position. Raises DataError for one that occurs twice."""
    first: dict[str, str] = {}
    for number, record in enumerate(records):
        if (name := record.text("id") or f"{prefix}{number}") in first:
            raise record.fault(f"id {name!r} is that of {first[name]} too; ids must differ")
        first[name] = record.where
    return tuple(first)


def flag(record: Record, column: str) -> bool:
    """A column of yes or no; empty is no. Raises DataError for anything else."""
    value = record.get(column)
    known = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False, "none": False}
    if (found := known.get(str(value).strip().lower())) is None:
        raise record.fault(f"{column} is {value!r}, not true or false")
    return found


def _turn(record: Record, turns: int) -> int:
    value = record.get("turn")
    try:
        turn = turns if value is None else int(value)
    except (TypeError, ValueError):
        raise record.fault(f"turn is {value!r}, not a number") from None
    if not 1 <= turn <= turns:
        raise record.fault(f"turn is {turn}, but there are {turns} turns")
    return turn


def _list(record: Record, column: str) -> list[Any] | None:
    value = record.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as e:
            raise record.fault(f"{column} is not JSON ({e})") from e
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise record.fault(f"{column} must be a list with at least one element")
    return value


def _message(record: Record, column: str, item: Any) -> Message:
    if not isinstance(item, dict) or item.get("role") not in _ROLES or not isinstance(item.get("content"), str):
        raise record.fault(f"{column} holds {item!r}: a message has a role of OpenAI's and a content that is text")
    rest = {k: v for k, v in item.items() if k not in ("role", "content", "extra") and v is not None}
    if item.get("extra"):  # as our own Parquet files have it
        rest |= json.loads(item["extra"])
    return Message(item["role"], item["content"], rest)


def json_lines(path: Path, lines: Iterable[str]) -> Iterator[Record]:
    """The objects of JSON lines. Raises DataError naming file and line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as e:
            raise DataError(f"{where}: not JSON ({e})") from e
        if not isinstance(values, dict):
            raise DataError(f"{where}: must be a JSON object, one a line")
        yield Record(values, where)


def _csv(path: Path, lines: io.TextIOWrapper) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # a prompt may be longer than csv's 128 KiB
    reader = csv.DictReader(lines, strict=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{where}: has not as many fields as the header has names")
            yield Record(row, where)
    except csv.Error as e:
        raise DataError(f"{path}, after line {reader.line_num}: not CSV ({e})") from e


def _parquet(path: Path) -> Iterator[Record]:
    with needs_extra("Parquet files need pyarrow", "train"):
        import pyarrow
        import pyarrow.parquet as pq
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    yield Record(values, f"{path}, row {number}")
                    number += 1
    except pyarrow.ArrowInvalid as e:
        raise DataError(f"{path}: cannot be read as Parquet ({e})") from e
