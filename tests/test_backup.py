"""Backup and restore: while others write, after kills, checked, and with later erasures repeated."""

import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from serve_app import backup
from serve_app.backup import Places, back_up, check, restore
from serve_app.erasure import Selection
from serve_app.errors import ConfigError
from serve_app.files import write_whole
from serve_app.routing.registry import artefacts_dir
from serve_app.store.base import Feedback
from serve_app.store.database import Database
from serve_app.streams.base import StreamCreate
from tests.store.test_sqlite import record
from tests.streams.fakes import spec
from tests.streams.learners import labelled, line, opened
from tests.streams.test_erasing import ALICE, batch, on_disk, text


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """An endpoint's state, stopped in order."""
    made = Places(tmp_path / "var" / "x.sqlite3", tmp_path / "var" / "streams", tmp_path / "var" / "routers")
    with closing(Database(str(made.store))) as database:
        database.write([record(f"d{i}", user=f"user{i % 3}", prompt=f"user{i % 3} says {i}") for i in range(30)])
        database.add_feedback([(Feedback("d1", 1.0), 5.0)])
    made.streams.mkdir()
    registry = opened(made.streams)
    registry.create(StreamCreate(spec()))
    registry.report(line(registry, 1))
    registry.close()
    shutil.copytree(artefacts_dir() / "complexity", made.routers / "mine" / "complexity-1")
    write_whole(made.routers / "mine" / "current", b"complexity-1\n")
    return made


def ids(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT decision_id FROM decisions")}


def test_what_was_backed_up_is_there_again_and_the_present_state_is_kept(places, tmp_path):
    report = back_up(places, tmp_path / "b")
    assert (report.decisions, report.streams, report.routers) == (30, 1, 1)
    assert check(tmp_path / "b") == report
    assert "30 decisions, 1 streams, 1 router versions" in str(report)
    with closing(Database(str(places.store))) as database:
        database.write([record("later")])
    registry = opened(places.streams)
    registry.report(line(registry, 2))
    registry.close()
    shutil.rmtree(places.routers / "mine")
    kept = restore(places, tmp_path / "b", 0.0)
    assert [p.name for p in kept] == [f"{n}.replaced-19700101T000000Z" for n in ("x.sqlite3", "mood", "routers")]
    assert "later" not in ids(places.store) and len(ids(places.store)) == 30
    assert "later" in ids(kept[0])
    assert places.store.stat().st_mode & 0o777 == 0o600
    assert (places.routers / "mine" / "current").read_text() == "complexity-1\n"
    registry = opened(places.streams)
    assert labelled(registry) == 1
    registry.close()
    with closing(Database(str(places.store))) as database:
        assert database.find("d1")["feedback"][0]["score"] == 1.0


def test_a_backup_while_others_write_holds_what_is_in_the_wal_file(places, tmp_path):
    with closing(Database(str(places.store))) as database:
        database.write([record("in the wal")])
        assert (places.store.parent / "x.sqlite3-wal").stat().st_size > 0
        back_up(places, tmp_path / "b")
        database.write([record("after")])
    assert ids(tmp_path / "b" / "store.sqlite3") == {*(f"d{i}" for i in range(30)), "in the wal"}


def test_a_backup_after_a_kill_holds_what_is_in_the_wal_file(places, tmp_path):
    with closing(Database(str(places.store))) as database:
        database.write([record("in the wal")])
        killed = Places(tmp_path / "killed" / "x.sqlite3", tmp_path / "none", tmp_path / "none")
        shutil.copytree(places.store.parent, killed.store.parent)
    report = back_up(killed, tmp_path / "b")
    assert (report.decisions, report.streams, report.routers) == (31, 0, 0)
    restore(killed, tmp_path / "b", 0.0)
    assert "in the wal" in ids(killed.store)


def test_a_backup_while_the_learner_writes_checkpoints_is_whole_each_time(places, tmp_path):
    registry = opened(places.streams, checkpoint_events=6)
    stop = threading.Event()

    def learn() -> None:
        seq = 1
        while not stop.is_set():
            seq += 1
            registry.report(line(registry, seq))

    learning = threading.Thread(target=learn)
    learning.start()
    try:
        for i in range(5):
            assert back_up(places, tmp_path / f"b{i}").streams == 1
    finally:
        stop.set()
        learning.join()
        registry.close()
    for i in range(5):
        copy = opened(tmp_path / f"b{i}" / "streams")
        figures = copy.published["mood"].figures
        assert (figures["corrupt"], figures["labelled"] >= 1) == (0, True)
        copy.close()


def test_who_was_deleted_since_the_backup_stays_deleted(places, tmp_path):
    registry = opened(places.streams)
    registry.report(batch(registry, 2, text(ALICE, 1), text(("bob",), 1)))
    back_up(places, tmp_path / "b")
    assert on_disk(tmp_path / "b", "user1 says") and on_disk(tmp_path / "b", "alice@")
    registry.erase(Selection(user=ALICE[0]), time.time())
    registry.close()
    with closing(Database(str(places.store))) as database:
        database.erase(Selection(user="user1"), time.time())
    kept = restore(places, tmp_path / "b", 0.0)
    for path in kept:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert ids(places.store) == {f"d{i}" for i in range(30) if i % 3 != 1}
    assert on_disk(places.store.parent, "user1") == on_disk(places.streams, "alice") == []
    assert on_disk(places.streams, "bob says 1")
    with closing(Database(str(places.store))) as database:
        database.write([record("late", user="user1"), record("late too", user="user2")])
    assert "late" not in ids(places.store) and "late too" in ids(places.store)


def test_restoring_is_refused_while_a_gateway_or_a_learner_runs(places, tmp_path):
    back_up(places, tmp_path / "b")
    with closing(Database(str(places.store))) as database:
        database.find("d1")
        with pytest.raises(ConfigError, match=r"x\.sqlite3: is in use .*stop the endpoint first"):
            restore(places, tmp_path / "b", 0.0)
    registry = opened(places.streams)
    with pytest.raises(ConfigError, match="another Learner uses"):
        restore(places, tmp_path / "b", 0.0)
    registry.close()
    assert [p.name for p in places.store.parent.iterdir() if "replaced" in p.name] == []
    restore(places, tmp_path / "b", 0.0)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["store.sqlite3", "streams/mood/stream.json", "routers/mine/complexity-1/card.json"])
@pytest.mark.parametrize(("spoil", "says"), [(flip, "not as it was"), (Path.unlink, "is missing")])
def test_a_backup_that_changed_is_refused_and_nothing_is_touched(places, tmp_path, name, spoil, says):
    back_up(places, tmp_path / "b")
    spoil(tmp_path / "b" / name)
    with pytest.raises(ConfigError, match=rf"{name}: is.*{says.removeprefix('is ')}"):
        restore(places, tmp_path / "b", 0.0)
    assert [p.name for p in places.store.parent.iterdir() if "replaced" in p.name] == []


def test_a_damaged_or_foreign_store_is_not_backed_up_as_if_it_were_good(places, tmp_path):
    with closing(sqlite3.connect(places.store)) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(ConfigError, match="newer versions of jethro"):
        back_up(places, tmp_path / "b")
    places.store.write_bytes(os.urandom(20_000))
    with pytest.raises(ConfigError, match=r"x\.sqlite3: cannot be copied"):
        back_up(places, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert list(tmp_path.glob(".b*")) == []


def test_a_damaged_present_store_can_be_replaced(places, tmp_path):
    back_up(places, tmp_path / "b")
    places.store.write_bytes(os.urandom(20_000))
    restore(places, tmp_path / "b", 0.0)
    assert len(ids(places.store)) == 30


def test_a_backup_of_a_newer_version_is_refused_with_a_sentence(places, tmp_path):
    back_up(places, tmp_path / "b")
    manifest = tmp_path / "b" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(ConfigError, match=r"has format 2, and this version reads 1: restore it with the version"):
        check(tmp_path / "b")


def test_an_existing_folder_is_not_written_into_and_a_failed_backup_leaves_nothing(places, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        back_up(places, tmp_path / "there")

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "write_whole", full)
    with pytest.raises(ConfigError, match=r"cannot be written .*No space left"):
        back_up(places, tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there", "var"]


def test_a_manifest_that_names_files_elsewhere_is_refused(places, tmp_path):
    back_up(places, tmp_path / "b")
    manifest = tmp_path / "b" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"store.sqlite3"', b'"../store.sqlite3"'))
    with pytest.raises(ConfigError, match="names a file outside"):
        restore(places, tmp_path / "b", 0.0)
