"""One SQLite file: opens and checks it, writes batches, finds and prunes. Synchronous; used by one thread.

WAL, so that several Gateways may share the file; synchronous=FULL, so that a commit is on the disk when it returns
(at a few commits a second that costs nothing that matters).
"""

import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, create_engine, delete, event, func, insert, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from serve_app.errors import ConfigError, Conflict, JethroError, NotFound, RequestError
from serve_app.store.base import MOST_FEEDBACK, Feedback, RequestRecord
from serve_app.store.file import FileWatch, connect, create_private, damage, locked_folder, quarantine
from serve_app.store.schema import (
    APPLICATION_ID,
    VERSION,
    decisions,
    feedback,
    metadata,
    missing_columns,
    row,
    sane_row,
    to_json,
)

logger = logging.getLogger("jethro.store")

_BUSY_S: Final = 10.0
"""Longest wait for another Gateway's write."""
_WAL_PAUSE_S: Final = 0.02
_PRUNED_AT_ONCE: Final = 5000
"""Rows deleted in one transaction, so that a prune never holds the file for long."""
_INSERT: Final = sqlite_insert(decisions).on_conflict_do_nothing()
_IDENTITY: Final = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
_PASSING: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_PROTOCOL,
}
_OF_THE_FILE: Final = {
    sqlite3.SQLITE_ERROR,  # its tables are gone, or others
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_NOTADB,
}


class Database:
    """An open file. Raises ConfigError, with the path and the remedy, if it cannot be used."""

    def __init__(self, path: str, *, replace_at_s: float | None = None) -> None:
        """`replace_at_s`, unix seconds: if the file cannot be used, rename it and start a new one."""
        self._path, self._file = path, Path(path).resolve()
        try:
            self._prepare(replace_at_s)
        except OSError as e:
            folder = not self._file.parent.is_dir()
            what = f"{self._file.parent} cannot be created" if folder else f"{path} cannot be opened"
            raise ConfigError(f"store.path: {what} ({e}): choose another path") from e
        self._engine = _engine(str(self._file))
        try:
            with self._engine.begin() as connection:
                _complete(connection)
            self._connection = self._engine.connect()
            self._watch = FileWatch(self._file)
        except (DBAPIError, OSError) as e:
            self._engine.dispose()
            raise ConfigError(f"store.path: {path} cannot be opened ({reason(e)}): choose another path") from e

    def fault(self) -> str | None:
        """What another program did to the file, or None: records written now would be lost."""
        return self._watch.fault()

    def write(self, records: Sequence[RequestRecord]) -> list[tuple[RequestRecord, Exception]]:
        """All of them in one transaction; returns those that cannot be written, each with the reason.

        Raises DBAPIError if none can be written now: see `trouble`.
        """
        try:
            with self._connection.begin():
                self._connection.execute(_INSERT, [row(r) for r in records])
        except Exception as e:
            if trouble(e) is not None:
                raise
        else:
            return []
        lost: list[tuple[RequestRecord, Exception]] = []
        with self._connection.begin():
            for record in records:
                try:
                    self._connection.execute(_INSERT, sane_row(record))
                except Exception as e:
                    if trouble(e) is not None:
                        raise
                    lost.append((record, e))
        return lost

    def add_feedback(self, given: Sequence[tuple[Feedback, float]]) -> list[JethroError | None]:
        """Feedback with its time, in one transaction; for each, the error if it is refused.

        Errors: NotFound, Conflict, or RequestError if it cannot be stored. Raises DBAPIError as `write` does.
        """
        with self._connection.begin():
            return [self._add(one, created_s) for one, created_s in given]

    def find(self, decision_id: str, tenant: str | None = None) -> dict[str, Any]:
        """A decision with its feedback; for a tenant, only of its own. Raises NotFound."""
        query = select(decisions).where(decisions.c.decision_id == decision_id)
        if tenant is not None:
            query = query.where(decisions.c.tenant == tenant)
        with self._connection.begin():
            found = self._connection.execute(query).first()
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
        self._watch.close()
        self._connection.close()
        self._engine.dispose()

    def _prepare(self, replace_at_s: float | None) -> None:
        """The file is there, for the owner only, and of ours. Raises OSError, ConfigError."""
        with locked_folder(self._file):
            create_private(self._file)
            try:
                self._inspect()
            except UnusableFile as e:
                if replace_at_s is None:
                    raise
                kept = quarantine(self._file, replace_at_s)
                logger.error("store: %s; it is now %s", e.reason, kept)
                create_private(self._file)

    def _inspect(self) -> None:
        """Refuse damaged and foreign files and other versions. Raises UnusableFile; ConfigError if it cannot tell."""
        try:
            with closing(connect(self._file)) as connection:
                connection.execute("BEGIN")  # another Gateway may be creating the tables
                (application,), (version,), (tables,) = (connection.execute(q).fetchone() for q in _IDENTITY)
                connection.execute("COMMIT")
                found = damage(connection)
        except sqlite3.OperationalError as e:
            raise ConfigError(f"store.path: {self._path} cannot be opened ({e}): choose another path") from e
        except sqlite3.DatabaseError as e:
            what = "is damaged" if _code(e) == sqlite3.SQLITE_CORRUPT else "is not a SQLite database"
            raise UnusableFile(self._path, f"{what} ({e})", "move it away, or choose another path") from e
        if found is not None:
            remedy = "move it away, or repair it with the command .recover of sqlite3"
            raise UnusableFile(self._path, f"is damaged ({found})", remedy)
        if application != APPLICATION_ID and (tables or application):
            raise UnusableFile(self._path, "is a database of another program", "choose another path")
        if application == APPLICATION_ID and version != VERSION:
            remedy = "move the file away, or run the version of jethro that wrote it"
            raise UnusableFile(self._path, f"has schema version {version}, this program needs {VERSION}", remedy)

    def _add(self, given: Feedback, created_s: float) -> JethroError | None:
        try:
            error = self._refusal(given.decision_id)
            if error is None:
                self._connection.execute(insert(feedback).values(**asdict(given), created_s=created_s))
        except Exception as e:
            if trouble(e) is not None:
                raise
            return RequestError(f"The feedback cannot be stored: {reason(e)[:200]}", code="invalid_value")
        return error

    def _refusal(self, decision_id: str) -> JethroError | None:
        known = select(decisions.c.decision_id).where(decisions.c.decision_id == decision_id)
        if self._connection.execute(known).first() is None:
            return unknown(decision_id)
        count = select(func.count()).select_from(feedback).where(feedback.c.decision_id == decision_id)
        if self._connection.execute(count).scalar_one() < MOST_FEEDBACK:
            return None
        return Conflict(
            f"The decision has {MOST_FEEDBACK} pieces of feedback, and takes no more.",
            param="decision_id",
            code="too_much_feedback",
        )


class UnusableFile(ConfigError):
    """The file is damaged, or not a decision log of this version. `reason`: the message without the remedy."""

    def __init__(self, path: str, what: str, remedy: str) -> None:
        super().__init__(f"store.path: {path} {what}: {remedy}")
        self.reason = f"{path} {what}"


def trouble(error: Exception) -> Literal["passing", "file"] | None:
    """Of an error while writing: it may pass (locked, disk full), the file has to be opened again, or None: neither."""
    code = _code(error.orig) if isinstance(error, DBAPIError) else None
    return "passing" if code in _PASSING else "file" if code in _OF_THE_FILE else None


def _code(error: BaseException | None) -> int | None:
    """SQLite's primary result code; Python's own refusals have none."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def reason(error: Exception) -> str:
    """What went wrong, in one line: without the SQL statement, which SQLAlchemy appends."""
    said = getattr(error, "orig", None) or error
    return " ".join(str(said).split())


def _complete(connection: Connection) -> None:
    """Create the tables of a new file, add columns to an older one."""
    metadata.create_all(connection)
    present = {name for _, name, *_ in connection.exec_driver_sql("PRAGMA table_info(decisions)")}
    for column in missing_columns(present):
        connection.exec_driver_sql(f"ALTER TABLE decisions ADD COLUMN {column}")
    if connection.exec_driver_sql("PRAGMA user_version").scalar_one() != VERSION:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")


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
