"""Which models, weakest first, on which recorded answers; and the plain cascade's figures that are to be beaten."""

from dataclasses import dataclass
from pathlib import Path

from serve_app.data.recorded import Recorded, read
from serve_app.errors import DataError

FILES = {"MMLU": "mmlu_chain.jsonl.gz", "TriviaQA": "triviaqa_chain.jsonl.gz"}
MODELS = {
    "1b": "llama3.2-1b",
    "3b": "llama3.2-3b",
    "8b": "llama3.1-8b",
    "70b": "llama3.1-70b",
    "405b": "llama3.1-405b",
    "72b": "qwen2.5-72b-instruct",
    "mini": "gpt-4o-mini",
    "4o": "gpt-4o",
}
SETTINGS: tuple[tuple[str, ...], ...] = (
    ("8b", "405b"),
    ("mini", "4o"),
    ("8b", "70b"),
    ("1b", "8b", "70b"),
    ("8b", "70b", "405b"),
    ("mini", "8b", "72b", "4o"),
    ("1b", "3b", "8b", "70b", "405b"),
    ("mini", "8b", "70b", "72b", "405b"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the plain cascade: share of always-large cost, and test accuracy at it."""

    setting: tuple[str, str]
    data: str
    cost_share: float
    accuracy: float


PLAIN = (
    Row(("8b", "405b"), "MMLU", 0.32, 0.739),
    Row(("8b", "405b"), "MMLU", 0.59, 0.809),
    Row(("8b", "405b"), "MMLU", 0.86, 0.847),
    Row(("mini", "4o"), "MMLU", 0.29, 0.795),
    Row(("mini", "4o"), "MMLU", 0.52, 0.827),
    Row(("mini", "4o"), "MMLU", 0.54, 0.830),
    Row(("8b", "405b"), "TriviaQA", 0.32, 0.893),
    Row(("8b", "405b"), "TriviaQA", 0.58, 0.939),
    Row(("8b", "405b"), "TriviaQA", 0.82, 0.948),
    Row(("mini", "4o"), "TriviaQA", 0.28, 0.952),
)
"""Plain two-model cascade: deferral by a quantile of the raw confidence on train, as first computed on these files."""


def load(folder: Path) -> dict[str, Recorded]:
    """The recorded answers by name. Raises DataError where a file is missing or broken."""
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: there is no {missing[0]}; give the folder with {' and '.join(FILES.values())}")
    return {name: read(folder / file) for name, file in FILES.items()}
