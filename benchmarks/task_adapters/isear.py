"""ISEAR, reports of situations and the emotion that was felt, as rows to learn from and rows to measure with.

The rows are those of online cascade learning (Nie et al. 2024); see the README of the data. Rows without a report
("[ No response.]") and repeated texts are left out. Everything that is chosen is chosen on rows of its own.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

FILE = Path("streams") / "isear.jsonl.gz"
"""Under the folder of data."""
LABELS = ("joy", "sadness", "anger", "guilt", "shame", "fear", "disgust")
_FEWEST_CHARACTERS = 12
SYSTEM = "Which emotion?"
"""The instruction that the adapter is trained with: it is short, since the adapter knows the seven labels."""


@dataclass(frozen=True, slots=True)
class Report:
    """One text and the emotion that its writer names."""

    text: str
    emotion: str


@dataclass(frozen=True, slots=True)
class Reports:
    """Disjoint parts: to train on, to choose a prompt for the base model on, and to measure with."""

    train: Sequence[Report]
    choose: Sequence[Report]
    measure: Sequence[Report]


def read(folder: Path, train: int, choose: int, measure: int, seed: int) -> Reports:
    """The parts, drawn at random. Raises FileNotFoundError without the file, ValueError for too few rows."""
    reports = []
    seen = set()
    with gzip.open(folder / FILE, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            text = " ".join(row["text"].split())
            if len(text) < _FEWEST_CHARACTERS or text.startswith("[") or text.lower() in seen:
                continue
            seen.add(text.lower())
            reports.append(Report(text, LABELS[row["label"]]))
    if len(reports) < train + choose + measure:
        raise ValueError(f"{folder / FILE}: {len(reports):,} rows, {train + choose + measure:,} are needed")
    Random(seed).shuffle(reports)
    return Reports(reports[:train], reports[train : train + choose], reports[train + choose :][:measure])


def messages(text: str) -> list[dict[str, Any]]:
    """The conversation in which the adapter is trained and serves."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def write_rows(reports: Sequence[Report], path: Path) -> None:
    """Rows for `jethro adapter train`."""
    with path.open("w", encoding="utf-8") as file:
        for report in reports:
            turns = [*messages(report.text), {"role": "assistant", "content": report.emotion}]
            file.write(json.dumps({"messages": turns}) + "\n")
