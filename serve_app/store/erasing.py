"""Deletes records for good: rows in short transactions, their bytes overwritten, and the file rewritten afterwards.

SQLite's `secure_delete` writes zeros over deleted rows. Three places keep their bytes for longer, and each is cleaned:
the -wal file, until it is truncated; pages in which rows were moved about, until a VACUUM; and Gateways' memory, whose
records of earlier requests `ErasureTable.kept` drops. A VACUUM needs the write lock as long as it runs, so one Gateway
runs it for all, when it has leisure.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, insert, or_, select, true, update

from serve_app.erasure import SALT_BYTES, Erasure, ErasureLog, Origin, Selection
from serve_app.store.base import Erased, KeptResponse, RequestRecord
from serve_app.store.file import connect
from serve_app.store.schema import decisions, erasures, feedback, responses

logger = logging.getLogger("jethro.store")

_VARIABLES: Final = 500
"""SQLite bounds the number of variables in a statement."""
_READERS_MS: Final = 200
"""Longest wait for readers of the -wal file, while no process can write."""
PENDING: Final = "SELECT count(*) FROM erasures WHERE vacuumed_s IS NULL"
_CLAIM_S: Final = 900.0
"""A VACUUM that has not ended after this time is another Gateway's to run: the first one was killed."""

R = TypeVar("R", RequestRecord, KeptResponse)


class ErasureTable:
    """The erasures of one file, as one process knows them. Every method runs in a transaction of its caller."""

    def __init__(self) -> None:
        self._log = ErasureLog()
        self._last = 0

    def kept(self, connection: Connection, records: Sequence[R]) -> Sequence[R]:
        """The records that no erasure covers. The transaction holds the write lock, so none can come in between."""
        self._refresh(connection)
        return [r for r in records if not self._log.covers(r.origin)]

    def add(self, connection: Connection, selection: Selection, before_s: float) -> int:
        """Remember an erasure, for all processes, before its rows are deleted; returns its number for `deleted`."""
        salt = connection.execute(select(erasures.c.salt).limit(1)).scalar() or os.urandom(SALT_BYTES)
        values = {"salt": salt, "digest": selection.digest(salt), "before_s": before_s, "vacuum_begun_s": before_s}
        number: int = connection.execute(insert(erasures).values(**values)).inserted_primary_key[0]  # type: ignore[index]
        return number

    def merge(self, connection: Connection, known: Sequence[Erasure]) -> None:
        """Remember erasures of another file."""
        values = [{"salt": e.salt, "digest": e.digest, "before_s": e.before_s} for e in known]
        connection.execute(insert(erasures), values)

    def deleted(self, connection: Connection, number: int) -> None:
        """The rows are deleted: now a VACUUM may follow."""
        connection.execute(update(erasures).where(erasures.c.id == number).values(vacuum_begun_s=None))

    def expire(self, connection: Connection, before_s: float) -> None:
        """Forget erasures of records so old that they are deleted for their age."""
        done = erasures.c.vacuumed_s.is_not(None)
        connection.execute(delete(erasures).where(erasures.c.before_s < before_s, done))

    def claim(self, connection: Connection, now_s: float) -> int | None:
        """The newest erasure without a VACUUM after it, for the caller to run one; None: there is none to be run."""
        begun = erasures.c.vacuum_begun_s  # also set while rows are deleted: a VACUUM would come too early
        due = and_(erasures.c.vacuumed_s.is_(None), or_(begun.is_(None), begun < now_s - _CLAIM_S, begun > now_s))
        newest: int | None = connection.execute(
            select(erasures.c.id).where(due).order_by(erasures.c.id.desc()).limit(1)
        ).scalar()
        if newest is not None:
            connection.execute(update(erasures).where(due).values(vacuum_begun_s=now_s))
        return newest

    def settle(self, connection: Connection, newest: int, begun_s: float, *, done: bool) -> None:
        """The VACUUM claimed at `begun_s` has ended; not done: it is to be run again."""
        ours = and_(erasures.c.id <= newest, erasures.c.vacuumed_s.is_(None), erasures.c.vacuum_begun_s == begun_s)
        values = {"vacuumed_s": begun_s if done else None, "vacuum_begun_s": None}
        connection.execute(update(erasures).where(ours).values(**values))

    def _refresh(self, connection: Connection) -> None:
        for row in connection.execute(select(erasures).where(erasures.c.id > self._last).order_by(erasures.c.id)):
            self._log.add(Erasure(row.salt, row.digest, row.before_s))
            self._last = row.id


def condition(selection: Selection, of: Table = decisions) -> ColumnElement[bool]:
    """The selection's rows of `decisions`, or of `responses`."""
    named: list[ColumnElement[bool]] = []
    if selection.decision_id is not None:
        named.append(of.c.decision_id == selection.decision_id)
    if selection.tenant is not None:
        named.append(of.c.tenant == selection.tenant)
    if selection.user is not None:
        named.append(or_(of.c.user == selection.user, of.c.safety_identifier == selection.user))
    return and_(true(), *named)


def delete_some(connection: Connection, ids: Sequence[str]) -> Erased:
    """Delete decisions by their ids, with their feedback."""
    given = 0
    for i in range(0, len(ids), _VARIABLES):
        some = ids[i : i + _VARIABLES]
        given += connection.execute(delete(feedback).where(feedback.c.decision_id.in_(some))).rowcount
        connection.execute(delete(decisions).where(decisions.c.decision_id.in_(some)))
    return Erased(len(ids), given)


def truncate_wal(connection: sqlite3.Connection) -> bool:
    """Move what the -wal file holds to the database, and cut it to nothing; False: a reader still needs it."""
    (waits_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {_READERS_MS}")
    try:
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {waits_ms}")
    return not busy


def known_erasures(path: Path) -> list[Erasure]:
    """Those that a file remembers; none if it cannot be read."""
    try:
        with closing(connect(path)) as connection:
            return [Erasure(*row) for row in connection.execute("SELECT salt, digest, before_s FROM erasures")]
    except sqlite3.Error as e:
        logger.warning("store: %s cannot be read for its erasures: %s", path, e)
        return []


def covered(connection: Connection, known: Sequence[Erasure], of: Table = decisions) -> Iterator[str]:
    """The keys of rows that such erasures cover: ids of decisions, or of responses."""
    log, (key,) = ErasureLog(known), of.primary_key.columns
    columns = (key, *(of.c[name] for name in ("decision_id", "tenant", "user", "safety_identifier", "created_s")))
    for row_key, id_, tenant, *users, created_s in connection.execute(select(*columns)):
        if log.covers(Origin(id_, tenant, tuple(u for u in users if u is not None), created_s)):
            yield row_key


def delete_responses(connection: Connection, *which: ColumnElement[bool]) -> int:
    """Delete those kept responses; returns how many."""
    return connection.execute(delete(responses).where(*which)).rowcount
