"""A store's file on the disk: for its owner only, watched while it is open, and kept under another name if damaged.

SQLite has two more files, NAME-wal and NAME-shm. They belong to one NAME: with another one under that name they would
damage it, so they leave together.
"""

import fcntl
import glob
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from serve_app.errors import ConfigError

logger = logging.getLogger("jethro.store")

_OWNER_ONLY: Final = 0o600
_CHECK_S: Final = 1.0
"""Shortest time from one check of the contents to the next."""
_CHECK_SHARE: Final = 0.01
"""Share of the time that checks of the contents may take: a file of gigabytes takes seconds."""

_WAL_PAUSE_S: Final = 0.02

Identity = tuple[int, int] | None
"""Device and inode; None: there is no file."""


def journals(path: Path) -> tuple[Path, Path]:
    """SQLite's log of changes, and its shared index."""
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Create the file's folder (mode 0700) if there is none, and keep other processes from replacing the file.

    Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def create_private(path: Path) -> None:
    """Create an empty file if there is none; it and its journals are for the owner only. Raises OSError."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _OWNER_ONLY))
    except FileExistsError:
        for file in (path, *journals(path)):
            _make_private(file)
    else:
        for journal in journals(path):  # of a file that is gone
            journal.unlink(missing_ok=True)


def _make_private(file: Path) -> None:
    try:
        if file.stat().st_mode & 0o777 != _OWNER_ONLY:
            file.chmod(_OWNER_ONLY)
    except FileNotFoundError:
        pass
    except PermissionError:
        logger.warning("store: %s belongs to another user, who decides who may read it", file)


def quarantine(path: Path, now_s: float) -> Path:
    """Rename the file and its journals to NAME.corrupt-TIME; returns the new path. Raises OSError."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    kept, number = path.with_name(f"{path.name}.corrupt-{stamp}"), 1
    while kept.exists():
        kept, number = path.with_name(f"{path.name}.corrupt-{stamp}.{number}"), number + 1
    path.rename(kept)
    for old, new in zip(journals(path), journals(kept), strict=True):
        with suppress(FileNotFoundError):
            old.rename(new)
    return kept


def quarantined(path: Path) -> list[Path]:
    """Damaged files, renamed by `quarantine`, that may hold what was in the file."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.corrupt-*"))


def expire_quarantined(path: Path, before_s: float) -> None:
    """Delete those that were last written before a time, in unix seconds."""
    for file in quarantined(path):
        with suppress(FileNotFoundError):
            if file.stat().st_mtime < before_s:
                file.unlink()
                logger.warning("store: %s is older than store.keep_days and was deleted", file)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to the file, which SQLite must not create: for any thread, transactions begun by hand."""
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def damage(connection: sqlite3.Connection) -> str | None:
    """What SQLite's quick check finds wrong, or None. Raises sqlite3.Error if the file cannot be read at all."""
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    return None if found == "ok" else str(found).replace("\n", " ")


def size(connection: sqlite3.Connection) -> int:
    """Bytes that SQLite takes the file to have. Raises sqlite3.Error if it has fewer."""
    # of page 1 itself, not of what this connection remembers of it: a statement that reads brings both up to date
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (pages,), (page,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages) * int(page)


class FileWatch:
    """Notices what other programs do to the file while it is open. For one thread; close it before the connection."""

    def __init__(self, path: Path, size: Callable[[], int]) -> None:
        """The file is open. `size`: bytes that SQLite takes it to have. Raises OSError if it is gone already."""
        self._path, self._expected = path, size
        status = path.stat()
        self._file = (status.st_dev, status.st_ino)
        self._size = status.st_size
        self._journals = [_identity(journal) for journal in journals(path)]
        self._seen = (status.st_mtime_ns, status.st_size)
        self._next_s = 0.0
        self._found: str | None = None
        self._checking: threading.Thread | None = None
        self._checked: sqlite3.Connection | None = None

    def fault(self) -> str | None:
        """What happened to the file, or None. Damaged contents are found by a check in another thread."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return "was deleted"
        except OSError as e:
            return f"is out of reach ({e.strerror})"
        if (status.st_dev, status.st_ino) != self._file:
            return "was replaced by another file"
        wal = _identity(journals(self._path)[0])
        if self._journals[0] not in (None, wal):
            return "lost its -wal file"
        if status.st_size < self._size and not self._shrunk_by_sqlite(status.st_size):
            return f"was cut from {self._size} to {status.st_size} bytes"
        self._size = status.st_size
        self._check((status.st_mtime_ns, status.st_size))
        return self._found

    def close(self) -> None:
        """End a check that runs, and remove journals that this file left behind under the name of another one."""
        while self._checking is not None and self._checking.is_alive():
            with suppress(sqlite3.Error, AttributeError):
                self._checked.interrupt()  # type: ignore[union-attr]  # not open yet, or no longer
            self._checking.join(0.05)
        if _identity(self._path) != self._file:
            for journal, known in zip(journals(self._path), self._journals, strict=True):
                if known is not None and _identity(journal) == known:
                    journal.unlink(missing_ok=True)

    def _shrunk_by_sqlite(self, now: int) -> bool:
        """Whether another process's VACUUM may have made the file smaller; if in doubt the contents are checked now.

        New pages may be in the -wal file alone, so that the file is smaller than it will be.
        """
        try:
            if self._expected() > now:
                self._next_s = 0.0
        except sqlite3.Error:  # pages are missing
            return False
        return True

    def _check(self, state: tuple[int, int]) -> None:
        """Check the contents if the file has changed, in a thread: SQLite alone writes there, and now and then only."""
        running = self._checking is not None and self._checking.is_alive()
        if state == self._seen or running or time.monotonic() < self._next_s:
            return
        self._seen = state
        self._checking = threading.Thread(target=self._run_check, name="store-check", daemon=True)
        self._checking.start()

    def _run_check(self) -> None:
        began_s = time.monotonic()
        try:
            with closing(connect(self._path)) as self._checked:
                if (found := damage(self._checked)) is not None:
                    self._found = f"is damaged ({found})"
        except sqlite3.OperationalError as e:  # interrupted, or busy: the next change is checked again
            logger.debug("store: %s could not be checked: %s", self._path, e)
        except sqlite3.DatabaseError as e:
            self._found = f"is damaged ({e})"
        ended_s = time.monotonic()
        self._next_s = ended_s + max(_CHECK_S, (ended_s - began_s) / _CHECK_SHARE)


def _identity(path: Path) -> Identity:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def to_wal(connection: sqlite3.Connection, busy_s: float) -> None:
    """Change the journal's mode, retrying while another process does: SQLite's busy timeout does not cover it."""
    deadline_s = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_WAL_PAUSE_S)
        else:
            return


class UnusableFile(ConfigError):
    """The file is damaged, or not a decision log of this version. `reason`: the message without the remedy."""

    def __init__(self, path: str, what: str, remedy: str) -> None:
        super().__init__(f"store.path: {path} {what}: {remedy}")
        self.reason = f"{path} {what}"
