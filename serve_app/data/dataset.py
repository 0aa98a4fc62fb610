"""Queries with what each pool answered: quality, tokens and cost of every sampled answer. Stored as Parquet."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.data.parquet import (
    Table,
    messages_column,
    samples_column,
    text_column,
    text_lists_column,
    write_table,
)
from serve_app.data.preferences import Preferences
from serve_app.errors import ConfigError
from serve_app.types import Query

MEASURES = ("quality", "prompt_tokens", "completion_tokens", "cost_usd", "latency_ms")
"""What is known of every sample along with its text."""
KIND: Final = "jethro-dataset"
_MAY_BE_NULL: Final = ("quality", "latency_ms")


@dataclass(frozen=True, slots=True)
class PoolAnswers:
    """One pool's answers to n queries, k samples each; arrays of shape [n, k].

    Quality is in the unit of the metric that made it (in [0, 1] unless `about["quality_range"]` of the dataset says
    otherwise), or nan throughout where the answers are not scored yet. `latency_ms` is None where nobody measured it.
    """

    model: str
    texts: tuple[tuple[str, ...], ...]
    quality: Floats
    cost_usd: Floats
    prompt_tokens: Floats
    completion_tokens: Floats
    latency_ms: Floats | None = None

    def __post_init__(self) -> None:
        shape = self.quality.shape
        if len(shape) != 2 or shape[1] == 0:
            raise ValueError(f"{self.model}: quality has shape {shape}, not [queries, samples]")
        for name in ("cost_usd", "prompt_tokens", "completion_tokens"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{self.model}: {name} has shape {getattr(self, name).shape}, quality has {shape}")
        if len(self.texts) != shape[0] or any(len(t) != shape[1] for t in self.texts):
            raise ValueError(f"{self.model}: texts do not have the shape of quality, {shape}")
        if self.latency_ms is not None and self.latency_ms.shape != shape:
            raise ValueError(f"{self.model}: latency_ms has shape {self.latency_ms.shape}, quality has {shape}")
        if np.isinf(self.quality).any():
            raise ValueError(f"{self.model}: quality must be finite")

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Self:
        """The answers to some of the queries, in the order given."""
        at = np.asarray(rows, dtype=np.int64)
        return type(self)(
            self.model,
            tuple(self.texts[i] for i in at),
            self.quality[at],
            self.cost_usd[at],
            self.prompt_tokens[at],
            self.completion_tokens[at],
            None if self.latency_ms is None else self.latency_ms[at],
        )

    def mean_tokens(self) -> Floats:
        """Mean prompt and completion tokens of each query, shape [n, 2]."""
        return np.stack([self.prompt_tokens.mean(1), self.completion_tokens.mean(1)], axis=1)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Queries, their answers by pool name, and a label for groups of them (the lab's task; may be empty strings)."""

    queries: tuple[Query, ...]
    pools: Mapping[str, PoolAnswers]
    groups: tuple[str, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where the queries come from (source, split, seed and the like), the metric, `quality_range` if not [0, 1]."""
    ids: tuple[str, ...] = ()
    """One for each query, unique; without them the position, as text."""
    references: tuple[str | None, ...] = ()
    """The right answer to each query where one is known; empty if to none."""
    preferences: Preferences | None = None
    """Battles beside the pools' own answers, for routers that learn from preferences (RouteLLM)."""

    def __post_init__(self) -> None:
        n = len(self.queries)
        if len(self.groups) != n:
            raise ValueError(f"{n} queries, but {len(self.groups)} groups")
        for name, pool in self.pools.items():
            if len(pool.quality) != n:
                raise ValueError(f"{n} queries, but {len(pool.quality)} answers of {name}")
        object.__setattr__(self, "ids", self.ids or tuple(str(i) for i in range(n)))
        if len(self.ids) != n or len(set(self.ids)) != n:
            raise ValueError(f"{n} queries, but {len(set(self.ids))} different ids")
        if self.references and len(self.references) != n:
            raise ValueError(f"{n} queries, but {len(self.references)} references")

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def weak(self) -> PoolAnswers:
        """Answers of the pool `small`."""
        return self.pools["small"]

    @property
    def strong(self) -> PoolAnswers:
        """Answers of the pool `large`."""
        return self.pools["large"]

    def strong_win_rate(self, margin: float = 0.0) -> Floats:
        """P(strong better than weak by more than `margin`) over all pairs of samples, shape [n]."""
        gap = self.strong.quality[:, :, None] - self.weak.quality[:, None, :]
        wins: Floats = (gap > margin).mean(axis=(1, 2))
        return wins

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Self:
        """Some of the queries, in the order given."""
        at = np.asarray(rows, dtype=np.int64)
        pools = {name: pool.take(at) for name, pool in self.pools.items()}
        queries, groups, ids = (tuple(column[i] for i in at) for column in (self.queries, self.groups, self.ids))
        references = tuple(self.references[i] for i in at) if self.references else ()
        return replace(self, queries=queries, pools=pools, groups=groups, ids=ids, references=references)

    def pair(self, weak: str, strong: str) -> Self:
        """The same queries with the pools `weak` and `strong` under the names `small` and `large`.

        Raises ConfigError for a pool that is not in the dataset.
        """
        missing = [name for name in (weak, strong) if name not in self.pools]
        if missing:
            raise ConfigError(f"the dataset has no pool {missing[0]!r}: it has {', '.join(self.pools)}")
        return replace(self, pools={"small": self.pools[weak], "large": self.pools[strong]})

    def digest(self) -> str:
        """Hash of all rows, however they are stored: names the data that a router was trained on."""
        digest = hashlib.blake2b(digest_size=16)
        references = self.references or (None,) * len(self)
        for row in zip(self.ids, self.queries, self.groups, references, strict=True):
            messages = [m.to_openai() for m in row[1].messages]
            digest.update(json.dumps([row[0], messages, *row[2:]]).encode() + b"\n")
        for name, pool in self.pools.items():
            digest.update(json.dumps([name, pool.model, pool.texts]).encode() + b"\n")
            for field_name in MEASURES:
                values = getattr(pool, field_name)
                digest.update(b"none" if values is None else np.where(np.isnan(values), np.nan, values).tobytes())
        return digest.hexdigest()

    def battles(self, margin: float = 0.0) -> Preferences:
        """One battle (strong, weak) a query, by mean quality; a tie where both differ by at most `margin`.

        Queries whose answers are not scored yield none.
        """
        gap = self.strong.quality.mean(1) - self.weak.quality.mean(1)
        outcome = np.where(gap > margin, 1.0, np.where(gap < -margin, 0.0, 0.5))
        strong, weak = ((pool.model,) * len(self) for pool in (self.strong, self.weak))
        return Preferences(self.queries, strong, weak, outcome).take(np.flatnonzero(np.isfinite(gap)))

    def save(self, path: Path) -> None:
        """Write a Parquet file, whole or not at all; the same data give the same bytes. Needs the extra `train`.

        Its columns are `id`, `messages`, `group`, `reference` (or null), and for every pool P `P_text` and P with each
        of MEASURES: lists with one element a sample, null where a sample is not scored or was not timed.

            duckdb:  select "group", avg(list_avg(small_quality)) from 'answers.parquet' group by 1
            pandas:  pandas.read_parquet("answers.parquet")["small_quality"].map(numpy.mean)

        Of a query its messages are kept. Raises ValueError if there are preferences: they have a file of their own
        (`Preferences.save`).
        """
        if self.preferences is not None:
            raise ValueError("the dataset has preferences: save them in a file of their own, with Preferences.save")
        columns: dict[str, Any] = {
            "id": text_column(self.ids),
            "messages": messages_column(self.queries),
            "group": text_column(self.groups),
            "reference": text_column(self.references or (None,) * len(self)),
        }
        for name, pool in self.pools.items():
            columns[f"{name}_text"] = text_lists_column(pool.texts)
            for measure in MEASURES:
                columns[f"{name}_{measure}"] = samples_column(getattr(pool, measure), pool.quality.shape)
        models = {name: pool.model for name, pool in self.pools.items()}
        write_table(path, columns, {"kind": KIND, "models": models, "about": dict(self.about)})

    @classmethod
    def load(cls, path: Path) -> "Dataset":
        """The dataset in a Parquet file. Raises DataError naming file, row and column. Needs the extra `train`."""
        table = Table(path, KIND)
        ids = table.unique_texts("id")
        pools = {str(name): _read_pool(table, str(name), str(model)) for name, model in table.header["models"].items()}
        references = tuple(table.column("reference"))
        return cls(
            table.queries(),
            pools,
            table.texts("group"),
            table.header["about"],
            ids,
            references if any(r is not None for r in references) else (),
        )


def _read_pool(table: Table, name: str, model: str) -> PoolAnswers:
    texts = table.text_lists(f"{name}_text")
    shape = (len(texts), table.lengths(f"{name}_text", [len(t) for t in texts]))
    columns = {m: table.samples(f"{name}_{m}", nulls=m in _MAY_BE_NULL) for m in MEASURES}
    for measure, values in columns.items():
        if values.shape != shape:
            raise table.fault(0, f"{name}_{measure}", f"holds {values.shape[1]} samples, {name}_text {shape[1]}")
    latency = columns.pop("latency_ms")
    return PoolAnswers(model, texts, **columns, latency_ms=None if np.isnan(latency).all() else latency)
