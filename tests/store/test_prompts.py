from contextlib import closing

import pytest

from serve_app.errors import ConfigError
from serve_app.store.database import Database
from serve_app.store.reading import read_prompts
from tests.store.test_sqlite import record


def test_each_conversation_once_by_when_it_last_came_up(tmp_path):
    path = tmp_path / "log.sqlite3"
    with closing(Database(str(path))) as database:
        database.write(
            [
                record("a", created_s=1.0, prompt="one"),
                record("b", created_s=2.0, prompt="two"),
                record("c", created_s=3.0, prompt="one"),
                record("d", created_s=4.0),
                record("e", created_s=5.0, prompt="raw", endpoint="completions"),
                record("g", created_s=9.0, prompt="collected", request_id="collect-01"),
                record("f", created_s=6.0, prompt="three", endpoint="route"),
            ]
        )
        assert read_prompts(path) == [("b", "two"), ("c", "one"), ("f", "three")]
        assert read_prompts(path, 2) == [("c", "one"), ("f", "three")]


def test_no_log_and_a_log_without_prompts(tmp_path):
    Database(str(tmp_path / "log.sqlite3")).close()
    assert read_prompts(tmp_path / "log.sqlite3") == []
    with pytest.raises(ConfigError, match="no such file"):
        read_prompts(tmp_path / "none.sqlite3")
