"""Imports recorded outcomes of other programs as a Dataset, and recorded battles as Preferences.

A file of outcomes has one row a query: `prompt`, `messages` or `turns`; optionally `id`, a group (`group`, `subject`,
`category` or `benchmark`, the first there is), `reference` (or `answer`) and `contaminated`; and for any number of
pools P the quality of P's answer (`P_correct`, `P_score` or `P_quality`), and optionally `P_response`, `P_cost_usd`,
`P_prompt_tokens`, `P_completion_tokens`, `P_latency_ms`. A list holds several samples.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.dataset import MEASURES, Dataset, PoolAnswers
from serve_app.data.preferences import Preferences
from serve_app.data.records import Record, flag, messages_of, read_records, unique_ids
from serve_app.errors import DataError
from serve_app.types import Message, Query

_QUALITY: Final = ("correct", "score", "quality")
_TEXT: Final = ("response", "text")
_COLUMN: Final = re.compile(rf"(.+?)_({'|'.join((*_QUALITY, *_TEXT, *MEASURES[1:]))})")
_GROUPS: Final = ("group", "subject", "category", "benchmark")
_UNIT: Final = (0.0, 1.0)
_RANGES: Final = {"mt_bench": (1.0, 10.0), "mt-bench": (1.0, 10.0)}
"""Scales of known benchmarks. MT-Bench's judge gives 1 to 10 (Zheng et al. 2023, arXiv 2306.05685, figure 6)."""
_OUTCOMES: Final = {"model_a": 1.0, "a": 1.0, "model_b": 0.0, "b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5}


def import_outcomes(
    path: Path,
    models: Mapping[str, str] | None = None,
    *,
    keep_contaminated: bool = False,
    quality_range: tuple[float, float] | None = None,
) -> Dataset:
    """The dataset of a file of outcomes.

    `models` names the pools to import and their models; without any, all pools found, each its own model.
    `quality_range` is the scale of the quality, where it is not [0, 1] and not a known benchmark's.
    Rows marked `contaminated` are dropped unless kept, and counted in `about["contaminated_dropped"]`. What no row
    records (cost, tokens) is 0, and named in `about["not_recorded"]`. Raises DataError naming file, row and fault.
    """
    if not (records := list(read_records(path))):
        raise DataError(f"{path}: there is no row")
    if not (kept := [r for r in records if keep_contaminated or not flag(r, "contaminated")]):
        raise DataError(f"{path}: all {len(records)} rows are contaminated; use --keep-contaminated to take them")
    columns = list(dict.fromkeys(name for record in kept for name in record.values))
    if not (models := models or {name: name for name in _pools(columns)}):
        raise DataError(f"{path}: no column such as small_correct, small_score, small_quality or small_response")
    scale = quality_range or _known_range(kept) or _UNIT
    readers = {name: _Reader(path, name, columns, scale) for name in models}
    references = tuple(record.text("reference", "answer") for record in kept)
    benchmarks = Counter(record.text("benchmark") for record in kept)
    about: dict[str, Any] = {"source": path.name, "contaminated_dropped": len(records) - len(kept)}
    if None not in benchmarks:
        about["benchmark"] = ", ".join(sorted(str(name) for name in benchmarks))
    if metrics := sorted({reader.metric for reader in readers.values() if reader.metric}):
        about["metric"] = ", ".join(metrics)
    if scale != _UNIT:
        about["quality_range"] = list(scale)
    about["not_recorded"] = sorted({column for reader in readers.values() for column in reader.missing})
    return Dataset(
        tuple(Query(messages_of(record)) for record in kept),
        {name: readers[name].read(kept, model) for name, model in models.items()},
        tuple(record.text(*_GROUPS) or "" for record in kept),
        about,
        unique_ids(kept, f"{path.name.split('.')[0]}-"),
        references if any(r is not None for r in references) else (),
    )


def import_preferences(path: Path) -> Preferences:
    """The battles of a file: a prompt, `model_a`, `model_b` and `winner`, as the chatbot arena publishes them.

    `winner` is model_a, model_b, tie or "tie (bothbad)". A prompt may be a JSON list of the user's turns; of a
    recorded conversation (`conversation_a`) the user's turns are taken. Raises DataError naming file, row and fault.
    """
    if not (records := list(read_records(path))):
        raise DataError(f"{path}: there is no row")
    outcomes = []
    for record in records:
        for column in ("model_a", "model_b"):
            if record.text(column) is None:
                raise record.fault(f"there is no {column}")
        if (winner := str(record.get("winner")).strip().lower()) not in _OUTCOMES:
            raise record.fault(f"winner is {record.get('winner')!r}, not one of {', '.join(_OUTCOMES)}")
        outcomes.append(_OUTCOMES[winner])
    return Preferences(
        tuple(Query(_user_turns(record)) for record in records),
        tuple(str(record.text("model_a")) for record in records),
        tuple(str(record.text("model_b")) for record in records),
        np.array(outcomes, dtype=np.float64),
    )


def _user_turns(record: Record) -> tuple[Message, ...]:
    """The user's side of a battle."""
    if record.get("conversation_a") is not None:
        values = {"messages": record.get("conversation_a")}
        said = tuple(m for m in messages_of(Record(values, record.where)) if m.role == "user")
        if not said:
            raise record.fault("conversation_a has no turn of the user")
        return said
    prompt = record.get("prompt")
    if isinstance(prompt, str) and prompt.lstrip().startswith('["'):
        try:
            prompt = json.loads(prompt)
        except json.JSONDecodeError:
            return messages_of(record)  # a prompt that happens to begin so
    if isinstance(prompt, list):
        return messages_of(Record({"turns": prompt}, record.where))
    return messages_of(record)


class _Reader:
    """Reads one pool's columns. Raises DataError if the file has none for it, or two for its quality."""

    def __init__(self, path: Path, pool: str, columns: Sequence[str], scale: tuple[float, float]) -> None:
        self._pool = pool
        self._scale = scale
        quality = [f"{pool}_{suffix}" for suffix in _QUALITY if f"{pool}_{suffix}" in columns]
        text = [f"{pool}_{suffix}" for suffix in _TEXT if f"{pool}_{suffix}" in columns]
        if not quality and not text:
            found = ", ".join(_pools(columns)) or "none"
            raise DataError(f"{path}: no column {pool}_correct, {pool}_score or {pool}_quality; pools found: {found}")
        if len(quality) > 1:
            raise DataError(f"{path}: {quality[0]} and {quality[1]} are both the quality of {pool}; keep one")
        self._quality = quality[0] if quality else None
        self._text = text[0] if text else None
        self._measures = {m: f"{pool}_{m}" for m in MEASURES[1:] if f"{pool}_{m}" in columns}
        self.metric = self._quality.removeprefix(f"{pool}_") if self._quality else ""
        self.missing = [m for m in MEASURES[1:] if m not in self._measures]

    def read(self, records: Sequence[Record], model: str) -> PoolAnswers:
        """The pool's answers to all rows."""
        texts = [self._texts(record) for record in records]
        k = len(texts[0]) if self._text else len(self._numbers(records[0], str(self._quality)))
        shape = (len(records), k)
        if self._text is None:
            texts = [("",) * k] * len(records)
        for record, samples in zip(records, texts, strict=True):
            if len(samples) != k:
                raise record.fault(f"{self._text} has {len(samples)} samples, the first row {k}")
        quality = self._column(records, self._quality, k) if self._quality else np.full(shape, np.nan)
        self._check_scale(records, quality)
        measured: dict[str, Any] = {m: self._column(records, self._measures.get(m), k) for m in MEASURES[1:4]}
        latency = self._column(records, self._measures["latency_ms"], k) if "latency_ms" in self._measures else None
        return PoolAnswers(model, tuple(texts), quality, **measured, latency_ms=latency)

    def _texts(self, record: Record) -> tuple[str, ...]:
        value = record.get(self._text) if self._text else ""
        return tuple(str(t) for t in value) if isinstance(value, list) else ("" if value is None else str(value),)

    def _column(self, records: Sequence[Record], column: str | None, k: int) -> Floats:
        """Shape [n, k]; one number a row holds for all its samples."""
        if column is None:
            return np.zeros((len(records), k))
        rows = []
        for record in records:
            numbers = self._numbers(record, column)
            if len(numbers) not in (1, k):
                raise record.fault(f"{column} has {len(numbers)} samples, the first row {k}")
            rows.append(numbers * k if len(numbers) == 1 else numbers)
        return np.array(rows, dtype=np.float64).reshape(len(records), k)

    def _numbers(self, record: Record, column: str) -> list[float]:
        value = record.get(column)
        if isinstance(value, str) and value.startswith("["):
            value = json.loads(value)
        return [_number(record, column, v) for v in (value if isinstance(value, list) else [value])]

    def _check_scale(self, records: Sequence[Record], quality: Floats) -> None:
        low, high = self._scale
        outside = (quality < low) | (quality > high)
        if outside.any():
            row = int(np.flatnonzero(outside.any(axis=1))[0])
            raise records[row].fault(
                f"{self._quality} is {quality[row][outside[row]][0]:g}, outside {low:g} to {high:g}; "
                "give the scale with --quality-range LOW HIGH"
            )


def _pools(columns: Sequence[str]) -> list[str]:
    """Pools that have a column of quality or text, in the order of the columns."""
    found = (_COLUMN.fullmatch(name) for name in columns)
    return list(dict.fromkeys(m[1] for m in found if m and m[2] in _QUALITY + _TEXT))


def _number(record: Record, column: str, value: Any) -> float:
    words = {"true": 1.0, "false": 0.0}
    try:
        number = float(words.get(str(value).strip().lower(), value))
    except (TypeError, ValueError):
        raise record.fault(f"{column} is {value!r}, not a number") from None
    if not np.isfinite(number):
        raise record.fault(f"{column} is {number}; every row needs a finite value")
    return number


def _known_range(records: Sequence[Record]) -> tuple[float, float] | None:
    ranges = {_RANGES.get(str(record.text("benchmark")).lower()) for record in records}
    return ranges.pop() if len(ranges) == 1 else None
