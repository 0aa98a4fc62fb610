"""The tables of the decision log: rows from records, and JSON from rows.

The columns of a decision come from its declaration (`DECISION_FIELDS`). A field declared later needs no new version:
`Database` adds the column to existing files.
"""

import math
import sqlite3
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from numbers import Integral, Real
from operator import attrgetter
from typing import Any, Final

import orjson
from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, Text

from serve_app.errors import ConfigError
from serve_app.store.base import RequestRecord
from serve_app.types import DECISION_FIELDS

VERSION: Final = 2
"""In `PRAGMA user_version`; raised with every change that an earlier version of the program could not live with.

It can with a column that may be null, with an index, and with a table that it does not know.
"""
APPLICATION_ID: Final = 0x4A455448
"""In `PRAGMA application_id`: distinguishes our files from other SQLite files ("JETH")."""

FEEDBACK: Final = ("score", "preferred", "against", "comment", "created_s")
"""The columns of feedback that are shown."""

_INTEGER_MAX: Final = 2**63 - 1
"""SQLite's."""
_TYPES: Final[Mapping[type, Any]] = {str: String, float: Float, int: Integer, bool: Boolean}
"""Any other type is stored as JSON text."""
_ORDER: Final = ("strategy", "pool", "model", "router", "score", "threshold", "reason")
"""The order of the first columns in files of version 2, and so of the stored record's JSON; others follow."""

_BY_NAME = {f.name: f for f in DECISION_FIELDS if f.attribute != "id"}
_FIELDS: Final = [_BY_NAME.pop(name) for name in _ORDER] + list(_BY_NAME.values())
_VALUES: Final = attrgetter(*(f.attribute for f in _FIELDS))
_AS_JSON: Final = [f.name for f in _FIELDS if f.kind not in _TYPES]

metadata = MetaData()
decisions = Table(
    "decisions",
    metadata,
    Column("decision_id", String, primary_key=True),
    Column("created_s", Float, nullable=False, index=True),
    Column("request_id", String, nullable=False),
    Column("tenant", String),
    Column("endpoint", String, nullable=False),
    Column("status", String, nullable=False),
    *(Column(f.name, _TYPES.get(f.kind, Text), nullable=f.optional) for f in _FIELDS),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("ttft_ms", Float),
    Column("error_code", String),
    Column("prompt", Text),
    Column("user", String),
    Column("safety_identifier", String),
)
BY_USER: Final = [
    Index(f"decisions_{name}", decisions.c[name], sqlite_where=decisions.c[name].is_not(None))
    for name in ("user", "safety_identifier")
]
"""Partial, so that they cost nothing where requests name no user."""
feedback = Table(
    "feedback",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("decision_id", String, ForeignKey("decisions.decision_id"), nullable=False, index=True),
    Column("score", Float),
    Column("preferred", String),
    Column("against", String),
    Column("comment", Text),
    Column("created_s", Float, nullable=False),
)
responses = Table(
    "responses",
    metadata,
    Column("response_id", String, primary_key=True),
    Column("decision_id", String, nullable=False, index=True),
    Column("created_s", Float, nullable=False, index=True),
    Column("tenant", String),
    Column("user", String),
    Column("safety_identifier", String),
    Column("privacy", String, nullable=False),
    Column("previous_id", String),
    Column("size", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("input", LargeBinary, nullable=False),
    Index("responses_of_tenant", "tenant", "created_s", "size"),
)
"""Answers of /v1/responses with their input, see `serve_app.store.responses`; `size` is that of both, in bytes."""
erasures = Table(
    "erasures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("salt", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("before_s", Float, nullable=False),
    Column("vacuum_begun_s", Float),
    Column("vacuumed_s", Float),
)
"""Who was erased, as digests (see `serve_app.erasure`), and whether the file was rewritten since."""


def check_format(connection: sqlite3.Connection, path: str) -> None:
    """Raises ConfigError unless it is a decision log that this version can use. Raises sqlite3.Error."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ConfigError(f"store.path: {path} is not a decision log: choose another path")
    if version != VERSION:
        # not UnusableFile: it is whole, and the version that wrote it may be running
        age = "newer" if version > VERSION else "older"
        raise ConfigError(
            f"store.path: {path} is of {age} versions of jethro (it has schema version {version}, this one reads "
            f"{VERSION}): run the version of jethro that wrote it, or move the file away"
        )


def default_value(name: str) -> Any:
    """What the rows of an older file have in a column that it lacks."""
    field = next((f for f in _FIELDS if f.name == name), None)
    if field is None:
        return None
    return field.default if field.kind in _TYPES else orjson.dumps(field.default, default=dict).decode()


def missing_columns(present: Collection[str]) -> Iterator[str]:
    """SQL of the decisions' columns not yet `present` in a file; its rows get the field's default."""
    for field in _FIELDS:
        if field.name in present:
            continue
        value = default_value(field.name)
        literal = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
        rule = "" if field.optional else f" DEFAULT {literal} NOT NULL"
        yield f"{field.name} {decisions.c[field.name].type.compile()}{rule}"
    yield from (f'"{name}" VARCHAR' for name in ("user", "safety_identifier") if name not in present)


def row(record: RequestRecord) -> dict[str, Any]:
    """The row of a record that has a decision."""
    return _row(record, lambda value: orjson.dumps(value, default=dict).decode())


def sane_row(record: RequestRecord) -> dict[str, Any]:
    """As `row`, with the nearest value that SQLite can store for one that it cannot: slower, for the rare record.

    Integers are cut to 64 bits, lone surrogates are escaped; a required value that is missing or not a number is 0.
    """
    values = _row(record, lambda value: orjson.dumps(_sane_json(value)).decode())
    return {name: _sane(decisions.c[name], value) for name, value in values.items()}


def _row(record: RequestRecord, to_text: Callable[[Any], str]) -> dict[str, Any]:
    decision, usage = record.decision, record.usage
    assert decision is not None
    values: dict[str, Any] = dict(zip((f.name for f in _FIELDS), _VALUES(decision), strict=True))
    for name in _AS_JSON:
        values[name] = to_text(values[name])
    return {
        "decision_id": decision.id,
        "created_s": record.created_s,
        "request_id": record.request_id,
        "tenant": record.tenant,
        "endpoint": record.endpoint,
        "status": record.status,
        **values,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": record.cost_usd,
        "latency_ms": record.latency_ms,
        "ttft_ms": record.ttft_ms,
        "error_code": record.error_code,
        "prompt": record.prompt,
        "user": record.user,
        "safety_identifier": record.safety_identifier,
    }


def _sane(column: Column[Any], value: Any) -> Any:
    """The value for the column; one of another type stays as it is, and is refused."""
    if isinstance(value, str):
        return _sane_text(value)
    if isinstance(column.type, Float) and isinstance(value, Real):
        value = _sane_float(value)
    elif isinstance(column.type, Integer) and isinstance(value, Real):
        value = _sane_int(value) if isinstance(value, Integral) or math.isfinite(value) else None
    if value is None and not column.nullable and not column.primary_key:
        return "" if isinstance(column.type, String) else 0
    return value


def _sane_json(value: Any) -> Any:
    if isinstance(value, str):
        return _sane_text(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return _sane_int(value)
    if isinstance(value, Mapping):
        return {_sane_text(str(name)): _sane_json(part) for name, part in value.items()}
    return [_sane_json(part) for part in value] if isinstance(value, list | tuple) else value


def _sane_text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def _sane_int(value: Any) -> int:
    return max(-_INTEGER_MAX - 1, min(_INTEGER_MAX, int(value)))


def _sane_float(value: Any) -> float | None:
    """None for NaN; an integer may be too large for a float."""
    try:
        number = float(value)
    except OverflowError:
        return sys.float_info.max if value > 0 else -sys.float_info.max
    return None if math.isnan(number) else number


def to_json(decision: Mapping[str, Any], given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A decision's row with its feedback, oldest first, as JSON-ready values."""
    value = {str(name): field for name, field in decision.items()}  # SQLAlchemy's names are not plain str
    for name in _AS_JSON:
        value[name] = orjson.loads(value[name])
    value["feedback"] = [{k: f[k] for k in FEEDBACK} for f in given]
    return value
