import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from serve_app.errors import NotFound
from serve_app.store import database as module
from serve_app.store.base import Feedback
from serve_app.store.database import Database
from tests.store.test_sqlite import record


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x.sqlite3")


@pytest.fixture
def database(path):
    made = Database(path)
    yield made
    made.close()


def test_a_batch_is_written_as_one(database):
    database.write([record("a"), record("b")])
    assert database.find("a")["pool"] == database.find("b")["pool"] == "small"


def test_judgements_are_told_apart(database):
    database.write([record("a")])
    refused = database.add_feedback([(Feedback("a", 1), 5.0), (Feedback("b", 1), 6.0)])
    assert refused[0] is None
    assert isinstance(refused[1], NotFound)
    told = {"preferred": None, "against": None, "comment": None, "created_s": 5.0}
    assert database.find("a")["feedback"] == [{"score": 1.0, **told}]
    database.add_feedback([(Feedback("a", preferred="large", against="large"), 7.0)])
    assert database.find("a")["feedback"][1] == {
        **told, "score": None, "preferred": "large", "against": "large", "created_s": 7.0
    }  # fmt: skip


def test_pruning_takes_several_rounds_if_it_must(database, monkeypatch):
    monkeypatch.setattr(module, "_PRUNED_AT_ONCE", 3)
    database.write([record(f"d{i}", created_s=float(i)) for i in range(10)])
    database.add_feedback([(Feedback(f"d{i}", 1), 0.0) for i in range(10)])
    assert database.prune(8.0) == 8
    assert database.prune(8.0) == 0
    assert [database.find(f"d{i}")["feedback"][0]["score"] for i in (8, 9)] == [1.0, 1.0]


def test_a_locked_file_is_said_and_nothing_is_lost(database, path, monkeypatch):
    database._connection.exec_driver_sql("PRAGMA busy_timeout = 1")
    database._connection.rollback()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError):
        database.write([record("a")])
    other.execute("COMMIT")
    other.close()
    database.write([record("a")])
    assert database.find("a")


def test_errors_do_not_tell_what_was_written(database):
    with pytest.raises(Exception) as caught:
        database.write([record("a", prompt="a secret", latency_ms=object())])
    assert "a secret" not in str(caught.value)


def test_the_file_says_whose_it_is(database, path):
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA application_id").fetchone() == (0x4A455448,)
    assert other.execute("PRAGMA user_version").fetchone() == (2,)
    other.close()
