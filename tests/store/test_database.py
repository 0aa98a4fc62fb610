import math
import os
import sqlite3
from contextlib import closing
from dataclasses import replace

import orjson
import pytest
from sqlalchemy.exc import OperationalError

from serve_app.errors import ConfigError, Conflict, NotFound, RequestError
from serve_app.store import database as module
from serve_app.store.base import MOST_FEEDBACK, Feedback
from serve_app.store.database import Database
from serve_app.types import Step, Usage
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
    monkeypatch.setattr(module, "_DELETED_AT_ONCE", 3)
    database.write([record(f"d{i}", created_s=float(i)) for i in range(10)])
    database.add_feedback([(Feedback(f"d{i}", 1), 0.0) for i in range(10)])
    assert database.prune(8.0) == 8
    assert database.prune(8.0) == 0
    assert [database.find(f"d{i}")["feedback"][0]["score"] for i in (8, 9)] == [1.0, 1.0]


def test_feedback_on_a_decision_is_bounded_and_one_that_cannot_be_stored_harms_no_other(database):
    database.write([record("a"), record("b")])
    assert database.add_feedback([(Feedback("a", 1), 5.0)] * (MOST_FEEDBACK - 1)) == [None] * (MOST_FEEDBACK - 1)
    given = [Feedback("a", comment="half \ud800"), Feedback("a", 1), Feedback("a", 0), Feedback("b", 1)]
    refused = database.add_feedback([(one, 6.0) for one in given])
    assert [type(error) for error in refused] == [RequestError, type(None), Conflict, type(None)]
    assert "100" in str(refused[2]) and refused[2].status == 409
    assert len(database.find("a")["feedback"]) == MOST_FEEDBACK


def test_another_tenants_decision_does_not_exist(database):
    database.write([record("a", tenant="acme"), record("b", tenant=None)])
    assert database.find("a", "acme") and database.find("a")
    for decision_id in ("a", "b", "none"):
        with pytest.raises(NotFound):
            database.find(decision_id, "umbrella")


ODD = {
    "tokens beyond 64 bits": ({"steps": (Step("small", "chosen", Usage(10**30, -(10**30)), 1e-6),)}, 2**63 - 1),
    "a cost that is no number": ({"steps": (Step("small", "chosen", Usage(5, 3), math.nan),)}, 5),
    "latency beyond any float": ({"latency_ms": 10**400}, 5),
    "half a surrogate pair": ({"prompt": "half \ud800", "tenant": "\udfff", "error_code": "\udcff"}, 5),
    "no endpoint": ({"endpoint": None}, 5),
    "odd features": (
        {"decision": {"features": {"\ud800": 2**70, "n": math.nan}, "expected": {"s": {"c": -(2**70)}}}},
        5,
    ),
    "odd texts": ({"decision": {"reason": "why \ud800", "score": math.nan, "decision_ms": math.nan}}, 5),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_stored_as_near_as_can_be(database, name):
    changes, prompt_tokens = ODD[name]
    odd = record("odd", **{k: v for k, v in changes.items() if k != "decision"})
    odd.decision = replace(odd.decision, **changes.get("decision", {}))
    assert database.write([record("a"), odd, record("b")]) == []
    found = database.find("odd")
    assert found["prompt_tokens"] == prompt_tokens and found["pool"] == "small"
    assert orjson.loads(orjson.dumps(found)) == found
    assert database.find("a") and database.find("b")


def test_a_damaged_file_is_an_operators_mistake(path):
    filled(path)
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(os.urandom(8192))
    with pytest.raises(ConfigError, match=r"store\.path: .*is damaged .*\.recover"):
        Database(path)
    assert sorted(os.listdir(os.path.dirname(path))) == ["x.sqlite3"]


def test_at_run_time_an_unusable_file_is_kept_under_another_name(path, caplog):
    filled(path)
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(os.urandom(8192))
    with closing(Database(path, replace_at_s=0.0)) as database:
        database.write([record("new")])
    kept = path + ".corrupt-19700101T000000Z"
    assert os.path.exists(kept) and kept in caplog.text
    with closing(Database(path, replace_at_s=0.0)) as again:  # another Gateway finds the new file good
        assert again.find("new")


def filled(path: str) -> None:
    with closing(Database(path)) as database:
        database.write([record(f"d{i}", prompt="x" * 500) for i in range(200)])


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
    ((_, error),) = database.write([record("a", prompt="a secret", latency_ms=object())])
    assert "a secret" not in str(error)


def test_the_file_says_whose_it_is(database, path):
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA application_id").fetchone() == (0x4A455448,)
    assert other.execute("PRAGMA user_version").fetchone() == (2,)
    other.close()
