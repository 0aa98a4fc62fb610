"""A file replayed through a learner in this process: what a stream would have answered, and at how many LLM calls.

A stream from a file: texts, and for each the true label and the LLM's, where columns name them.

JSON lines, CSV, TSV, or plain text with one text a line; each may be gzipped.
"""

import csv
import gzip
import io
import json
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serve_app.errors import DataError
from serve_app.streams.labels import normal
from serve_app.streams.online.base import LabeledEvent, Learner

_LONGEST: Final = 2**30
"""Characters of a CSV field: longer texts than Python's default bound of 131,072 are for the endpoint to refuse."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns; None: there is none."""

    text: str = "text"
    label: str | None = None
    expert: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """`label` and `expert` are indices of labels; None: not given, or (of the expert) one that is no label."""

    text: str
    label: int | None = None
    expert: int | None = None


def read_rows(path: Path, columns: Columns, labels: Sequence[str]) -> list[ReplayRow]:
    """All rows. Labels are their words, or their index from 0.

    Raises DataError that names file, row and column: no such file, no row, a column that is missing, an empty text, a
    true label outside the set.
    """
    read = _FORMATS.get(path.name.removesuffix(".gz").rpartition(".")[2], _json_lines)
    rows = []
    for number, told in enumerate(read(path, _content(path)), 1):
        where = f"{path}, row {number}"
        text = _cell(told, columns.text, where)
        if not isinstance(text, str) or not text.strip() or not _is_unicode(text):
            raise DataError(f"{where}: {columns.text} is no text; leave the row out, or name another column")
        label = None if columns.label is None else _index(_cell(told, columns.label, where), labels)
        if columns.label is not None and label is None:
            raise DataError(
                f"{where}: {columns.label} {told[columns.label]!r} is no label; labels are {', '.join(labels)}"
            )
        expert = None if columns.expert is None else _index(_cell(told, columns.expert, where), labels)
        rows.append(ReplayRow(text, label, expert))
    if not rows:
        raise DataError(f"{path}: there is no row in it; give a file with texts")
    return rows


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold it: JSON may spell half a character, which no model reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
        raise DataError(f"{path}: cannot be read ({e}); it must be UTF-8 text, gzipped or not") from e


def _json_lines(path: Path, content: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DataError(
                f"{path}, line {number}: not JSON ({e}); write one JSON object a line, or name the file .csv, .tsv "
                "or .txt"
            ) from e
        if not isinstance(told, dict):
            raise DataError(f"{path}, line {number}: no JSON object; write one a line")
        yield told


def _separated(by: str) -> "Callable[[Path, str], Iterator[Mapping[str, Any]]]":
    def read(path: Path, content: str) -> Iterator[Mapping[str, Any]]:
        csv.field_size_limit(_LONGEST)
        rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=by)
        try:
            yield from rows
        except csv.Error as e:
            raise DataError(f"{path}, line {rows.line_num}: cannot be read ({e}); quote it as CSV wants it") from e

    return read


def _lines(path: Path, content: str) -> Iterator[Mapping[str, Any]]:
    return ({"text": line} for line in content.split("\n") if line.strip())


_FORMATS: Mapping[str, Callable[[Path, str], Iterator[Mapping[str, Any]]]] = {
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "txt": _lines,
}


def _cell(told: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in told:
        raise DataError(f"{where}: no column {column!r}; there are {', '.join(map(str, told))}")
    return told[column]


def _index(value: Any, labels: Sequence[str]) -> int | None:
    keys = [normal(label) for label in labels]
    if isinstance(value, str) and normal(value) in keys:
        return keys.index(normal(value))
    try:
        index = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return index if 0 <= index < len(labels) and not isinstance(value, bool) else None


@dataclass(slots=True)
class ReplayScore:
    """Counts of answers. `right` of `known` are the true label; `levels` counts answers by level, `llm` among them."""

    done: int = 0
    known: int = 0
    right: int = 0
    failed: int = 0
    unparsed: int = 0
    levels: dict[str, int] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Of the answers whose true label is known; None if there are none."""
        return self.right / self.known if self.known else None

    def share(self, level: str) -> float:
        """Of the answers that this level gave."""
        return self.levels.get(level, 0) / max(1, self.done)

    def add(self, level: str, label: int | None, row: ReplayRow) -> None:
        """An answer: the index of its label, None if it names none."""
        self.done += 1
        self.levels[level] = self.levels.get(level, 0) + 1
        self.unparsed += label is None
        if row.label is not None:
            self.known += 1
            self.right += label == row.label

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "queries": self.done,
            "accuracy": self.accuracy,
            "share": {level: self.share(level) for level in self.levels},
            "unparsed": self.unparsed,
            "failed": self.failed,
        }


def replay(
    learner: Learner, rows: Sequence[ReplayRow], levels: Sequence[str], seed: int, tell: Callable[[ReplayScore], None]
) -> ReplayScore:
    """Row by row, the column of the expert in the place of the LLM; `tell` is called after each."""
    rng, score = random.Random(seed), ReplayScore()
    for row in rows:
        episode = learner.policy().act(row.text, [rng.random() for _ in range(1 + len(levels))])
        learner.observe(episode)
        if episode.level is None:
            learner.learn(LabeledEvent(row.text, row.expert, episode))
            score.add("llm", row.expert, row)
        else:
            score.add(levels[episode.level], episode.label, row)
        tell(score)
    return score
