"""A file replayed through a learner in this process: what a stream would have answered, and at how many LLM calls.

The file holds texts, and optionally the true label and the LLM's label of each: JSON lines, CSV, TSV, or plain text
with one text a line; each may be gzipped.
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

from serve_app.arrays import wilson
from serve_app.errors import DataError, reading
from serve_app.streams.labels import normal
from serve_app.streams.online.base import LabeledEvent, Learner

_LONGEST: Final = 2**30
"""Characters of a CSV field: texts beyond Python's default bound of 131,072 are left to the endpoint to refuse."""
_AHEAD: Final = 1024
"""Texts whose features are computed together: enough for batches of similar length, a few seconds of work."""


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """`label` and `expert` are indices of labels; None: not given, or (of the expert) one that is no label."""

    text: str
    label: int | None = None
    expert: int | None = None


def read_rows(
    path: Path, labels: Sequence[str], text: str = "text", label: str | None = None, expert: str | None = None
) -> list[ReplayRow]:
    """All rows; `text`, `label` and `expert` name columns. Labels are their words, or their index from 0.

    Raises DataError that names file, row and column: no such file, no row, a missing column, an empty text, a true
    label outside the set.
    """
    read = _FORMATS.get(path.name.removesuffix(".gz").rpartition(".")[2], _json_lines)
    rows = []
    for number, row in enumerate(read(path, _content(path)), 1):
        where = f"{path}, row {number}"
        value = _cell(row, text, where)
        if not isinstance(value, str) or not value.strip() or not _is_unicode(value):
            raise DataError(f"{where}: {text} is no text; remove the row, or name another column")
        true = None if label is None else _index(_cell(row, label, where), labels)
        if label is not None and true is None:
            raise DataError(f"{where}: {label} {row[label]!r} is no label; labels are {', '.join(labels)}")
        rows.append(ReplayRow(value, true, None if expert is None else _index(_cell(row, expert, where), labels)))
    if not rows:
        raise DataError(f"{path}: there is no row in it; give a file with texts")
    return rows


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode it: JSON may hold half a surrogate pair, which no model reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(path: Path) -> str:
    with reading(path, "it must be UTF-8 text, gzipped or not", EOFError, zlib.error, error=DataError):
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")


def _json_lines(path: Path, content: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DataError(
                f"{path}, line {number}: not JSON ({e}); write one JSON object a line, or name the file .csv, .tsv "
                "or .txt"
            ) from e
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: no JSON object; write one a line")
        yield row


def _separated(by: str) -> "Callable[[Path, str], Iterator[Mapping[str, Any]]]":
    def read(path: Path, content: str) -> Iterator[Mapping[str, Any]]:
        csv.field_size_limit(_LONGEST)
        rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=by)
        try:
            yield from rows
        except csv.Error as e:
            raise DataError(
                f"{path}, line {rows.line_num}: cannot be read ({e}); quote the field as CSV requires"
            ) from e

    return read


def _lines(path: Path, content: str) -> Iterator[Mapping[str, Any]]:
    return ({"text": line} for line in content.split("\n") if line.strip())


_FORMATS: Mapping[str, Callable[[Path, str], Iterator[Mapping[str, Any]]]] = {
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "txt": _lines,
}


def _cell(row: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in row:
        raise DataError(f"{where}: no column {column!r}; there are {', '.join(map(str, row))}")
    return row[column]


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
        """Of the answers whose true label is known; None without such answers."""
        return self.right / self.known if self.known else None

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.right, self.known)

    def share(self, level: str) -> float:
        """Share of the answers that are of this level."""
        return self.levels.get(level, 0) / max(1, self.done)

    def share_interval(self, level: str) -> tuple[float, float]:
        """Wilson's 95 % interval of that share."""
        return wilson(self.levels.get(level, 0), self.done)

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
            "accuracy_interval": list(self.accuracy_interval) if self.known else None,
            "share": {level: self.share(level) for level in self.levels},
            "share_interval": {level: list(self.share_interval(level)) for level in self.levels},
            "unparsed": self.unparsed,
            "failed": self.failed,
        }


def replay(
    learner: Learner, rows: Sequence[ReplayRow], levels: Sequence[str], seed: int, report: Callable[[ReplayScore], None]
) -> ReplayScore:
    """Row by row, with the expert's column as the LLM; `report` is called after each.

    Texts are prepared `_AHEAD` at a time, which takes a third of the time of one by one.
    """
    rng, score = random.Random(seed), ReplayScore()
    for at, row in enumerate(rows):
        if at % _AHEAD == 0:
            learner.prepare([ahead.text for ahead in rows[at : at + _AHEAD]])
        policy = learner.policy()
        episode = policy.act(row.text, [rng.random() for _ in range(1 + len(levels))])
        policy.observe(episode)  # as a Gateway does: its price moves with every query, not with every policy
        learner.observe(episode)
        if episode.level is None:
            learner.learn(LabeledEvent(row.text, row.expert, episode))
            score.add("llm", row.expert, row)
        else:
            score.add(levels[episode.level], episode.label, row)
        report(score)
    return score
