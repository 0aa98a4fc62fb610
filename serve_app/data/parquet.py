"""Datasets and preferences as Parquet files: one row a query, or a battle.

A dataset has the columns `id`, `messages` (a list of {role, content, extra}; `extra` is JSON or null), `group`,
`reference` (or null), and for every pool P the columns `P_text`, `P_quality`, `P_prompt_tokens`,
`P_completion_tokens`, `P_cost_usd` and `P_latency_ms`: lists with one element a sample, null where a sample is not
scored or was not timed. Flat columns, since pandas, duckdb and polars read those with the fewest words:

    duckdb:  select "group", avg(list_avg(small_quality)) from 'answers.parquet' group by 1
    pandas:  pandas.read_parquet("answers.parquet")["small_quality"].map(numpy.mean)

Preferences have `id`, `messages`, `model_a`, `model_b` and `winner` (model_a, model_b or tie). The file's own metadata
holds, as JSON under `jethro`, what it is, the version of this layout, the pools' model ids and `about`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.dataset import MEASURES, Dataset, PoolAnswers
from serve_app.data.preferences import Preferences
from serve_app.errors import DataError, missing_extra
from serve_app.files import replacing
from serve_app.types import Message, Query, Role

FORMAT: Final = 2
"""Version of the layout; another one is refused."""
DATASET: Final = "jethro-dataset"
PREFERENCES: Final = "jethro-preferences"
_KEY: Final = b"jethro"
_ROLES: Final = frozenset(get_args(Role))
_WINNERS: Final = {"model_a": 1.0, "tie": 0.5, "model_b": 0.0}
_MAY_BE_NULL: Final = ("quality", "latency_ms")


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write the file, whole or not at all. See `Dataset.save`."""
    pa = _pyarrow()
    if dataset.preferences is not None:
        raise ValueError("the dataset has preferences: save them in a file of their own, with Preferences.save")
    references = dataset.references or (None,) * len(dataset)
    columns: dict[str, Any] = {
        "id": pa.array(dataset.ids, pa.string()),
        "messages": _messages_column(pa, dataset.queries),
        "group": pa.array(dataset.groups, pa.string()),
        "reference": pa.array(references, pa.string()),
    }
    for name, pool in dataset.pools.items():
        columns[f"{name}_text"] = pa.array([list(t) for t in pool.texts], pa.list_(pa.string()))
        for measure in MEASURES:
            columns[f"{name}_{measure}"] = _lists(pa, getattr(pool, measure), pool.quality.shape)
    models = {name: pool.model for name, pool in dataset.pools.items()}
    _write(pa, path, columns, {"kind": DATASET, "format": FORMAT, "models": models, "about": dict(dataset.about)})


def load_dataset(path: Path) -> Dataset:
    """Read and check the file. See `Dataset.load`."""
    table = _Table(path, DATASET)
    ids = table.texts("id")
    _refuse_duplicates(table, ids)
    queries = table.queries()
    models = table.header["models"]
    pools = {str(name): _pool(table, str(name), str(model)) for name, model in models.items()}
    references = tuple(table.column("reference"))
    return Dataset(
        queries,
        pools,
        table.texts("group"),
        table.header["about"],
        ids,
        references if any(r is not None for r in references) else (),
    )


def save_preferences(preferences: Preferences, path: Path) -> None:
    """Write the file, whole or not at all. See `Preferences.save`."""
    pa = _pyarrow()
    winner = {outcome: name for name, outcome in _WINNERS.items()}
    columns = {
        "id": pa.array([str(i) for i in range(len(preferences))], pa.string()),
        "messages": _messages_column(pa, preferences.queries),
        "model_a": pa.array(preferences.model_a, pa.string()),
        "model_b": pa.array(preferences.model_b, pa.string()),
        "winner": pa.array([winner[float(o)] for o in preferences.outcome], pa.string()),
    }
    _write(pa, path, columns, {"kind": PREFERENCES, "format": FORMAT})


def load_preferences(path: Path) -> Preferences:
    """Read and check the file. See `Preferences.load`."""
    table = _Table(path, PREFERENCES)
    winners = table.texts("winner")
    for row, winner in enumerate(winners):
        if winner not in _WINNERS:
            raise table.fault(row, "winner", f"is {winner!r}, not one of {', '.join(_WINNERS)}")
    outcome = np.array([_WINNERS[w] for w in winners], dtype=np.float64)
    return Preferences(table.queries(), table.texts("model_a"), table.texts("model_b"), outcome)


class _Table:
    """An open file of one kind: its header, and its columns with checks that name file, row and column."""

    def __init__(self, path: Path, kind: str) -> None:
        self._pa = _pyarrow()
        self._path = path
        self._table = _read(self._pa, path)
        self.header = self._header(kind)
        self._ids = [str(i) for i in self.column("id")]

    def column(self, name: str) -> list[Any]:
        """The values of a column, nulls as None."""
        values: list[Any] = self._column(name, self._type(name)).to_pylist()
        return values

    def texts(self, name: str) -> tuple[str, ...]:
        """A column of texts, none of them null."""
        values = self.column(name)
        for row, value in enumerate(values):
            if value is None:
                raise self.fault(row, name, "is null")
        return tuple(values)

    def queries(self) -> tuple[Query, ...]:
        """The column `messages`."""
        return tuple(Query(self._messages(row, value)) for row, value in enumerate(self.column("messages")))

    def samples(self, name: str, nulls: bool = False) -> Floats:
        """A column of equally long lists of numbers, shape [n, k]; nulls are nan where they are allowed."""
        column = self._column(name, self._pa.list_(self._pa.float64())).combine_chunks()
        k = self.lengths(name, column.value_lengths().to_pylist())
        values: Floats = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, k)
        if not nulls and np.isnan(values).any():
            row = int(np.flatnonzero(np.isnan(values).any(axis=1))[0])
            raise self.fault(row, name, "has a sample without a value")
        if np.isinf(values).any():
            raise self.fault(int(np.flatnonzero(np.isinf(values).any(axis=1))[0]), name, "is not finite")
        return values

    def lengths(self, name: str, lengths: Sequence[int | None]) -> int:
        """The one length of a column's lists, 1 in an empty file."""
        for row, length in enumerate(lengths):
            if not length:
                raise self.fault(row, name, "holds no sample")
            if length != lengths[0]:
                raise self.fault(row, name, f"holds {length} samples, the first row {lengths[0]}")
        return lengths[0] or 1 if lengths else 1

    def fault(self, row: int, column: str, what: str) -> DataError:
        """The error for one value; rows count from 0, as in a data frame."""
        name = f" (id {self._ids[row]!r})" if column != "id" else ""
        return DataError(f"{self._path}, row {row}{name}: {column} {what}; mend or drop the row, or collect it again")

    def _header(self, kind: str) -> dict[str, Any]:
        raw = (self._table.schema.metadata or {}).get(_KEY)
        header = json.loads(raw) if raw is not None else {}
        if header.get("kind") != kind:
            found = header.get("kind", "a file without this program's metadata")
            raise DataError(f"{self._path}: is {found}, not {kind}; bring it in with `jethro data import`")
        if header.get("format") != FORMAT:
            raise DataError(
                f"{self._path}: has format {header.get('format')}, this program reads {FORMAT}; collect it again, "
                "or use the version of jethro that wrote it"
            )
        return dict(header)

    def _column(self, name: str, kind: Any) -> Any:
        if name not in self._table.column_names:
            raise DataError(f"{self._path}: column {name} is missing; collect or import the data again")
        column = self._table[name]
        try:
            return column.cast(kind)
        except (self._pa.ArrowInvalid, self._pa.ArrowNotImplementedError, self._pa.ArrowTypeError) as e:
            raise DataError(
                f"{self._path}: column {name} has type {column.type}, not {kind}; collect or import the data again"
            ) from e

    def _type(self, name: str) -> Any:
        pa = self._pa
        if name == "messages":
            return _message_type(pa)
        return pa.list_(pa.string()) if name.endswith("_text") else pa.string()

    def _messages(self, row: int, values: list[dict[str, Any]] | None) -> tuple[Message, ...]:
        if not values:
            raise self.fault(row, "messages", "holds no message")
        for value in values:
            if value is None or value["role"] not in _ROLES or value["content"] is None:
                raise self.fault(row, "messages", f"holds {value!r}: role or content is missing or unknown")
        try:
            return tuple(Message(v["role"], v["content"], json.loads(v["extra"] or "{}")) for v in values)
        except json.JSONDecodeError as e:
            raise self.fault(row, "messages", f"has an extra that is not JSON ({e})") from e


def _pool(table: _Table, name: str, model: str) -> PoolAnswers:
    texts = table.column(f"{name}_text")
    k = table.lengths(f"{name}_text", [None if t is None else len(t) for t in texts])
    for row, samples in enumerate(texts):
        if any(text is None for text in samples):
            raise table.fault(row, f"{name}_text", "has a sample without a text")
    columns = {m: table.samples(f"{name}_{m}", nulls=m in _MAY_BE_NULL) for m in MEASURES}
    for measure, values in columns.items():
        if values.shape != (len(texts), k):
            raise table.fault(0, f"{name}_{measure}", f"holds {values.shape[1]} samples, {name}_text {k}")
    latency = columns.pop("latency_ms")
    timed = None if np.isnan(latency).all() else latency
    return PoolAnswers(model, tuple(tuple(t) for t in texts), **columns, latency_ms=timed)


def _refuse_duplicates(table: _Table, ids: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if first.setdefault(name, row) != row:
            raise table.fault(row, "id", f"{name!r} is that of row {first[name]} too")


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError as e:
        raise missing_extra("data files need pyarrow", "train") from e
    return pyarrow


def _message_type(pa: Any) -> Any:
    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("extra", pa.string())]))


def _messages_column(pa: Any, queries: Sequence[Query]) -> Any:
    def struct(message: Message) -> dict[str, str | None]:
        extra = json.dumps(dict(message.extra), ensure_ascii=False) if message.extra else None
        return {"role": message.role, "content": message.content, "extra": extra}

    return pa.array([[struct(m) for m in query.messages] for query in queries], _message_type(pa))


def _lists(pa: Any, values: Floats | None, shape: tuple[int, ...]) -> Any:
    """Rows of a matrix as lists, nan as null; a matrix of nulls for None."""
    flat = np.full(shape, np.nan).ravel() if values is None else np.ascontiguousarray(values).ravel()
    offsets = np.arange(0, flat.size + 1, shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(flat, pa.float64(), mask=np.isnan(flat)))


def _write(pa: Any, path: Path, columns: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    import pyarrow.parquet as pq

    table = pa.table(dict(columns)).replace_schema_metadata({_KEY: json.dumps(header, ensure_ascii=False).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")


def _read(pa: Any, path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; make one with `jethro data collect` or `jethro data import`") from None
    except (pa.ArrowInvalid, OSError) as e:
        raise DataError(f"{path}: cannot be read as Parquet ({e}); collect or import the data again") from e
