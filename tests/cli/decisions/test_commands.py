"""`jethro decisions`: read, exported and deleted from the file, and from an endpoint over HTTP."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from serve_app.cli.decisions.lines import decision_line
from serve_app.gateway.services import build_services
from serve_app.store.base import Feedback
from serve_app.store.database import Database
from serve_app.streams.base import StreamCreate
from tests.api.admin.conftest import ADMIN, tree
from tests.api.fakes import FakePool
from tests.api.server import serving
from tests.store.test_erasing import on_disk
from tests.store.test_sqlite import record
from tests.streams.fakes import spec
from tests.streams.learners import opened
from tests.streams.test_erasing import batch, text


def test_a_user_is_exported_and_deleted_from_log_and_journals(run, settings, path, tmp_path):
    registry = opened(tmp_path / "streams")
    registry.create(StreamCreate(spec()))
    registry.report(batch(registry, 1, text(("alice",), 1), text(("bob",), 1)))
    registry.close()
    exported = run("decisions", "export", "--user", "alice", *settings, "--out", str(tmp_path / "alice.jsonl"))
    assert (exported.exit_code, exported.stderr) == (0, "20 decisions\n")
    assert (tmp_path / "alice.jsonl").stat().st_mode & 0o777 == 0o600
    lines = [orjson.loads(line) for line in (tmp_path / "alice.jsonl").read_bytes().splitlines()]
    assert [line["decision_id"] for line in lines] == [f"alice{i}" for i in range(20)]
    assert [f["score"] for line in lines for f in line["feedback"]] == [1.0]
    (tmp_path / "alice.jsonl").unlink()
    (tmp_path / "x.sqlite3.corrupt-20260101T000000Z").write_text("?")
    deleted = run("decisions", "delete", "--user", "alice", *settings)
    assert deleted.exit_code == 0
    assert "20 decisions and 1 pieces of feedback deleted" in deleted.stdout
    assert "texts erased from the journals" in deleted.stdout
    assert "left as it is" in deleted.stderr and "corrupt-20260101" in deleted.stderr
    found = [p for p in tmp_path.rglob("*") if p.is_file() and b"alice" in p.read_bytes()]
    assert found == []
    assert on_disk(path, "bob says 19") == 50


def test_a_tenant_is_deleted_while_a_gateway_has_the_file_open(run, settings, path):
    with closing(Database(path)) as gateway:
        gateway.find("alice1")
        result = run("decisions", "delete", "--tenant", "acme", *settings)
        assert (result.exit_code, "20 decisions" in result.stdout) == (0, True)
        gateway.write([record("late", 1500.0, user="alice", tenant="acme", prompt="alice says late")])
        assert gateway.fault() is None
        assert gateway.find("bob1")
    assert on_disk(path, "alice says") == 0


def test_whose_decisions_are_to_be_deleted_has_to_be_said(run, settings):
    result = run("decisions", "delete", *settings)
    assert (result.exit_code, "give --user, --tenant or --id" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "command", [["export"], ["delete", "--user", "x"], ["tail"], ["show", "x"], ["export", "--id", "x"]]
)
def test_the_file_has_to_be_there(run, settings, tmp_path, command):
    result = run("decisions", *command, *settings)
    assert (result.exit_code, "no such file; give --config" in result.stderr) == (2, True)
    assert not (tmp_path / "x.sqlite3").exists()


def lines(result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """1,203 decisions of the last hour, with feedback on some: more than two pages."""
    path, now_s = tmp_path / "log.sqlite3", time.time()
    made = [
        record(
            f"d{i:04}",
            now_s - 3000 + i,
            tenant=("acme", "rival")[i % 2],
            prompt=f"question {i}",
            latency_ms=float(i),
            status="failed" if i == 7 else "completed",
        )
        for i in range(1203)
    ]
    with closing(Database(str(path))) as database:
        database.write(made)
        database.add_feedback(
            [(Feedback("d0003", 0.5, "meh"), now_s), (Feedback("d1200", None, None, "large", "large"), 1)]
        )
    return path


@pytest.fixture(params=["file", "endpoint"])
def source(request, log, tmp_path, monkeypatch) -> Iterator[list[str]]:
    """Options that name the same decisions, in the file or over HTTP."""
    if request.param == "file":
        yield ["--set", f"store.path={log}"]
        return
    monkeypatch.setenv("TEST_ADMIN_KEY", ADMIN)
    monkeypatch.setenv("TEST_CALLER_KEY", "a-callers")
    keyed = tree(tmp_path, server={"keys": [{"name": "acme", "env": "TEST_CALLER_KEY"}]})
    with serving(lambda: build_services(keyed, {"small": FakePool(), "large": FakePool("large", "lab-large")})) as url:
        monkeypatch.setenv("JETHRO_ADMIN_KEY", ADMIN)
        yield ["--url", url]


@pytest.fixture
def asked(run, source):
    """Runs a command on the source; `run` has cleared the operator's key, which is given again."""
    return lambda *arguments: run("decisions", *arguments, *source, JETHRO_ADMIN_KEY=ADMIN)


def test_tail_shows_the_newest_last_and_filters(asked):
    shown = asked("tail", "-n", "3")
    assert [line.split()[-2] for line in shown.stdout.splitlines()] == ["d1200", "d1201", "d1202"]
    assert "0.250 < 0.500" in shown.stdout and "acme" in shown.stdout
    found = lines(asked("tail", "-n", "700", "--tenant", "rival", "--json"))
    assert len(found) == 601 and found[-1]["decision_id"] == "d1201"
    assert [r["decision_id"] for r in lines(asked("tail", "--status", "failed", "--json"))] == ["d0007"]
    assert [r["decision_id"] for r in lines(asked("tail", "--min-latency-ms", "1202", "--json"))] == ["d1202"]
    assert lines(asked("tail", "--until", "2h", "--json")) == []


def test_show_has_everything_considered(asked):
    shown = asked("show", "d0003")
    for part in ("decision d0003", "expects small", "features", "score 0.5, meh", "question 3", "0.250"):
        assert part in shown.stdout, shown.stdout
    assert json.loads(asked("show", "d0003", "--json").stdout)["feedback"][0]["score"] == 0.5
    for unknown in ("none", "no/such?decision"):
        missing = asked("show", unknown)
        assert missing.exit_code == 2 and "no decision" in missing.stderr.lower()


def test_export_writes_all_oldest_first_the_same_from_file_and_endpoint(asked, tmp_path, log):
    out = tmp_path / "all.jsonl"
    assert asked("export", "--out", str(out)).stderr == "1,203 decisions\n"
    records = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert [r["decision_id"] for r in records] == [f"d{i:04}" for i in range(1203)]
    with closing(Database(str(log))) as database:
        assert records[3] == database.find("d0003")
    assert out.stat().st_mode & 0o777 == 0o600


def test_export_to_parquet_holds_every_field(asked, tmp_path):
    out = tmp_path / "rival.parquet"
    assert asked("export", "--tenant", "rival", "--out", str(out)).exit_code == 0
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 601 and {r["tenant"] for r in rows} == {"rival"}
    assert rows[1]["decision_id"] == "d0003" and orjson.loads(rows[1]["feedback"])[0]["comment"] == "meh"
    assert orjson.loads(rows[0]["expected"]) == {"small": {"quality": 0.9, "cost_usd": 1e-6}}
    assert (rows[0]["prompt_tokens"], rows[0]["score"]) == (5, 0.25)
    assert out.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tail", "--since", "soon"], "--since: 'soon' is no time"),
        (["tail", "--status", "done"], "--status: use one of"),
        (["export", "--format", "parquet"], "--out FILE.parquet"),
        (["export", "--id", "x", "--tenant", "y"], "leave out the other filters"),
        (["tail", "-n", "0"], "greater than or equal to 1"),
    ],
)
def test_mistakes_are_said(run, log, arguments, message):
    result = run("decisions", *arguments, "--set", f"store.path={log}")
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_a_wrong_key_is_said_with_what_to_do(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_ADMIN_KEY", ADMIN)
    with serving(lambda: build_services(tree(tmp_path), {"small": FakePool(), "large": FakePool("large")})) as url:
        result = run("decisions", "tail", "--url", url, JETHRO_ADMIN_KEY="wrong")
    assert (result.exit_code, "export JETHRO_ADMIN_KEY" in result.stderr) == (2, True), result.stderr


def test_a_file_of_an_older_version_without_a_column_is_read(run, log):
    with closing(sqlite3.connect(log)) as connection:
        connection.execute("ALTER TABLE decisions DROP COLUMN guards")
        connection.execute("ALTER TABLE decisions DROP COLUMN task")
    found = lines(run("decisions", "tail", "-n", "1", "--json", "--set", f"store.path={log}"))
    assert (found[0]["guards"], found[0]["task"]) == ({}, None)


def test_what_commands_the_terminal_is_left_out_of_a_line():
    whole = {"decision_id": "d", "created_s": 1e300, "strategy": "route", "pool": "small\x1b[2J\n", "score": None}
    line = decision_line({**whole, "threshold": 0.5, "cost_usd": 0.0, "latency_ms": 1.0, "status": "failed"})
    assert "\x1b" not in line and "\n" not in line and "1e+300" in line
