"""The store on SQLite: its own thread writes decisions in batches and answers look-ups and feedback.

Serving never waits for it: `record` appends to a bounded queue. Feedback and look-ups run after the queue is written,
so they see every decision of this process; one still queued at another Gateway is looked up again.
"""

import asyncio
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from serve_app.config.tree import StoreConfig
from serve_app.errors import JethroError, NotFound, PoolUnavailable
from serve_app.store.base import Feedback, RequestRecord
from serve_app.store.database import Database

logger = logging.getLogger("jethro.store")

_OURS: Final = re.compile(r"[0-9a-f]{24}")
"""Decision ids as the API makes them; only these may still be queued at another Gateway."""
_PRUNE_EVERY_S: Final = 3600.0
_DAY_S: Final = 86_400.0
T = TypeVar("T")


class SqliteStore:
    """Decisions and feedback in one file. `clock` gives unix seconds."""

    def __init__(self, config: StoreConfig, *, clock: Callable[[], float] = time.time) -> None:
        self._config, self._clock = config, clock
        self._records: deque[RequestRecord] = deque()
        self._feedback: deque[tuple[Feedback, float, Future[None]]] = deque()
        self._lookups: deque[tuple[str, Future[dict[str, Any]]]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._dropped = self._failed = 0

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

    async def start(self) -> None:
        """Open the file and start the writer. Raises ConfigError if the file cannot be used."""
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="store-writer", daemon=True)
        self._thread.start()
        await asyncio.wrap_future(opened)

    def record(self, record: RequestRecord) -> None:
        """Queue a decision; a full queue drops and counts it."""
        if len(self._records) >= self._config.queue:
            self._dropped += 1
            return
        self._records.append(record)
        if len(self._records) == self._config.batch:
            self._wake.set()

    async def feedback(self, feedback: Feedback) -> None:
        """Durable when this returns. Raises NotFound, or PoolUnavailable if the file cannot be written now."""
        await self._twice(feedback.decision_id, lambda: self._queue_feedback(feedback))

    async def decision(self, decision_id: str) -> Mapping[str, Any]:
        """The record with its feedback. Raises NotFound, or PoolUnavailable if the file cannot be read now."""
        return await self._twice(decision_id, lambda: self._look_up(decision_id))

    async def aclose(self) -> None:
        """Write what is queued and close. Idempotent."""
        if self._thread is not None:
            self._closing = True
            self._wake.set()
            await asyncio.to_thread(self._thread.join)

    def _queue_feedback(self, feedback: Feedback) -> Future[None]:
        done: Future[None] = Future()
        self._feedback.append((feedback, self._clock(), done))
        return done

    def _look_up(self, decision_id: str) -> Future[dict[str, Any]]:
        done: Future[dict[str, Any]] = Future()
        self._lookups.append((decision_id, done))
        return done

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
            database = Database(self._config.path)
        except Exception as e:
            opened.set_exception(e)
            return
        opened.set_result(None)
        pruned_s = 0.0
        while not self._closing:
            self._wake.wait(self._config.flush_s)
            self._wake.clear()
            self._serve(database)
            if self._clock() - pruned_s > _PRUNE_EVERY_S and not self._closing:
                pruned_s = self._clock()
                self._prune(database)
        self._serve(database)
        self._failed += len(self._records)
        database.close()

    def _serve(self, database: Database) -> None:
        """Write what is queued, then answer what is awaited: it may concern a decision just queued."""
        feedback, lookups = _taken(self._feedback), _taken(self._lookups)
        while self._records:
            if not self._write(database):
                waiting: list[Future[Any]] = [*(f[-1] for f in feedback), *(lookup[-1] for lookup in lookups)]
                for done in waiting:
                    _settle(done, None, _unavailable())
                return
        if feedback:
            _add_feedback(database, feedback)
        for decision_id, found in lookups:
            _find(database, decision_id, found)

    def _write(self, database: Database) -> bool:
        """One batch; False if the file cannot be written now and the batch waits for the next round."""
        batch = [self._records.popleft() for _ in range(min(len(self._records), self._config.batch))]
        try:
            database.write(batch)
        except OperationalError as e:  # locked, or the disk is full: it may pass
            self._records.extendleft(reversed(batch))
            logger.warning("store: %d decisions wait, the file cannot be written: %s", len(self._records), e.orig)
            return False
        except Exception:
            self._failed += len(batch)
            logger.exception("store: %d decisions lost", len(batch))
        return True

    def _prune(self, database: Database) -> None:
        try:
            gone = database.prune(self._clock() - self._config.keep_days * _DAY_S)
        except SQLAlchemyError as e:
            logger.warning("store: old decisions could not be deleted: %s", e)
            return
        if gone:
            logger.info("store: %d decisions older than %d days deleted", gone, self._config.keep_days)


def _taken(queue: deque[T]) -> list[T]:
    return [queue.popleft() for _ in range(len(queue))]


def _add_feedback(database: Database, given: Sequence[tuple[Feedback, float, Future[None]]]) -> None:
    """All feedback in one transaction."""
    refused: Sequence[JethroError | None]
    try:
        refused = database.add_feedback([(feedback, created_s) for feedback, created_s, _ in given])
    except Exception:
        logger.exception("store: feedback could not be written")
        refused = [_unavailable() for _ in given]
    for (_, _, done), error in zip(given, refused, strict=True):
        _settle(done, None, error)


def _find(database: Database, decision_id: str, found: Future[dict[str, Any]]) -> None:
    try:
        _settle(found, database.find(decision_id), None)
    except NotFound as e:
        _settle(found, None, e)
    except Exception:
        logger.exception("store: a look-up failed")
        _settle(found, None, _unavailable())


def _settle(done: Future[Any], value: Any, error: Exception | None) -> None:
    """Set the result or error, unless the future is cancelled."""
    if done.set_running_or_notify_cancel():
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)


def _unavailable() -> PoolUnavailable:
    return PoolUnavailable("The store is not available now: try again.", code="store_unavailable", retry_after_s=1)
