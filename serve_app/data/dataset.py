"""The one data set of answers: queries with what each pool answered, sampled, measured, and as far as known graded.

Routers are fitted on the samples' quality, tokens and cost; cascades on the first sample with the evidence on it
(`data.recorded`). Stored as Parquet.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.data.parquet import (
    Table,
    logprobs_column,
    messages_column,
    number_lists_column,
    numbers_column,
    samples_column,
    text_column,
    text_lists_column,
    write_table,
)
from serve_app.data.preferences import Preferences
from serve_app.errors import ConfigError
from serve_app.types import Query, TokenLogprob

MEASURES = ("quality", "prompt_tokens", "completion_tokens", "cost_usd", "latency_ms")
"""What is known of every sample along with its text."""
EVIDENCE: Final[Mapping[str, tuple[Callable[[Any], Any], Callable[[Table, str], Any]]]] = {
    "logprobs": (logprobs_column, Table.logprobs),
    "verdicts": (number_lists_column, Table.number_lists),
    "extra_samples": (text_lists_column, Table.text_lists),
    "confidence": (numbers_column, Table.numbers),
    "extra_cost_usd": (numbers_column, Table.numbers),
}
"""What may be known of the first sample, for cascades, with the writer and the reader of its Parquet column."""
LOGPROB: Final = "logprob"
"""Name among `PoolAnswers.scores` of the mean log-probability (natural log) of each sample's tokens."""
KIND: Final = "jethro-dataset"
_MAY_BE_NULL: Final = ("quality", "latency_ms")
_Values = TypeVar("_Values")


@dataclass(frozen=True, slots=True)
class PoolAnswers:
    """One pool's answers to n queries, k samples each; arrays of shape [n, k].

    Quality is in the unit of the metric that made it (in [0, 1] unless `about["quality_range"]` of the dataset says
    otherwise), or nan throughout where the answers are not scored yet. `latency_ms` is None where it was not measured.
    `model` is "" where a file of others does not name it.

    The evidence is of each query's first sample, empty or None where none was recorded: the log-probabilities of its
    tokens; the model's `verdicts` on it, fractions in [0, 1] or nan; `extra_samples`, answers drawn at a temperature of
    their own, for agreement alone; `confidence`, a raw signal of shape [n], higher is surer, nan if unknown; and
    `extra_cost_usd` of shape [n], the cost of the calls for verdicts and extra samples.

    `scores`: what further metrics gave each sample, by name, in their own units, and `LOGPROB`; shape [n, k], nan where
    unknown.
    """

    model: str
    texts: tuple[tuple[str, ...], ...]
    quality: Floats
    cost_usd: Floats
    prompt_tokens: Floats
    completion_tokens: Floats
    latency_ms: Floats | None = None
    logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    verdicts: tuple[tuple[float, ...], ...] = ()
    extra_samples: tuple[tuple[str, ...], ...] = ()
    confidence: Floats | None = None
    extra_cost_usd: Floats | None = None
    scores: Mapping[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.quality.shape
        if len(shape) != 2 or shape[1] == 0:
            raise ValueError(f"{self.model}: quality has shape {shape}, not [queries, samples]")
        for name, values in [*((m, getattr(self, m)) for m in MEASURES[1:]), *self.scores.items()]:
            if values is not None and values.shape != shape:
                raise ValueError(f"{self.model}: {name} has shape {values.shape}, quality has {shape}")
        if len(self.texts) != shape[0] or any(len(t) != shape[1] for t in self.texts):
            raise ValueError(f"{self.model}: texts do not have the shape of quality, {shape}")
        for name in EVIDENCE:
            values = getattr(self, name)
            if values is not None and len(values) != shape[0] and values != ():
                raise ValueError(f"{self.model}: {name} of {len(values)} answers, quality of {shape[0]}")
        if np.isinf(self.quality).any():
            raise ValueError(f"{self.model}: quality must be finite")

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Self:
        """The answers to some of the queries, in the order given."""
        at = np.asarray(rows, dtype=np.int64)
        names = [f.name for f in fields(self) if f.name != "model"]
        return replace(self, **{name: _taken(getattr(self, name), at) for name in names})

    def mean_logprobs(self) -> Floats:
        """Mean log-probability of each sample's tokens, shape [n, k], nan where unknown.

        Without `LOGPROB` among the scores it is read off the log-probabilities of the first samples.
        """
        if LOGPROB in self.scores:
            return self.scores[LOGPROB]
        found = np.full(self.quality.shape, np.nan)
        for row, tokens in enumerate(self.logprobs):
            found[row, 0] = mean_logprob(tokens)
        return found

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
    """Battles in addition to the pools' own answers, for routers that learn from preferences (RouteLLM)."""
    splits: tuple[str, ...] = ()
    """The split of each query, `train` or `test` for instance; empty if the data are not split."""
    prior: Floats | None = None
    """A router's strong win rate for each query, shape [n], nan where unknown: the signal `prior` of cascades."""

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
        for name, column in (("references", self.references), ("splits", self.splits)):
            if column and len(column) != n:
                raise ValueError(f"{n} queries, but {len(column)} {name}")
        if self.prior is not None and self.prior.shape != (n,):
            raise ValueError(f"{n} queries, but a prior of shape {self.prior.shape}")

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
        names = ("queries", "groups", "ids", "references", "splits", "prior")
        return replace(self, pools=pools, **{name: _taken(getattr(self, name), at) for name in names})

    def pair(self, weak: str, strong: str) -> Self:
        """The same queries with the pools `weak` and `strong` under the names `small` and `large`.

        Raises ConfigError for a pool that is not in the dataset.
        """
        if missing := [name for name in (weak, strong) if name not in self.pools]:
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
            for field_name in EVIDENCE:
                found = getattr(pool, field_name)
                if found is not None and len(found):
                    plain = found.tolist() if isinstance(found, np.ndarray) else found
                    digest.update(repr((field_name, plain)).encode("utf-8", "surrogatepass"))
            for metric in sorted(pool.scores):
                digest.update(metric.encode() + np.where(np.isnan(s := pool.scores[metric]), np.nan, s).tobytes())
        if self.prior is not None:
            digest.update(repr(("prior", self.prior.tolist())).encode())
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
        of MEASURES: lists with one element a sample, null where a sample is not scored or was not timed. Where known
        also `split`, `prior`, P with each of EVIDENCE, and `P_score_M` of further metrics M.

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
        if self.splits:
            columns["split"] = text_column(self.splits)
        if self.prior is not None:
            columns["prior"] = numbers_column(self.prior)
        for name, pool in self.pools.items():
            columns[f"{name}_text"] = text_lists_column(pool.texts)
            for measure in MEASURES:
                columns[f"{name}_{measure}"] = samples_column(getattr(pool, measure), pool.quality.shape)
            for what, (column, _) in EVIDENCE.items():
                values = getattr(pool, what)
                if values is not None and len(values):
                    columns[f"{name}_{what}"] = column(values)
            for metric, values in pool.scores.items():
                columns[f"{name}_score_{metric}"] = samples_column(values, values.shape)
        models = {name: pool.model for name, pool in self.pools.items()}
        scores = {name: list(pool.scores) for name, pool in self.pools.items() if pool.scores}
        header = {"kind": KIND, "models": models, "about": dict(self.about)} | ({"scores": scores} if scores else {})
        write_table(path, columns, header)

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
            splits=table.texts("split") if "split" in table else (),
            prior=table.numbers("prior") if "prior" in table else None,
        )


def mean_logprob(tokens: Sequence[TokenLogprob]) -> float:
    """Mean over the tokens whose log-probability is known; nan without any."""
    known = [token.logprob for token in tokens if not np.isnan(token.logprob)]
    return sum(known) / len(known) if known else float("nan")


def _taken(values: _Values, rows: NDArray[np.int64]) -> _Values:
    """Some rows of a column: of an array, arrays by name, or a tuple; None and an empty tuple stay."""
    if isinstance(values, tuple):
        return tuple(values[i] for i in rows) if values else values  # type: ignore[return-value]
    if isinstance(values, dict):
        return {name: own[rows] for name, own in values.items()}  # type: ignore[return-value]
    return values[rows] if isinstance(values, np.ndarray) else values  # type: ignore[return-value]


def _read_pool(table: Table, name: str, model: str) -> PoolAnswers:
    texts = table.text_lists(f"{name}_text", "sample")
    shape = (len(texts), table.lengths(f"{name}_text", [len(t) for t in texts]))
    columns: dict[str, Any] = {m: table.samples(f"{name}_{m}", nulls=m in _MAY_BE_NULL) for m in MEASURES}
    for measure, values in columns.items():
        if values.shape != shape:
            raise table.fault(0, f"{name}_{measure}", f"holds {values.shape[1]} samples, {name}_text {shape[1]}")
    latency = columns.pop("latency_ms")
    known = [(what, f"{name}_{what}", read) for what, (_, read) in EVIDENCE.items() if f"{name}_{what}" in table]
    evidence = {what: read(table, column) for what, column, read in known}
    metrics = table.header.get("scores", {}).get(name, [])
    evidence["scores"] = {str(m): table.samples(f"{name}_score_{m}", nulls=True) for m in metrics}
    return PoolAnswers(model, texts, **columns, latency_ms=None if np.isnan(latency).all() else latency, **evidence)
