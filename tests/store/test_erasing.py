"""What is deleted is gone: from answers, from the bytes of the files, and from what other Gateways still hold."""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from serve_app.config.tree import StoreConfig
from serve_app.erasure import Selection
from serve_app.errors import ConfigError, NotFound, PoolUnavailable
from serve_app.store.base import Erased, Feedback
from serve_app.store.database import Database
from serve_app.store.file import journals
from serve_app.store.sqlite import SqliteStore
from tests.store.test_sqlite import config, record, rows

__all__ = ["config"]

ALICE = "alice@example.org"


def prompt(user: str, number: int, words: int = 8) -> str:
    return f"<{user} says {number:05}> " * words


def of(user: str, number: int, **changes):
    values = {"user": user, "prompt": prompt(user, number), "created_s": 1000.0 + number, **changes}
    return record(f"{user[:5]}{number:05}", **values)


def on_disk(path: str, text: str) -> int:
    """How often the text is in the store's files."""
    files = [file for file in (Path(path), *journals(Path(path))) if file.exists()]
    return sum(file.read_bytes().count(text.encode()) for file in files)


def file_bytes(config: StoreConfig) -> int:
    return os.stat(config.path).st_size


@asynccontextmanager
async def opened(config: StoreConfig, **changes) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(config.model_copy(update=changes), clock=lambda: 50_000.0)
    await store.start()
    try:
        yield store
    finally:
        await store.aclose()


async def until_vacuumed(config: StoreConfig) -> None:
    async with asyncio.timeout(20):
        while rows(config, "SELECT 1 FROM erasures WHERE vacuumed_s IS NULL"):
            await asyncio.sleep(0.05)


def fill(path: str, users: list[str], each: int, words: int) -> None:
    with closing(Database(path)) as database:
        for start in range(0, each, 50):
            batch = [of(u, n, prompt=prompt(u, n, words)) for n in range(start, start + 50) for u in users]
            database.write(batch)


@pytest.mark.parametrize("words", [2, 40, 700])
async def test_no_byte_of_a_deleted_users_prompts_is_in_the_files_and_the_others_are_whole(config, words):
    users = [ALICE, "bob", "carol"]
    fill(config.path, users, 100, words)
    async with opened(config) as store:
        await store.feedback(Feedback("alice00007", 1.0, "comment of alice"))
        assert (
            on_disk(config.path, f"<{ALICE} says") >= 98 * words
        )  # where a long one is cut into pages it is not found
        assert await store.erase(Selection(user=ALICE)) == Erased(100, 1)
        assert on_disk(config.path, f"<{ALICE} says") == 0, "before the file is rewritten"
        await until_vacuumed(config)
        assert on_disk(config.path, "alice") == on_disk(config.path, "@example.org says") == 0
        with pytest.raises(NotFound):
            await store.decision("alice00007")
        assert (await store.decision("bob00099"))["prompt"] == prompt("bob", 99, words)
    assert on_disk(config.path, ALICE) == 0
    assert rows(config, "SELECT user, count(*) FROM decisions GROUP BY user") == [("bob", 100), ("carol", 100)]
    assert rows(config, "PRAGMA integrity_check") == [("ok",)]


async def test_bytes_that_an_earlier_version_left_behind_are_gone_as_well(config):
    fill(config.path, [ALICE, "bob"], 100, 30)
    with closing(sqlite3.connect(config.path)) as careless:
        careless.execute("PRAGMA secure_delete = OFF")
        careless.execute(f"DELETE FROM decisions WHERE user = '{ALICE}' AND created_s < 1090")
        careless.commit()
    assert on_disk(config.path, f"<{ALICE} says 00003") > 0
    async with opened(config) as store:
        assert await store.erase(Selection(user=ALICE)) == Erased(10, 0)
        await until_vacuumed(config)
    assert on_disk(config.path, f"<{ALICE} says") == 0


async def test_what_another_gateway_still_holds_is_not_written_after_the_deletion(config):
    async with opened(config) as one, opened(config, flush_s=30.0, batch=1000) as other:
        other.record(of(ALICE, 1))
        other.record(of("bob", 1))
        assert other.queued == 2
        assert (await one.erase(Selection(user=ALICE))).decisions == 0
        assert (await other.decision("bob00001"))["user"] == "bob"
        with pytest.raises(NotFound):
            await other.decision("alice00001")
        assert (other.queued, other.failed) == (0, 0)
    assert rows(config) == [("bob00001",)]


async def test_a_request_that_was_running_is_not_written_and_a_later_one_is(config):
    async with opened(config) as store:
        await store.erase(Selection(user=ALICE))
        store.record(of(ALICE, 1, created_s=49_999.0))
        store.record(of(ALICE, 2, created_s=50_001.0))
        assert await store.decision("alice00002")
    assert rows(config) == [("alice00002",)]


async def test_an_erasure_outlives_a_restart_and_names_nobody(config):
    async with opened(config) as store:
        await store.erase(Selection(user=ALICE))
        await until_vacuumed(config)
    assert on_disk(config.path, ALICE) == 0
    async with opened(config) as store:
        store.record(of(ALICE, 1))
        store.record(of("bob", 1))
        assert await store.decision("bob00001")
    assert rows(config) == [("bob00001",)]


async def test_a_row_that_must_be_repaired_is_held_back_as_well(config):
    async with opened(config) as store:
        await store.erase(Selection(user=ALICE))
        store.record(of(ALICE, 1, prompt="\ud800"))
        store.record(of("bob", 1, prompt="\ud800"))
        assert await store.decision("bob00001")
    assert rows(config) == [("bob00001",)]


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        (Selection(user=ALICE), {"acme-bob", "rival-bob"}),
        (Selection("acme", ALICE), {"acme-bob", "rival-alice", "rival-bob", "rival-said"}),
        (Selection("acme"), {"rival-alice", "rival-bob", "rival-said"}),
        (Selection(decision_id="acme-bob"), {"acme-alice", "acme-said", "rival-alice", "rival-bob", "rival-said"}),
        (Selection("rival", decision_id="acme-bob"), None),
        (Selection(user="nobody"), None),
        (Selection(), set()),
    ],
)
async def test_who_is_selected(config, selection, left):
    """Written before the deletion or after it: the same records go."""

    def records():
        for tenant in ("acme", "rival"):
            yield record(f"{tenant}-alice", tenant=tenant, user=ALICE)
            yield record(f"{tenant}-said", tenant=tenant, user="42", safety_identifier=ALICE)
            yield record(f"{tenant}-bob", tenant=tenant, user="bob")

    every = {f"{t}-{u}" for t in ("acme", "rival") for u in ("alice", "said", "bob")}
    left = every if left is None else left
    async with opened(config) as store:
        for one in records():
            store.record(one)
        assert (await store.erase(selection)).decisions == len(every) - len(left)
        assert {row[0] for row in rows(config)} == left
        await store.erase(Selection())
    later = config.model_copy(update={"path": config.path + "2"})
    async with opened(later) as store:
        await store.erase(selection)
        for one in records():
            store.record(one)
    assert {row[0] for row in rows(later)} == left


async def test_a_file_made_smaller_by_another_gateway_is_no_damage(config, caplog):
    fill(config.path, [ALICE, "bob"], 400, 40)
    before = file_bytes(config)
    async with opened(config) as one, opened(config) as other:
        await asyncio.gather(one.decision("bob00001"), other.decision("bob00001"))
        await one.erase(Selection(user=ALICE))
        await until_vacuumed(config)
        assert file_bytes(config) < before * 0.6
        other.record(of("bob", 900))
        assert await other.decision("bob00900")
        await asyncio.sleep(1.2)
        assert (one.restarts, other.restarts) == (0, 0)
    assert "opening it again" not in caplog.text


async def test_the_file_is_rewritten_by_one_gateway_and_after_the_rows_are_gone(config):
    with closing(Database(config.path)) as one, closing(Database(config.path)) as other:
        one.write([of(ALICE, 1)])
        with one._connection.begin():
            number = one._erasures.add(one._connection, Selection(user=ALICE), 2000.0)
        assert other.vacuum(2001.0) == "idle", "its rows are still being deleted"
        assert other.vacuum(2000.0 + 1000) == "done", "the process that deleted them was killed"
        one.erase(Selection(user=ALICE), 4000.0)
        with one._connection.begin():
            assert one._erasures.claim(one._connection, 4001.0) == number + 1
        assert other.vacuum(4002.0) == "idle", "another process does it"
        assert other.pending == 1


async def test_a_reader_delays_the_rewriting_and_does_not_defeat_it(config):
    fill(config.path, [ALICE, "bob"], 50, 30)
    async with opened(config) as store:
        with closing(sqlite3.connect(config.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM decisions").fetchone()
            await store.erase(Selection(user=ALICE))
            await asyncio.sleep(0.6)
            assert rows(config, "SELECT 1 FROM erasures WHERE vacuumed_s IS NULL")
            store.record(of("bob", 900))
            assert await store.decision("bob00900")
        await until_vacuumed(config)
    assert on_disk(config.path, f"<{ALICE} says") == 0


async def test_closing_does_not_wait_for_a_long_rewriting_and_loses_nothing(config, monkeypatch):
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def vacuum(self: Database, now_s: float) -> str:
        loop.call_soon_threadsafe(began.set)
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        self._driver.execute(endless).fetchone()
        return "done"

    monkeypatch.setattr(Database, "vacuum", vacuum)
    async with opened(config) as store:
        await store.erase(Selection(user=ALICE))
        async with asyncio.timeout(10):
            await began.wait()
        store.record(of("bob", 1))
        started = time.monotonic()
        await store.aclose()
        assert time.monotonic() - started < 5
    assert rows(config) == [("bob00001",)]
    assert rows(config, "SELECT vacuumed_s, vacuum_begun_s FROM erasures") == [(None, None)], "the next one does it"


async def test_an_export_has_every_record_once_with_its_feedback(config, monkeypatch):
    monkeypatch.setattr("serve_app.store.sqlite._PAGE", 7)
    fill(config.path, ["alice", "bob"], 50, 2)
    async with opened(config, flush_s=0.4) as store, opened(config) as other:
        await store.feedback(Feedback("alice00003", 0.5, "so so"))
        other.record(of("alice", 50))  # still in memory
        found = [one async for page in store.export(Selection("acme", "alice")) for one in page]
        assert [one["prompt"] for one in found[:-1]] == [prompt("alice", n, 2) for n in range(50)]
        assert found[-1]["decision_id"] == "alice00050"
        assert [f["comment"] for one in found for f in one["feedback"]] == ["so so"]
        assert found[3] == await store.decision("alice00003")
        assert [one async for page in store.export(Selection("rival", "alice")) for one in page] == []


async def test_an_erasure_is_refused_while_there_is_no_file(config, tmp_path):
    async with opened(config) as store:
        os.unlink(config.path)
        os.mkdir(config.path)
        async with asyncio.timeout(10):
            while not store.away:
                await asyncio.sleep(0.02)
        with pytest.raises(PoolUnavailable):
            await store.erase(Selection(user=ALICE))
        os.rmdir(config.path)


async def test_what_is_older_than_keep_days_goes_with_its_feedback_and_its_bytes(config):
    fill(config.path, ["alice"], 100, 30)
    with closing(Database(config.path)) as database:
        database.add_feedback([(Feedback("alice00001", 1.0, "kept no longer"), 1001.0)])
        database.erase(Selection(user="nobody"), 1002.0)
        database.vacuum(1003.0)
    store = SqliteStore(config.model_copy(update={"keep_days": 3}), clock=lambda: 1050.0 + 3 * 86_400)
    await store.start()
    async with asyncio.timeout(10):
        gone = ("<alice says 00049", "kept no longer")
        while len(rows(config)) > 50 or any(on_disk(config.path, text) for text in gone):
            await asyncio.sleep(0.02)
    assert on_disk(config.path, "<alice says 00050") >= 30, "what follows the deletion may be in the -wal file as well"
    assert rows(config, "SELECT * FROM feedback") == rows(config, "SELECT * FROM erasures") == []
    await store.aclose()


async def test_a_file_of_a_newer_version_is_refused_and_never_put_aside(config, caplog):
    fill(config.path, ["alice"], 50, 1)
    newer = Path(config.path).with_name("newer")
    with closing(Database(str(newer))) as made:
        made.write([of("bob", 1)])
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 3")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with pytest.raises(ConfigError, match=r"is of newer versions of jethro .* run the version of jethro that wrote"):
        Database(str(newer))
    async with opened(config) as store:
        os.replace(newer, config.path)
        async with asyncio.timeout(10):
            while not store.away:
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.2)
        assert store.away
        assert [name for name in os.listdir(os.path.dirname(config.path)) if "corrupt" in name] == []
        with closing(sqlite3.connect(config.path)) as connection:
            assert connection.execute("SELECT decision_id FROM decisions").fetchall() == [("bob00001",)]


async def test_a_file_of_the_version_before_gets_what_it_lacks(config):
    fill(config.path, ["alice"], 50, 1)
    with closing(sqlite3.connect(config.path)) as older:
        older.executescript(
            "DROP INDEX decisions_user; DROP INDEX decisions_safety_identifier; DROP TABLE erasures;"
            "ALTER TABLE decisions DROP COLUMN user; ALTER TABLE decisions DROP COLUMN safety_identifier"
        )
    async with opened(config) as store:
        assert (await store.decision("alice00001"))["user"] is None
        store.record(of("alice", 60))
        assert (await store.erase(Selection(user="alice"))).decisions == 1
        assert (await store.erase(Selection("acme"))).decisions == 50
