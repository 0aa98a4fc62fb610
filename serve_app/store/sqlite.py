"""The store on SQLite: its own thread writes decisions in batches and answers look-ups and feedback.

Serving never waits for it: `record` appends to a bounded queue. Feedback and look-ups run after the queue is written,
so they see every decision of this process; one still queued at another Gateway is looked up again.

The thread watches the file. Deleted, replaced or damaged, it is opened or started again, and what is in memory is
written there; until that succeeds decisions wait, and feedback and look-ups are refused.
"""

import asyncio
import logging
import math
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from serve_app.config.tree import StoreConfig
from serve_app.erasure import Selection
from serve_app.errors import ConfigError, NotFound, PoolUnavailable, RequestError
from serve_app.store.base import Erased, Feedback, RequestRecord
from serve_app.store.database import Database, Vacuum, reason, trouble
from serve_app.store.filtering import Cursor, DecisionFilter
from serve_app.store.reading import TooSlow, newest_decisions
from serve_app.store.responses import SqliteResponses

logger = logging.getLogger("jethro.store")

_OURS: Final = re.compile(r"[0-9a-f]{24}")
"""Decision ids as the API makes them; only these may still be queued at another Gateway."""
_WATCH_S: Final = 1.0
"""Longest time between two looks at the file, and shortest between two attempts to open it again."""
_PRUNE_EVERY_S: Final = 3600.0
_DAY_S: Final = 86_400.0
_VACUUM_SHARE: Final = 0.01
"""Share of the time in which the file is rewritten, while no Gateway can write: one of gigabytes takes seconds."""
_VACUUM_RETRY_S: Final = 60.0
"""After one that failed: the disk may be full."""
_PAGE: Final = 500
_SEARCHES: Final = 2
"""At once; further ones wait."""
_SEARCH_S: Final = 5.0
_ERRORS: Final = (SQLAlchemyError, sqlite3.Error)
T = TypeVar("T")


class SqliteStore:
    """Decisions and feedback in one file. `clock` gives unix seconds."""

    def __init__(self, config: StoreConfig, *, clock: Callable[[], float] = time.time) -> None:
        self._config, self._clock = config, clock
        self._records: deque[RequestRecord] = deque()
        self._feedback: deque[tuple[Feedback, float, Future[None]]] = deque()
        self._calls: deque[tuple[Callable[[Database], Any], Future[Any]]] = deque()
        self._reading = asyncio.Semaphore(_SEARCHES)
        self.responses = SqliteResponses(config, self._called, clock)
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._dropped = self._failed = self._restarts = 0
        self._database: Database | None = None
        self._retry_s = 0.0
        self._vacuum_s = self._vacuum_took_s = 0.0
        self._vacuuming: Database | None = None
        """For `interrupt`, while its file is rewritten."""
        self._fault: str | None = None
        """What is wrong with the file, from an error of SQLite or while it cannot be opened."""
        self._refusal: str | None = None
        """Why the last write failed."""

    @property
    def queued(self) -> int:
        """Records that wait for the writer."""
        return len(self._records)

    @property
    def dropped(self) -> int:
        """Records lost because the queue was full."""
        return self._dropped

    @property
    def failed(self) -> int:
        """Records lost because they could not be written."""
        return self._failed

    @property
    def restarts(self) -> int:
        """Times that the file was opened or started again."""
        return self._restarts

    @property
    def away(self) -> bool:
        """Whether there is no usable file now."""
        return self._database is None

    async def start(self) -> None:
        """Open the file and start the writer. Raises ConfigError if the file cannot be used."""
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="store-writer", daemon=True)
        self._thread.start()
        await asyncio.wrap_future(opened)

    def record(self, record: RequestRecord) -> None:
        """Queue a decision; a full queue drops and counts it, and so does a store that closes."""
        if len(self._records) >= self._config.queue or self._closing:
            self._dropped += 1
            return
        self._records.append(record)
        if len(self._records) == self._config.batch:
            self._wake.set()

    async def feedback(self, feedback: Feedback) -> None:
        """Durable when this returns. Raises NotFound, Conflict; PoolUnavailable if the file cannot be written now."""
        await self._twice(feedback.decision_id, lambda: self._queue_feedback(feedback))

    async def decision(self, decision_id: str, tenant: str | None = None) -> Mapping[str, Any]:
        """The record with its feedback. Raises NotFound, or PoolUnavailable if the file cannot be read now."""
        return await self._twice(decision_id, lambda: self._queue_call(lambda d: d.find(decision_id, tenant)))

    async def erase(self, selection: Selection) -> Erased:
        """Delete records. Raises PoolUnavailable if the file cannot be written now; some may be deleted then."""
        before_s = self._clock()
        return await self._queued(lambda: self._queue_call(lambda d: d.erase(selection, before_s)))

    async def export(self, selection: Selection) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        """Pages of records. Raises PoolUnavailable if the file cannot be read now."""
        await asyncio.sleep(self._config.flush_s * 1.5)  # other Gateways write their queues
        after = (-math.inf, "")
        while True:
            read = partial(Database.page, selection=selection, after=after, most=_PAGE)
            page: list[dict[str, Any]] = await self._queued(lambda: self._queue_call(read))  # noqa: B023 - called at once
            if page:
                yield page
                after = (page[-1]["created_s"], page[-1]["decision_id"])
            if len(page) < _PAGE:
                return

    async def newest(self, which: DecisionFilter, before: Cursor | None, most: int) -> Sequence[Mapping[str, Any]]:
        """Records of any tenant, newest first. Read apart from the writer, who must not wait for a long search."""
        if self._thread is None or self._closing:
            raise _unavailable()
        async with self._reading:
            try:
                return await asyncio.to_thread(
                    newest_decisions, Path(self._config.path), which, before, most, _SEARCH_S
                )
            except TooSlow as e:
                raise PoolUnavailable(str(e), code="search_too_long", retry_after_s=1) from e
            except (ConfigError, *_ERRORS) as e:  # the writer opens it again
                logger.warning("store: a search failed: %s", reason(e))
                raise _unavailable() from e

    async def aclose(self) -> None:
        """Write what is queued and close. Idempotent."""
        if self._thread is not None:
            self._closing = True
            self._wake.set()
            await asyncio.to_thread(self._join, self._thread)

    def _join(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            if (database := self._vacuuming) is not None:
                with suppress(sqlite3.Error):  # it has just ended and closed
                    database.interrupt()
            thread.join(0.05)

    def _queue_feedback(self, feedback: Feedback) -> Future[None]:
        done: Future[None] = Future()
        self._feedback.append((feedback, self._clock(), done))
        return done

    def _queue_call(self, call: Callable[[Database], T]) -> Future[T]:
        done: Future[T] = Future()
        self._calls.append((call, done))
        return done

    async def _called(self, call: Callable[[Database], T]) -> T:
        return await self._queued(lambda: self._queue_call(call))

    async def _twice(self, decision_id: str, send: Callable[[], Future[T]]) -> T:
        """Queue it; for an unknown decision once more, after the other Gateways have written their queues."""
        try:
            return await self._queued(send)
        except NotFound:
            if not _OURS.fullmatch(decision_id):
                raise
        await asyncio.sleep(self._config.flush_s * 1.5)
        return await self._queued(send)

    async def _queued(self, send: Callable[[], Future[T]]) -> T:
        if self._thread is None or self._closing:
            raise _unavailable()
        done = send()
        self._wake.set()
        return await asyncio.wrap_future(done)

    def _run(self, opened: Future[None]) -> None:
        """The writer thread."""
        try:
            self._database = Database(self._config.path)
        except Exception as e:
            opened.set_exception(e)
            return
        opened.set_result(None)
        pruned_s = 0.0
        while not self._closing:
            self._wake.wait(min(self._config.flush_s, _WATCH_S))
            self._wake.clear()
            self._round()
            if self._clock() - pruned_s > _PRUNE_EVERY_S and not self._closing:
                pruned_s = self._clock()
                self._prune()
            if time.monotonic() >= self._vacuum_s and not self._closing:
                self._vacuum()
        for _ in range(2):  # an interrupt meant for a VACUUM may have hit the first
            self._retry_s = 0.0
            self._round()
        if self._records:
            logger.error("store: %d decisions lost, the file cannot be written", len(self._records))
        self._failed += len(self._records)
        self._records.clear()
        self._close()

    def _round(self) -> None:
        """Write what is queued, then answer what is awaited: it may concern a decision just queued."""
        feedback, calls = _taken(self._feedback), _taken(self._calls)
        try:
            database = self._checked()
            if database is not None and self._write(database):
                self._answer(database, feedback, calls)
        except Exception:  # the thread must live: nothing else writes
            logger.exception("store: a round failed")
        waiting: list[Future[Any]] = [*(f[-1] for f in feedback), *(call[-1] for call in calls)]
        for done in waiting:
            if not done.done():
                _settle(done, None, _unavailable())

    def _checked(self) -> Database | None:
        """The file, opened again if something happened to it; None: it cannot be used now."""
        if self._database is not None:
            self._fault = self._fault or self._database.fault()
            if self._fault is None:
                return self._database
            logger.error("store: %s %s: opening it again", self._config.path, self._fault)
            self._close()
        if time.monotonic() < self._retry_s:
            return None
        self._retry_s = time.monotonic() + _WATCH_S
        try:
            self._database = Database(self._config.path, replace_at_s=self._clock())
        except ConfigError as e:
            if self._fault != str(e):  # once, not every second
                logger.error("store: %d decisions wait: %s", len(self._records), e)
            self._fault = str(e)
            return None
        self._restarts += 1
        self._fault = None
        logger.warning("store: %s is open again, %d decisions had waited", self._config.path, len(self._records))
        return self._database

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is None:
            return
        try:
            database.close()
        except Exception as e:  # of a file that is gone or damaged
            logger.warning("store: closing %s: %s: %s", self._config.path, type(e).__name__, e)

    def _answer(
        self,
        database: Database,
        feedback: Sequence[tuple[Feedback, float, Future[None]]],
        calls: Sequence[tuple[Callable[[Database], Any], Future[Any]]],
    ) -> None:
        try:
            if feedback:
                _add_feedback(database, feedback)
            for call, done in calls:
                _call(database, call, done)
        except _ERRORS as e:
            self._note(e)
            logger.warning("store: feedback, look-ups and erasures are refused: %s", reason(e))

    def _write(self, database: Database) -> bool:
        """All that is queued, in batches; False if the file cannot be written now and they wait for the next round."""
        while self._records:
            batch = [self._records[i] for i in range(min(len(self._records), self._config.batch))]
            try:
                lost = database.write(batch)
            except _ERRORS as e:
                self._note(e)
                if self._refusal != reason(e):  # once, not at every attempt: the log may be on the same full disk
                    logger.warning(
                        "store: %d decisions wait, the file cannot be written: %s", len(self._records), reason(e)
                    )
                self._refusal = reason(e)
                return False
            if self._refusal is not None:
                logger.warning("store: the file is written again, %d decisions had waited", len(self._records))
                self._refusal = None
            for _ in batch:
                self._records.popleft()
            self._failed += len(lost)
            for record, error in lost:
                self._report(record, error)
        return True

    def _note(self, error: Exception) -> None:
        """An error that calls for opening the file again: at the next round."""
        if trouble(error) == "file":
            self._fault = f"cannot be used ({reason(error)})"
            self._wake.set()

    def _report(self, record: RequestRecord, error: Exception) -> None:
        known = {"request_id": record.request_id}
        id_ = record.decision.id if record.decision is not None else None
        logger.error("store: decision %s lost: %s: %s", id_, type(error).__name__, reason(error), extra=known)

    def _vacuum(self) -> None:
        """Rewrite the file after an erasure: at once for a small file, and for a large one now and then."""
        if self._database is None:
            return
        began_s = time.monotonic()
        self._vacuuming = self._database
        try:
            result: Vacuum = self._database.vacuum(self._clock())
        except _ERRORS as e:
            self._note(e)
            logger.warning("store: the file is not rewritten yet without what was deleted: %s", reason(e))
            result = "failed"
        finally:
            self._vacuuming = None
        ended_s = time.monotonic()
        self._vacuum_took_s += 0.0 if result == "idle" else ended_s - began_s
        pause_s = _VACUUM_RETRY_S if result == "failed" else _WATCH_S
        if result == "done":
            logger.info("store: %s was rewritten without what was deleted", self._config.path)
            pause_s, self._vacuum_took_s = max(pause_s, self._vacuum_took_s / _VACUUM_SHARE), 0.0
        self._vacuum_s = ended_s + pause_s

    def _prune(self) -> None:
        if self._database is None:
            return
        try:
            now_s, config = self._clock(), self._config
            gone = self._database.prune(now_s - config.keep_days * _DAY_S, now_s - config.responses_days * _DAY_S)
        except (*_ERRORS, OSError) as e:
            self._note(e)
            logger.warning("store: old decisions could not be deleted: %s", reason(e))
            return
        if gone:
            logger.info("store: %d decisions older than %d days deleted", gone, self._config.keep_days)


def _taken(queue: deque[T]) -> list[T]:
    return [queue.popleft() for _ in range(len(queue))]


def _add_feedback(database: Database, given: Sequence[tuple[Feedback, float, Future[None]]]) -> None:
    """All feedback in one transaction. Raises SQLAlchemyError."""
    refused = database.add_feedback([(feedback, created_s) for feedback, created_s, _ in given])
    for (_, _, done), error in zip(given, refused, strict=True):
        _settle(done, None, error)


def _call(database: Database, call: Callable[[Database], Any], done: Future[Any]) -> None:
    """One look-up or erasure. Raises SQLAlchemyError, sqlite3.Error."""
    try:
        _settle(done, call(database), None)
    except RequestError as e:
        _settle(done, None, e)
    except Exception as e:  # no other call fails for it
        if trouble(e) is not None:
            raise
        logger.exception("store: a call failed")
        _settle(done, None, _unavailable())


def _settle(done: Future[Any], value: Any, error: Exception | None) -> None:
    """Set the result or error, unless the future is cancelled."""
    if done.set_running_or_notify_cancel():
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)


def _unavailable() -> PoolUnavailable:
    return PoolUnavailable("The store is not available now: try again.", code="store_unavailable", retry_after_s=1)
