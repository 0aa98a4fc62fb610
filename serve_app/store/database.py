"""One SQLite file: opens and checks it, writes batches, finds and prunes. Synchronous; used by one thread.

WAL, so that several Gateways may share the file; synchronous=FULL, so that a commit is on the disk when it returns
(at a few commits a second that costs nothing that matters).
"""

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, delete, event, insert, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from serve_app.errors import ConfigError, NotFound
from serve_app.store.base import Feedback, RequestRecord
from serve_app.store.schema import APPLICATION_ID, VERSION, decisions, feedback, metadata, missing_columns, row, to_json

_BUSY_S: Final = 10.0
"""Longest wait for another Gateway's write."""
_WAL_PAUSE_S: Final = 0.02
_PRUNED_AT_ONCE: Final = 5000
"""Rows deleted in one transaction, so that a prune never holds the file for long."""


class Database:
    """An open file. Raises ConfigError, with the path and the remedy, if it cannot be used."""

    def __init__(self, path: str) -> None:
        self._path = path
        file = Path(path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(f"store.path: {file.parent} cannot be created ({e}): choose another path") from e
        self._engine = _engine(path)
        try:
            with self._engine.begin() as connection:
                self._check(connection)
            self._connection = self._engine.connect()
        except (DBAPIError, ConfigError) as e:
            self._engine.dispose()
            if isinstance(e, ConfigError):
                raise
            what = "cannot be opened" if isinstance(e, OperationalError) else "is not a SQLite database"
            raise ConfigError(f"store.path: {path} {what} ({e.orig}): choose another path") from e

    def write(self, records: Sequence[RequestRecord]) -> None:
        """All of them in one transaction. Raises OperationalError if the file is locked or the disk full."""
        with self._connection.begin():
            self._connection.execute(sqlite_insert(decisions).on_conflict_do_nothing(), [row(r) for r in records])

    def add_feedback(self, given: Sequence[tuple[Feedback, float]]) -> list[NotFound | None]:
        """Feedback with its time, in one transaction; for each, NotFound if its decision is unknown."""
        refused: list[NotFound | None] = []
        with self._connection.begin():
            for one, created_s in given:
                query = select(decisions.c.decision_id).where(decisions.c.decision_id == one.decision_id)
                known = self._connection.execute(query).first() is not None
                refused.append(None if known else unknown(one.decision_id))
                if known:
                    self._connection.execute(insert(feedback).values(**asdict(one), created_s=created_s))
        return refused

    def find(self, decision_id: str) -> dict[str, Any]:
        """A decision with its feedback. Raises NotFound."""
        with self._connection.begin():
            found = self._connection.execute(select(decisions).where(decisions.c.decision_id == decision_id)).first()
            if found is None:
                raise unknown(decision_id)
            given = select(feedback).where(feedback.c.decision_id == decision_id).order_by(feedback.c.id)
            rows = self._connection.execute(given).mappings().all()
        return to_json(found._asdict(), [dict(row) for row in rows])

    def prune(self, before_s: float) -> int:
        """Delete decisions older than `before_s`, with their feedback; returns how many went."""
        gone = 0
        while True:
            old = select(decisions.c.decision_id).where(decisions.c.created_s < before_s).limit(_PRUNED_AT_ONCE)
            with self._connection.begin():
                ids = list(self._connection.execute(old).scalars())
                for i in range(0, len(ids), 500):  # SQLite bounds the number of variables in a statement
                    some = ids[i : i + 500]
                    self._connection.execute(delete(feedback).where(feedback.c.decision_id.in_(some)))
                    self._connection.execute(delete(decisions).where(decisions.c.decision_id.in_(some)))
            gone += len(ids)
            if len(ids) < _PRUNED_AT_ONCE:
                return gone

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
        self._engine.dispose()

    def _check(self, connection: Connection) -> None:
        """Create the tables of a new file, add columns to an older one; refuse foreign files and other versions."""
        application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
        if tables == 0 and application in (0, APPLICATION_ID):
            metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")
        elif application == APPLICATION_ID and version == VERSION:
            present = {name for _, name, *_ in connection.exec_driver_sql("PRAGMA table_info(decisions)")}
            for column in missing_columns(present):
                connection.exec_driver_sql(f"ALTER TABLE decisions ADD COLUMN {column}")
        elif application != APPLICATION_ID:
            raise ConfigError(f"store.path: {self._path} is a database of another program: choose another path")
        else:
            raise ConfigError(
                f"store.path: {self._path} has schema version {version}, this program needs {VERSION}: "
                "move the file away, or run the version of jethro that wrote it"
            )


def unknown(decision_id: str) -> NotFound:
    """The error for an unknown decision."""
    return NotFound(f"No decision {decision_id[:100]!r}.", param="decision_id")


def _engine(path: str) -> Engine:
    waits = {"timeout": _BUSY_S}
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args=waits, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's begin below starts transactions, not the driver
        _to_wal(connection)
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # two processes cannot then deadlock on an upgrade

    return engine


def _to_wal(connection: sqlite3.Connection) -> None:
    """Change the journal's mode, retrying while another process does: SQLite's busy timeout does not cover it."""
    deadline_s = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_WAL_PAUSE_S)
        else:
            return
