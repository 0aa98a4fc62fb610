"""Queries with what each pool answered: quality, tokens and cost of every sampled answer.

One gzipped JSON line a query after a header line, so that a file can be read, cut and joined with ordinary tools.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ConfigError
from serve_app.types import Message, Query

if TYPE_CHECKING:
    from serve_app.learning.preferences import Preferences

FORMAT = 1
KIND = "jethro-dataset"
Floats = NDArray[np.float64]


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
    preferences: "Preferences | None" = None
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
        """Hash of all rows: names the data that a router was trained on."""
        digest = hashlib.blake2b(digest_size=16)
        for row in self._rows():
            digest.update(row.encode())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write one gzipped file; the same data give the same bytes."""
        header = {
            "kind": KIND,
            "format": FORMAT,
            "models": {name: pool.model for name, pool in self.pools.items()},
            "about": dict(self.about),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as out:
            out.write((json.dumps(header) + "\n").encode())
            for row in self._rows():
                out.write((row + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """The dataset in a file. Raises ConfigError naming file, line and fault."""
        try:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                return cls._parse(path, lines)
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file; collect a dataset first") from None
        except (OSError, EOFError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}: cannot be read ({e}); it must be a gzipped file of JSON lines") from e

    def _rows(self) -> Iterator[str]:
        for i, query in enumerate(self.queries):
            pools = {
                name: {
                    "texts": pool.texts[i],
                    "quality": pool.quality[i].tolist(),
                    "cost_usd": pool.cost_usd[i].tolist(),
                    "prompt_tokens": pool.prompt_tokens[i].tolist(),
                    "completion_tokens": pool.completion_tokens[i].tolist(),
                }
                for name, pool in self.pools.items()
            }
            messages = [m.to_openai() for m in query.messages]
            yield json.dumps({"messages": messages, "group": self.groups[i], "pools": pools}, ensure_ascii=False)

    @classmethod
    def _parse(cls, path: Path, lines: Iterator[str]) -> Self:
        header = _object(path, 1, next(lines, ""))
        if header.get("kind") != KIND or header.get("format") != FORMAT:
            raise ConfigError(f"{path}: not a dataset of format {FORMAT}; collect it again")
        rows = [_object(path, number, line) for number, line in enumerate(lines, 2)]
        try:
            queries = tuple(Query(tuple(_message(m) for m in row["messages"])) for row in rows)
            pools = {
                name: _answers(model, [r["pools"][name] for r in rows]) for name, model in header["models"].items()
            }
            return cls(queries, pools, tuple(str(r["group"]) for r in rows), header["about"])
        except (KeyError, TypeError, ValueError) as e:
            raise ConfigError(f"{path}: a row is incomplete or malformed ({e!r}); collect the dataset again") from e


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path}, line {number}: not JSON ({e}); collect the dataset again") from e
    if not isinstance(row, dict):
        raise ConfigError(f"{path}, line {number}: must be an object; collect the dataset again")
    return row


def _message(message: dict[str, Any]) -> Message:
    extra = {k: v for k, v in message.items() if k not in ("role", "content")}
    return Message(message["role"], message["content"], extra)


def _answers(model: str, rows: list[dict[str, Any]]) -> PoolAnswers:
    def column(name: str) -> Floats:
        return np.array([row[name] for row in rows], dtype=np.float64)

    texts = tuple(tuple(str(t) for t in row["texts"]) for row in rows)
    return PoolAnswers(
        model, texts, column("quality"), column("cost_usd"), column("prompt_tokens"), column("completion_tokens")
    )
