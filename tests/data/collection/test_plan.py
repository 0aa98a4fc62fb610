""""""

import json
from contextlib import closing
from pathlib import Path

import pytest

from serve_app.data.collection.lab import half_of
from serve_app.data.collection.plan import queries_from_file, queries_from_lab, queries_from_log
from serve_app.errors import DataError
from serve_app.lab.tasks import TASKS, Item
from serve_app.store.database import Database
from tests.store.test_sqlite import record


def test_rows_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    rows = [
        {"prompt": "a", "id": "x", "group": "g", "reference": "r"},
        {"messages": talk},
        {"prompt": "c", "answer": 42},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = queries_from_file(path)
    assert [(a.id, a.group, a.reference) for a in found] == [("x", "g", "r"), ("1", "", None), ("2", "", "42")]
    assert [q.query.text for q in found] == ["a", "s\nq", "c"]
    assert len(queries_from_file(path, 2)) == 2


def test_files_that_ask_nothing_or_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "id": "1"}\n{"prompt": "b"}\n')
    with pytest.raises(DataError, match=r"line 2: .*'1' .*line 1"):
        queries_from_file(path)
    path.write_text("")
    with pytest.raises(DataError, match="no row"):
        queries_from_file(path)


def test_conversations_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    with closing(Database(str(path))) as database:
        with pytest.raises(DataError, match=r"store.keep_prompts"):
            queries_from_log(path)
        database.write([record("a", prompt="one\ntwo")])
    (found,) = queries_from_log(path)
    assert (found.id, found.query.text, len(found.query.messages)) == ("a", "one\ntwo", 1)


def test_lab_queries_are_different_unseen_and_of_one_half() -> None:
    found = queries_from_lab(300, 0, "learn")
    texts = [a.query.text for a in found]
    assert len(set(texts)) == len(texts) > 200 and {half_of(text) for text in texts} == {"learn"}
    assert len({a.id for a in found}) == len(found)
    assert {half_of(a.query.text) for a in queries_from_lab(50, 0, "measure")} == {"measure"}
    task, _, difficulty = found[0].group.rpartition("-")
    right = Item(task, "", int(difficulty), texts[0], found[0].reference or "")
    assert TASKS[task].grade(right, right.answer) == 1.0
