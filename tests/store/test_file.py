import asyncio
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from serve_app.errors import PoolUnavailable
from serve_app.store.base import Feedback
from serve_app.store.database import Database
from serve_app.store.file import FileWatch, connect, create_private, journals, quarantine, size
from serve_app.store.sqlite import SqliteStore
from tests.store.test_sqlite import config, foreign, open_store, record, rows

__all__ = ["config"]


async def until_restarted(*stores: SqliteStore) -> None:
    async with asyncio.timeout(10):
        while not all(store.restarts and not store.away for store in stores):
            await asyncio.sleep(0.02)


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    away = path.parent.with_name("away")
    path.parent.rename(away)  # at once: a Gateway may remove and create files there
    shutil.rmtree(away)


def put_another_there(path: Path) -> None:
    other = path.with_name("other.sqlite3")
    Database(str(other)).close()
    os.replace(other, path)


def put_a_foreign_one_there(path: Path) -> None:
    other = path.with_name("other.sqlite3")
    foreign(other)
    os.replace(other, path)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))


def overwrite_the_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


def cut(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize(
    "spoil",
    [delete, delete_all, put_another_there, put_a_foreign_one_there, overwrite, overwrite_the_middle, cut],
)
async def test_a_file_that_is_lost_while_running_is_started_afresh_and_what_is_in_memory_is_kept(config, caplog, spoil):
    path = Path(config.path)
    with closing(Database(config.path)) as filled:
        filled.write([record(f"old{i:03}", prompt="x" * 500) for i in range(200)])
    one, two = open_store(config), open_store(config)
    await asyncio.gather(one.start(), two.start())
    one.record(record("old"))
    assert await one.decision("old")
    await two.feedback(Feedback("old", 1))
    spoil(path)
    await until_restarted(one, two)
    for i in range(20):
        one.record(record(f"a{i}"))
        two.record(record(f"b{i}"))
    await asyncio.gather(one.decision("a19"), two.decision("b19"))
    await one.feedback(Feedback("a3", 1))
    await asyncio.gather(one.aclose(), two.aclose())
    assert rows(config) == sorted((f"{x}{i}",) for x in "ab" for i in range(20))
    assert (one.failed, two.failed, one.dropped) == (0, 0, 0)
    assert rows(config, "PRAGMA integrity_check") == [("ok",)]
    assert "opening it again" in caplog.text and "is open again" in caplog.text
    assert {mode(found) for found in files(path.parent)} == {0o600}
    kept = {found.name.split("Z")[0] for found in files(path.parent) if ".corrupt-" in found.name}
    assert len(kept) == (spoil in (put_a_foreign_one_there, overwrite, overwrite_the_middle))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != "other.sqlite3"]


async def test_decisions_wait_while_there_can_be_no_file(config, caplog):
    store = open_store(config)
    await store.start()
    os.unlink(config.path)
    os.mkdir(config.path)
    async with asyncio.timeout(10):
        while not store.away:
            await asyncio.sleep(0.02)
    store.record(record("waits"))
    with pytest.raises(PoolUnavailable):
        await store.decision("waits")
    assert store.queued == 1
    os.rmdir(config.path)
    await until_restarted(store)
    assert await store.decision("waits")
    assert caplog.text.count("decisions wait") == 1
    await store.aclose()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_the_file_is_for_its_owner_only(config):
    path = Path(config.path)
    old = os.umask(0)
    try:
        store = open_store(config)
        await store.start()
        store.record(record())
        await store.decision("d1")
        assert {p.name: mode(p) for p in path.parent.iterdir()} == {
            "x.sqlite3": 0o600, "x.sqlite3-wal": 0o600, "x.sqlite3-shm": 0o600
        }  # fmt: skip
        assert mode(path.parent) == 0o700
        os.chmod(config.path, 0o644)
        await store.aclose()
        again = open_store(config)
        await again.start()
        assert mode(path) == 0o600
        await again.aclose()
    finally:
        os.umask(old)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.sqlite3"


def test_a_new_file_does_not_inherit_the_journals_of_one_that_is_gone(path):
    for journal in journals(path):
        journal.write_bytes(b"of another file")
    create_private(path)
    assert [p.name for p in path.parent.iterdir()] == ["x.sqlite3"] and path.stat().st_size == 0


def test_quarantined_files_keep_their_journals_and_never_replace_each_other(path):
    for _ in range(2):
        for file in (path, *journals(path)):
            file.write_text("x")
        kept = quarantine(path, 0.0)
    assert kept.name == "x.sqlite3.corrupt-19700101T000000Z.1"
    assert len(list(path.parent.iterdir())) == 6 and all(journal.exists() for journal in journals(kept))


def fault_within(watch: FileWatch, seconds: float) -> str | None:
    deadline = time.monotonic() + seconds
    while (fault := watch.fault()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return fault


def test_what_sqlite_itself_does_to_the_file_is_no_fault(path):
    Database(str(path)).close()
    with closing(connect(path)) as one, closing(connect(path)) as two:
        one.execute("CREATE TABLE t (x)")
        watch = FileWatch(path, lambda: 0)
        for i in range(50):
            (one, two)[i % 2].execute("INSERT INTO t VALUES (zeroblob(20000))")
            if i % 10 == 0:
                one.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            assert watch.fault() is None
        assert fault_within(watch, 1.5) is None
        watch.close()
        assert all(journal.exists() for journal in journals(path))


def test_a_file_that_shrank_by_a_vacuum_and_grows_again_in_its_wal_is_no_fault(path):
    Database(str(path)).close()
    with closing(connect(path)) as one, closing(connect(path)) as two:
        one.execute("CREATE TABLE t (x)")
        one.executemany("INSERT INTO t VALUES (zeroblob(20000))", [()] * 50)
        one.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        watch = FileWatch(path, lambda: size(one))
        before = path.stat().st_size
        two.execute("DELETE FROM t WHERE rowid > 25")
        two.execute("VACUUM")
        two.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        two.executemany("INSERT INTO t VALUES (zeroblob(20000))", [()] * 100)
        assert path.stat().st_size < before < size(two)
        assert watch.fault() is None
        assert fault_within(watch, 1.0) is None
        watch.close()


def test_a_file_that_lost_its_end_is_a_fault(path):
    Database(str(path)).close()
    with closing(connect(path)) as one:
        one.execute("CREATE TABLE t (x)")
        one.executemany("INSERT INTO t VALUES (zeroblob(20000))", [()] * 50)
        one.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        watch = FileWatch(path, lambda: size(one))
        os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
        assert fault_within(watch, 5.0) is not None
        watch.close()


def test_a_connection_does_not_create_the_file(path):
    with pytest.raises(sqlite3.OperationalError), closing(connect(path)) as connection:
        connection.execute("SELECT 1 FROM sqlite_master")
    assert not path.exists()


def test_journals_of_a_file_that_was_replaced_leave_with_it(path):
    Database(str(path)).close()
    with closing(connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        watch = FileWatch(path, lambda: 0)
        other = path.with_name("other.sqlite3")
        Database(str(other)).close()
        os.replace(other, path)
        assert watch.fault() == "was replaced by another file"
        watch.close()
        assert not any(journal.exists() for journal in journals(path))


def test_a_lost_journal_is_a_fault(path):
    with closing(Database(str(path))) as database:
        assert database.fault() is None
        journals(path)[0].unlink()
        assert database.fault() == "lost its -wal file"
