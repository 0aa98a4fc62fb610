import os
import sqlite3
from contextlib import closing

import pytest

from serve_app.errors import ConfigError
from serve_app.store.base import Feedback
from serve_app.store.database import Database
from serve_app.store.reading import FeedbackRow, feedback_rows
from tests.store.test_sqlite import record


def test_feedback_comes_with_its_decision_while_another_has_the_file_open(tmp_path):
    path = tmp_path / "a log, 50% #1.sqlite3"
    with closing(Database(str(path))) as database:
        database.write([record("a", prompt="hi")])
        database.add_feedback([(Feedback("a", 0.5), 1.0), (Feedback("a", None, "c", "tie", "large"), 2.0)])
        judgements, models = feedback_rows(path)
    told = {"prompt_tokens": 5, "completion_tokens": 3, "cost_usd": 1e-6, "latency_ms": 12.5}
    assert judgements == [
        FeedbackRow("a", "completed", "small", "lab-small", "hi", 0.5, None, None, **told),
        FeedbackRow("a", "completed", "small", "lab-small", "hi", None, "tie", "large", **told),
    ]
    assert models == {"small": "lab-small"}


def test_reading_writes_nothing(tmp_path):
    path = tmp_path / "log.sqlite3"
    Database(str(path)).close()
    before = path.read_bytes()
    assert feedback_rows(path) == ([], {})
    assert path.read_bytes() == before


def foreign(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")


def older(path):
    Database(str(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")


def garbage(path):
    path.write_bytes(os.urandom(4096))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no such file"),
        (foreign, "decision log"),
        (older, "version 1, .*2"),
        (garbage, "cannot be read"),
    ],
)
def test_files_that_are_no_log_are_named(tmp_path, make, says):
    path = tmp_path / "x.sqlite3"
    make(path)
    with pytest.raises(ConfigError, match=says) as caught:
        feedback_rows(path)
    assert str(path) in caught.value.message
