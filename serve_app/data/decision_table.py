"""Decisions of the log as a Parquet file: one column for each field of a record, written a page at a time.

Lists and maps of a record (its feedback, feature contributions, expected outcomes) are columns of JSON text, since
their keys differ from row to row.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import Boolean, Float, Integer

from serve_app.data.parquet import require_parquet
from serve_app.errors import writing
from serve_app.files import replacing
from serve_app.store.schema import decisions

_FEEDBACK: Final = "feedback"


def write_decisions(path: Path, pages: Iterable[Sequence[Mapping[str, Any]]]) -> int:
    """Write pages of records, whole or not at all, for the owner only; returns how many rows there are.

    Raises DependencyError without pyarrow, ConfigError if the file cannot be written.
    """
    require_parquet()
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {column.name: _kind(column.type, pa) for column in decisions.columns} | {_FEEDBACK: pa.string()}
    schema = pa.schema(list(kinds.items()))
    rows = 0
    with writing(path, "give another with --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for page in pages:
                    columns = {name: pa.array([_cell(r.get(name)) for r in page], kinds[name]) for name in kinds}
                    writer.write_table(pa.table(columns, schema=schema))
                    rows += len(page)
    return rows


def _kind(column: Any, pa: Any) -> Any:
    for kind, arrow in ((Boolean, pa.bool_()), (Float, pa.float64()), (Integer, pa.int64())):
        if isinstance(column, kind):
            return arrow
    return pa.string()


def _cell(value: Any) -> Any:
    return orjson.dumps(value, default=dict).decode() if isinstance(value, Mapping | list | tuple) else value
