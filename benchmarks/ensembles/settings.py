"""The five settings, their files, assumed list prices, and the untuned cascade that is to be beaten."""

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.errors import DataError
from serve_app.types import Message, Query

Floats = NDArray[np.float64]

PRICES: Mapping[str, tuple[float, float]] = {
    "llama-3.1-8b": (0.18, 0.18),
    "llama-3.1-70b": (0.88, 0.88),
    "llama-3.1-405b": (3.5, 3.5),
    "gemma-2-9b": (0.3, 0.3),
    "gemma-2-27b": (0.8, 0.8),
    "qwen2.5-7b": (0.3, 0.3),
    "qwen2.5-72b": (1.2, 1.2),
    "mixtral-8x7b": (0.6, 0.6),
    "mistral-large": (2.0, 6.0),
    "phi-3-mini": (0.1, 0.1),
    "gpt-4o-mini": (0.15, 0.6),
    "gpt-4o": (2.5, 10.0),
    "claude-3-haiku": (0.25, 1.25),
    "claude-3-5-sonnet": (3.0, 15.0),
    "claude-3-opus": (15.0, 75.0),
    "gemini-1.5-flash": (0.075, 0.3),
    "gemini-1.5-pro": (1.25, 5.0),
    "deepseek-chat": (0.14, 0.28),
}
"""Assumed list prices, US dollars per million tokens, input and output, by the start of a model's name. Others are
priced by their size, see `price`."""
BY_SIZE = ((10.0, 0.2), (34.0, 0.6), (80.0, 0.9))
"""Billions of parameters up to which a model costs so much a million tokens."""
CHARACTERS = 4.0
"""Of a token, assumed."""
COVERAGE = 0.97
"""Share of the queries that a further member must have answered."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Two small models and a strong one. `quality` at `share` of strong calls: the untuned cascade, whole file."""

    name: str
    file: str
    small: tuple[str, str]
    strong: str
    quality: float
    share: float

    @property
    def models(self) -> tuple[str, ...]:
        """All three, the strong one last."""
        return (*self.small, self.strong)


SETTINGS = (
    Setting(
        "GSM8K",
        "zeroeval_gsm",
        ("Meta-Llama-3.1-8B-Instruct", "gemma-2-9b-it"),
        "Meta-Llama-3.1-70B-Instruct",
        0.944,
        0.215,
    ),
    Setting(
        "MATH level 5",
        "zeroeval_math_l5",
        ("Qwen2.5-7B-Instruct", "gemini-1.5-flash"),
        "gpt-4o-2024-08-06",
        0.605,
        0.673,
    ),
    Setting("CRUX", "zeroeval_crux", ("gemini-1.5-flash", "Qwen2.5-7B-Instruct"), "gpt-4o-2024-08-06", 0.842, 0.604),
    Setting(
        "MMLU-Pro, small",
        "mmlu_pro",
        ("Meta-Llama-3_1-8B-Instruct", "Phi-3-mini-4k-instruct"),
        "Meta-Llama-3_1-70B-Instruct",
        0.629,
        0.595,
    ),
    Setting(
        "MMLU-Pro, large",
        "mmlu_pro",
        ("gemini-1.5-flash-002", "Meta-Llama-3_1-70B-Instruct"),
        "gemini-1.5-pro-002",
        0.745,
        0.360,
    ),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A setting's queries, which all three models answered: `entries[i][model]` is [answer, right, characters]."""

    setting: Setting
    queries: tuple[Query, ...]
    entries: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.queries)

    def dataset(self, models: Sequence[str]) -> Dataset:
        """The answers of some models; one that is missing says nothing, is wrong, and costs its prompt."""
        prompt = np.array([[len(query.text) / CHARACTERS] for query in self.queries])
        pools = {}
        for model in models:
            found = [row.get(model) or [None, 0, 0] for row in self.entries]
            written = np.array([[entry[2] / CHARACTERS] for entry in found])
            rate = price(model)
            assert rate is not None
            cost = (prompt * rate[0] + written * rate[1]) / 1e6
            right = np.array([[float(entry[1])] for entry in found])
            pools[model] = PoolAnswers(model, tuple((said(entry),) for entry in found), right, cost, prompt, written)
        about = {"source": self.setting.file, "metric": "recorded"}
        return Dataset(self.queries, pools, ("",) * len(self), about)

    def cascade(self) -> tuple[Floats, NDArray[np.bool_]]:
        """The untuned cascade: quality [n], and whether the strong model is called: where the smalls do not agree."""
        one, other = (np.array([said(row[name]) for row in self.entries], dtype=object) for name in self.setting.small)
        agree = (one == other) & (one != "")
        first, strong = (
            np.array([float(row[name][1]) for row in self.entries])
            for name in (self.setting.small[0], self.setting.strong)
        )
        return np.where(agree, first, strong), ~agree

    def cheap(self, rows: NDArray[np.int64], most: int) -> list[str]:
        """Further members, the most accurate below a third of the strong model's mean cost on the queries at `rows`."""
        names = sorted({name for row in self.entries for name in row} - set(self.setting.models))
        able = [n for n in names if price(n) and np.mean([n in row for row in self.entries]) >= COVERAGE]
        found = self.dataset([*able, self.setting.strong]).take(rows)
        limit = found.pools[self.setting.strong].cost_usd.mean() / 3
        able = [name for name in able if found.pools[name].cost_usd.mean() < limit]
        return sorted(able, key=lambda name: -float(found.pools[name].quality.mean()))[:most]


def load(folder: Path, setting: Setting) -> Loaded:
    """The setting's rows. Raises DataError where the file is missing or broken."""
    path = folder / f"{setting.file}.jsonl.gz"
    if not path.is_file():
        raise DataError(f"{folder}: there is no {path.name}; give the folder of the recorded answers")
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        rows = [row for row in rows if all(name in row["models"] for name in setting.models)]
        queries = tuple(Query((Message("user", prompt_of(row)),)) for row in rows)
        entries = tuple(row["models"] for row in rows)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{path}: not JSON lines of prompt and models ({e})") from e
    return Loaded(setting, queries, entries)


def prompt_of(row: Mapping[str, Any]) -> str:
    """The question, with its options where it has some."""
    options = row.get("options") or ()
    return "\n".join([row["prompt"], *(f"{chr(65 + i)}. {text}" for i, text in enumerate(options))])


def said(entry: Sequence[Any]) -> str:
    """The answer of an entry; "" where none was read."""
    return "" if entry[0] is None or not str(entry[0]).strip() else str(entry[0])


def price(model: str) -> tuple[float, float] | None:
    """US dollars per million tokens, input and output; None where neither name nor size says."""
    name = model.lower().replace("3_1", "3.1")
    for start, rate in PRICES.items():
        if re.search(rf"(?:^|-){re.escape(start)}", name):
            return rate
    if size := re.search(r"(?<![\d.])(\d+(?:\.\d+)?)b(?![a-z])", name):
        for most, usd in BY_SIZE:
            if float(size[1]) <= most:
                return usd, usd
    return None
