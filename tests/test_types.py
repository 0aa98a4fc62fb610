"""A decision's fields are declared once: a field added to the declaration shows up everywhere without further code."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.store.database import Database
from serve_app.types import DECISION_FIELDS
from tests.store.test_sqlite import record

ROOT = Path(__file__).resolve().parent.parent
DECLARED = """    budget: Annotated[str, Shown("Text.", name="budget_name", header="budget", logged="budget")] = "it's"
    shares: Annotated[Mapping[str, float], Shown("Shares.", detail=True)] = field(default_factory=dict)
    cap: Annotated[int | None, Shown("A cap.", decimals=None)] = None
"""
PROGRAM = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("serve_app.types", sys.argv[1])
sys.modules["serve_app.types"] = types = importlib.util.module_from_spec(spec)
spec.loader.exec_module(types)

from serve_app.api import shapes
from serve_app.api.reply import decision_headers, decision_json, jethro_object
from serve_app.observability.access_log import line
from serve_app.store.base import RequestRecord
from serve_app.store.database import Database

decision = types.Decision("new", "route", "small", "m", "easy", budget="night", shares={"a": 0.5}, cap=3)
record = RequestRecord("r", "chat", 1.0, decision=decision)
database = Database(sys.argv[2])
database.write([record])
print(json.dumps({
    "headers": {name.decode(): value.decode() for name, value in decision_headers(decision)},
    "answer": json.loads(jethro_object(decision, record)),
    "route": decision_json(decision),
    "log": line(record, ""),
    "new": database.find("new"),
    "old": database.find("old"),
    "answer_schema": shapes.CHAT_COMPLETION["properties"]["jethro"],
    "decision_schema": shapes.DECISION,
    "record_schema": shapes.RECORD,
}))
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What a program prints whose declaration has three fields more, over a store written without them."""
    folder = tmp_path_factory.mktemp("declared")
    database = Database(str(folder / "x.sqlite3"))
    database.write([record("old")])
    database.close()
    source = (ROOT / "serve_app" / "types.py").read_text("utf-8")
    before = "    preferred_pool: str | None = None\n"
    assert source.count(before) == 1
    (folder / "types.py").write_text(source.replace(before, DECLARED + before))
    command = [sys.executable, "-c", PROGRAM, str(folder / "types.py"), str(folder / "x.sqlite3")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder / "x.sqlite3"


def test_in_header_answer_and_log(shown):
    said, _ = shown
    assert said["headers"]["x-jethro-budget"] == said["log"]["budget"] == said["answer"]["budget_name"] == "night"
    assert said["answer"]["cap"] == 3 and "shares" not in said["answer"]
    assert "cap" not in said["log"] and "x-jethro-cap" not in said["headers"]
    del said["answer"]["cost_usd"]
    assert said["route"] == {**said["answer"], "expected": {}, "features": {}, "shares": {"a": 0.5}}


def test_in_the_store_which_keeps_what_was_written_before(shown):
    said, path = shown
    assert (said["new"]["budget_name"], said["new"]["shares"], said["new"]["cap"]) == ("night", {"a": 0.5}, 3)
    assert (said["old"]["budget_name"], said["old"]["shares"], said["old"]["cap"]) == ("it's", {}, None)
    assert said["old"]["features"] == {"length": 0.1}
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()
    database = Database(str(path))  # a program that does not know them reads on and writes on
    database.write([record("newer")])
    assert database.find("newer")["pool"] == database.find("old")["pool"] == "small"
    database.close()


def test_in_the_schemas(shown):
    said, _ = shown
    of_answer, whole = said["answer_schema"]["properties"], said["decision_schema"]["properties"]
    assert of_answer["budget_name"] == {"type": "string", "description": "Text."}
    assert of_answer["cap"]["type"] == ["integer", "null"] and "shares" not in of_answer
    assert whole["shares"]["type"] == "object" and whole.items() <= said["record_schema"]["properties"].items()


def test_the_fields_as_they_are():
    assert [f.name for f in DECISION_FIELDS] == [
        *("decision_id", "strategy", "pool", "model", "reason", "score", "threshold", "router"),
        *("policy_version", "decision_ms", "expected", "features", "warning", "task", "adapter"),
        *("privacy", "place", "guards"),
    ]
    optional = ["score", "threshold", "router", "warning", "task", "adapter", "privacy", "place"]
    assert [f.name for f in DECISION_FIELDS if f.optional] == optional
