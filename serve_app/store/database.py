"""One SQLite file: opens and checks it, writes batches, finds and prunes. Synchronous; used by one thread.

WAL, so that several Gateways may share the file; synchronous=FULL, so that a commit is on the disk when it returns
(at a few commits a second that costs nothing that matters).
"""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, create_engine, event, func, insert, select, tuple_
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from serve_app.erasure import Erasure, Selection
from serve_app.errors import ConfigError, Conflict, JethroError, NotFound, RequestError
from serve_app.store.base import MOST_FEEDBACK, Erased, Feedback, KeptResponse, RequestRecord
from serve_app.store.erasing import (
    PENDING,
    ErasureTable,
    condition,
    covered,
    delete_responses,
    delete_some,
    truncate_wal,
)
from serve_app.store.file import (
    FileWatch,
    UnusableFile,
    connect,
    create_private,
    damage,
    expire_quarantined,
    locked_folder,
    quarantine,
    size,
    to_wal,
)
from serve_app.store.schema import (
    APPLICATION_ID,
    BY_USER,
    VERSION,
    check_format,
    decisions,
    feedback,
    metadata,
    missing_columns,
    responses,
    row,
    sane_row,
    to_json,
)

logger = logging.getLogger("jethro.store")
T = TypeVar("T")

_BUSY_S: Final = 10.0
"""Longest wait for another Gateway's write."""
_DELETED_AT_ONCE: Final = 5000
"""Rows deleted in one transaction, so that none holds the file for long."""
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

Vacuum = Literal["idle", "failed", "waits", "done"]
"""What became of a rewriting: none is due; not now; done but for a reader that still uses the -wal file; done."""


class Database:
    """An open file. Raises ConfigError, with the path and the remedy, if it cannot be used."""

    def __init__(self, path: str, *, replace_at_s: float | None = None) -> None:
        """`replace_at_s`, unix seconds: if the file cannot be used, rename it and start a new one."""
        self._path, self._file = path, Path(path).resolve()
        self._erasures = ErasureTable()
        self._rewritten: tuple[int, float] | None = None
        """The claim of a rewriting that has to be moved out of the -wal file yet."""
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
            self._driver: sqlite3.Connection = self._connection.connection.driver_connection  # type: ignore[assignment]
            self._watch = FileWatch(self._file, lambda: size(self._driver))
        except (DBAPIError, OSError) as e:
            self._engine.dispose()
            raise ConfigError(f"store.path: {path} cannot be opened ({reason(e)}): choose another path") from e

    def fault(self) -> str | None:
        """What another program did to the file, or None: records written now would be lost."""
        return self._watch.fault()

    def write(self, records: Sequence[RequestRecord]) -> list[tuple[RequestRecord, Exception]]:
        """All but those that were erased, in one transaction; returns those that cannot be written, with the reason.

        Raises DBAPIError if none can be written now: see `trouble`.
        """
        try:
            with self._connection.begin():
                if kept := self._erasures.kept(self._connection, records):
                    self._connection.execute(_INSERT, [row(r) for r in kept])
        except Exception as e:
            if trouble(e) is not None:
                raise
        else:
            return []
        lost: list[tuple[RequestRecord, Exception]] = []
        with self._connection.begin():
            for record in self._erasures.kept(self._connection, records):
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

    def page(self, selection: Selection, after: tuple[float, str], most: int) -> list[dict[str, Any]]:
        """Up to `most` decisions with their feedback, oldest first, that follow the one of (created_s, id) `after`."""
        place = tuple_(decisions.c.created_s, decisions.c.decision_id)
        found = select(decisions).where(condition(selection), place > after).order_by(*place.clauses).limit(most)
        with self._connection.begin():
            rows = [row._asdict() for row in self._connection.execute(found)]
            ids = [row["decision_id"] for row in rows]
            query = select(feedback).where(feedback.c.decision_id.in_(ids)).order_by(feedback.c.id)
            given = [dict(row) for row in self._connection.execute(query).mappings()]
        return [to_json(row, [f for f in given if f["decision_id"] == row["decision_id"]]) for row in rows]

    def prune(self, before_s: float, responses_s: float = 0.0) -> int:
        """Delete decisions older than `before_s`, with their feedback, and damaged files; returns how many went.

        Kept responses go that are older than `responses_s`.
        """
        with self._connection.begin():
            self._erasures.expire(self._connection, before_s)
            kept = delete_responses(self._connection, responses.c.created_s < max(before_s, responses_s))
        expire_quarantined(self._file, before_s)
        gone = self._delete(decisions.c.created_s < before_s).decisions
        if gone or kept:
            truncate_wal(self._driver)
        return gone

    def within(self, call: Callable[[Connection], T], *, deletes: bool = False) -> T:
        """The result of `call` in one transaction. Raises what it raises, and DBAPIError as `write` does."""
        with self._connection.begin():
            result = call(self._connection)
        if deletes:
            truncate_wal(self._driver)
        return result

    def keep(self, response: KeptResponse, call: Callable[[Connection], None]) -> None:
        """`call`, which writes the response, in one transaction; nothing if an erasure covers it."""
        with self._connection.begin():
            if self._erasures.kept(self._connection, [response]):
                call(self._connection)

    def erase(self, selection: Selection, before_s: float) -> Erased:
        """Delete a selection's records of requests until `before_s`, and keep later writes of such records out.

        The bytes are overwritten, and `vacuum` removes what SQLite has copied about.
        """
        with self._connection.begin():
            number = self._erasures.add(self._connection, selection, before_s)
        gone = self._delete(condition(selection), decisions.c.created_s <= before_s)
        with self._connection.begin():
            theirs = condition(selection, responses)
            kept = delete_responses(self._connection, theirs, responses.c.created_s <= before_s)
            self._erasures.deleted(self._connection, number)
        truncate_wal(self._driver)
        return replace(gone, responses=kept)

    def merge(self, known: Sequence[Erasure]) -> None:
        """Repeat erasures that another file remembers: for a file from a backup."""
        if not known:
            return
        with self._connection.begin():
            self._erasures.merge(self._connection, known)
            ids = list(covered(self._connection, known))
            for response_id in list(covered(self._connection, known, responses)):
                delete_responses(self._connection, responses.c.response_id == response_id)
        for i in range(0, len(ids), _DELETED_AT_ONCE):
            with self._connection.begin():
                delete_some(self._connection, ids[i : i + _DELETED_AT_ONCE])
        truncate_wal(self._driver)

    def vacuum(self, now_s: float) -> Vacuum:
        """Rewrite the file if there was an erasure and no other process does it.

        Other processes cannot write meanwhile. Ended early by `interrupt`. Raises DBAPIError, sqlite3.Error as `write`.
        """
        if self._rewritten is None:
            if not self.pending:
                return "idle"
            with self._connection.begin():
                newest = self._erasures.claim(self._connection, now_s)
            if newest is None:
                return "idle"
            try:
                self._driver.execute("VACUUM")
            except sqlite3.OperationalError as e:  # busy, interrupted, no room on the disk: it is as it was before
                logger.warning("store: %s is not rewritten yet without what was deleted: %s", self._path, e)
                with self._connection.begin():
                    self._erasures.settle(self._connection, newest, now_s, done=False)
                return "failed"
            self._rewritten = (newest, now_s)
        if not truncate_wal(self._driver):
            return "waits"
        (newest, begun_s), self._rewritten = self._rewritten, None
        with self._connection.begin():
            self._erasures.settle(self._connection, newest, begun_s, done=True)
        return "done"

    def interrupt(self) -> None:
        """End a `vacuum` that runs in another thread; the file is as it was before."""
        self._driver.interrupt()

    @property
    def pending(self) -> int:
        """Erasures whose bytes may still be in the file: it was not rewritten since."""
        (count,) = self._driver.execute(PENDING).fetchone()  # without the write lock: this is looked at every second
        return int(count)

    def _delete(self, *which: ColumnElement[bool]) -> Erased:
        ids = select(decisions.c.decision_id).where(*which).limit(_DELETED_AT_ONCE)
        gone = Erased(0, 0)
        while True:
            with self._connection.begin():
                some = delete_some(self._connection, list(self._connection.execute(ids).scalars()))
            gone = Erased(gone.decisions + some.decisions, gone.feedback + some.feedback)
            if some.decisions < _DELETED_AT_ONCE:
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
                (application,), _, (tables,) = (connection.execute(q).fetchone() for q in _IDENTITY)
                connection.execute("COMMIT")
                found = damage(connection)
                if found is None and application == APPLICATION_ID:
                    check_format(connection, self._path)
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


def trouble(error: Exception) -> Literal["passing", "file"] | None:
    """Of an error while writing: it may pass (locked, disk full), the file has to be opened again, or None: neither."""
    code = _code(error.orig if isinstance(error, DBAPIError) else error)
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
    for index in BY_USER:
        index.create(connection, checkfirst=True)
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
        to_wal(connection, _BUSY_S)
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # two processes cannot then deadlock on an upgrade

    return engine
