"""Parquet tables with a header of our own: typed columns, errors that name file, row and column, an atomic write.

Data sets and preferences say what their columns mean; this module knows how a column of queries, texts or samples is
stored. Lists and flat columns alone, since pandas, duckdb and polars read those with the fewest words. The file's
metadata holds the header as JSON under `jethro`: what the file is, the version of its layout, and more.
"""

import json
from collections.abc import Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from serve_app.arrays import Floats
from serve_app.errors import DataError, needs_extra
from serve_app.files import replacing
from serve_app.types import Message, Query, Role, TokenLogprob

FORMAT: Final = 2
"""Version of the layout; another one is refused."""
_KEY: Final = b"jethro"
_ROLES: Final = frozenset(get_args(Role))


def require_parquet() -> None:
    """Raises DependencyError where Parquet files cannot be written: better before they are filled than after."""
    _pyarrow()


def write_table(path: Path, columns: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Write Arrow arrays by name, whole or not at all; the same data give the same bytes. `header` is JSON-ready."""
    pa = _pyarrow()
    import pyarrow.parquet as pq

    body = json.dumps({"kind": header["kind"], "format": FORMAT, **header}, ensure_ascii=False).encode()
    table = pa.table(dict(columns)).replace_schema_metadata({_KEY: body})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")


def text_column(values: Sequence[str | None]) -> Any:
    """One text, or null, a row."""
    pa = _pyarrow()
    return pa.array(values, pa.string())


def text_lists_column(rows: Sequence[Sequence[str]]) -> Any:
    """A list of texts a row."""
    pa = _pyarrow()
    return pa.array([list(row) for row in rows], pa.list_(pa.string()))


def messages_column(queries: Sequence[Query]) -> Any:
    """Each query's messages as {role, content, extra}; `extra` is JSON or null."""

    def struct(message: Message) -> dict[str, str | None]:
        extra = json.dumps(dict(message.extra), ensure_ascii=False) if message.extra else None
        return {"role": message.role, "content": message.content, "extra": extra}

    pa = _pyarrow()
    return pa.array([[struct(m) for m in query.messages] for query in queries], _message_type(pa))


def samples_column(values: Floats | None, shape: tuple[int, ...]) -> Any:
    """Rows of a matrix as lists, nan as null; a matrix of nulls for None."""
    pa = _pyarrow()
    flat = np.full(shape, np.nan).ravel() if values is None else np.ascontiguousarray(values).ravel()
    offsets = np.arange(0, flat.size + 1, shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(flat, pa.float64(), mask=np.isnan(flat)))


def numbers_column(values: Floats) -> Any:
    """One number a row, nan as null."""
    pa = _pyarrow()
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def number_lists_column(rows: Sequence[Sequence[float]]) -> Any:
    """A list of numbers a row, of any length; nan as null."""
    pa = _pyarrow()
    return pa.array([[None if isnan(value) else value for value in row] for row in rows], pa.list_(pa.float64()))


def logprobs_column(rows: Sequence[Sequence[TokenLogprob]]) -> Any:
    """The tokens of an answer a row, as {token, logprob, top}; `top` holds the likeliest as {token, logprob}."""

    def pair(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob}

    pa = _pyarrow()
    tokens = [[{**pair(t.token, t.logprob), "top": [pair(*top) for top in t.top]} for t in row] for row in rows]
    return pa.array(tokens, _logprobs_type(pa))


class Table:
    """An open file of one kind: its header, and its columns with checks that name file, row and column.

    Raises DataError for a file that is missing, cut, of another kind or of another format.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self._pa = _pyarrow()
        self._path = path
        self._table = _read(self._pa, path)
        self.header = self._header(kind)
        self._ids = [str(i) for i in self.column("id")]

    def __contains__(self, name: str) -> bool:
        return name in self._table.column_names

    def column(self, name: str, kind: Any = None) -> list[Any]:
        """The values of a column of texts, or of another Arrow type; nulls as None."""
        values: list[Any] = self._column(name, kind or self._pa.string()).to_pylist()
        return values

    def texts(self, name: str) -> tuple[str, ...]:
        """A column of texts, none of them null."""
        values = self.column(name)
        for row, value in enumerate(values):
            if value is None:
                raise self.fault(row, name, "is null")
        return tuple(values)

    def unique_texts(self, name: str) -> tuple[str, ...]:
        """A column of texts, each of them once."""
        values, first = self.texts(name), dict[str, int]()
        for row, value in enumerate(values):
            if first.setdefault(value, row) != row:
                raise self.fault(row, name, f"{value!r} is that of row {first[value]} too")
        return values

    def text_lists(self, name: str, element: str | None = None) -> tuple[tuple[str, ...], ...]:
        """A column of lists of texts, none of them null; with the name of their elements none of them empty either."""
        rows = self.column(name, self._pa.list_(self._pa.string()))
        for row, texts in enumerate(rows):
            if texts is None or (element is not None and not texts):
                raise self.fault(row, name, f"holds no {element or 'list'}")
            if any(text is None for text in texts):
                raise self.fault(row, name, f"has a {element or 'element'} without a text")
        return tuple(tuple(texts) for texts in rows)

    def number_lists(self, name: str) -> tuple[tuple[float, ...], ...]:
        """A column of lists of numbers of any length; nulls within a list as nan, no list as an empty one."""
        rows = self.column(name, self._pa.list_(self._pa.float64()))
        return tuple(tuple(nan if value is None else value for value in row or ()) for row in rows)

    def numbers(self, name: str) -> Floats:
        """A column of numbers, shape [n]; nulls as nan."""
        values = self.column(name, self._pa.float64())
        return np.array([nan if value is None else value for value in values], dtype=np.float64)

    def logprobs(self, name: str) -> tuple[tuple[TokenLogprob, ...], ...]:
        """A column of an answer's tokens with their log-probabilities."""

        def token(row: int, value: Any) -> TokenLogprob:
            values = [value, *((value or {}).get("top") or ())]
            if any(v is None or v["token"] is None or v["logprob"] is None for v in values):
                raise self.fault(row, name, "has a token without a text or a log-probability")
            return TokenLogprob(value["token"], value["logprob"], tuple((v["token"], v["logprob"]) for v in values[1:]))

        rows = self.column(name, _logprobs_type(self._pa))
        return tuple(tuple(token(row, value) for value in values or ()) for row, values in enumerate(rows))

    def queries(self) -> tuple[Query, ...]:
        """The column `messages`."""
        rows = self.column("messages", _message_type(self._pa))
        return tuple(Query(self._messages(row, value)) for row, value in enumerate(rows))

    def samples(self, name: str, nulls: bool = False) -> Floats:
        """A column of equally long lists of numbers, shape [n, k]; nulls are nan where they are allowed."""
        column = self._column(name, self._pa.list_(self._pa.float64())).combine_chunks()
        k = self.lengths(name, column.value_lengths().to_pylist())
        values: Floats = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, k)
        if not nulls and np.isnan(values).any():
            raise self.fault(int(np.flatnonzero(np.isnan(values).any(axis=1))[0]), name, "has a sample without a value")
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
        return DataError(f"{self._path}, row {row}{name}: {column} {what}; fix or drop the row, or collect it again")

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


def _pyarrow() -> Any:
    with needs_extra("data files need pyarrow", "train"):
        import pyarrow
    return pyarrow


def _message_type(pa: Any) -> Any:
    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("extra", pa.string())]))


def _logprobs_type(pa: Any) -> Any:
    pair = [("token", pa.string()), ("logprob", pa.float64())]
    return pa.list_(pa.struct([*pair, ("top", pa.list_(pa.struct(pair)))]))


def _read(pa: Any, path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; make one with `jethro data collect` or `jethro data import`") from None
    except (pa.ArrowInvalid, OSError) as e:
        raise DataError(f"{path}: cannot be read as Parquet ({e}); collect or import the data again") from e
