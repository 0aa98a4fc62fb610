"""`jethro decisions`, `jethro backup`, `jethro restore`: what the operator runs."""

from contextlib import closing
from pathlib import Path

import orjson
import pytest

from serve_app.store.base import Feedback
from serve_app.store.database import Database
from serve_app.streams.base import StreamCreate
from tests.store.test_erasing import on_disk
from tests.store.test_sqlite import record
from tests.streams.fakes import spec
from tests.streams.learners import opened
from tests.streams.test_erasing import batch, text


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    return [
        *("--set", f"store.path={tmp_path / 'x.sqlite3'}", "--set", f"streams.folder={tmp_path / 'streams'}"),
        *("--set", f"routing.registry={tmp_path / 'routers'}"),
    ]


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "x.sqlite3")
    with closing(Database(path)) as database:
        database.write(
            [record(f"{user}{i}", 1000.0 + i, user=user, tenant=tenant, prompt=f"{user} says {i} " * 50)
             for i in range(20) for user, tenant in (("alice", "acme"), ("bob", "rival"))]
        )  # fmt: skip
        database.add_feedback([(Feedback("alice3", 1.0), 5.0)])
    return path


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


@pytest.mark.parametrize("command", ["export", "delete"])
def test_whose_decisions_has_to_be_said_and_the_file_has_to_be_there(run, settings, command):
    result = run("decisions", command, *settings)
    assert (result.exit_code, "give --user, --tenant or --id" in result.stderr) == (2, True)
    result = run("decisions", command, "--user", "x", *settings)
    assert (result.exit_code, "no such file; give --config" in result.stderr) == (2, True)


def test_backup_and_restore(run, settings, path, tmp_path):
    made = run("backup", str(tmp_path / "b"), *settings)
    assert (made.exit_code, "40 decisions" in made.stdout) == (0, True)
    good = run("restore", str(tmp_path / "b"), "--check")
    assert (good.exit_code, ": good: 40 decisions" in good.stdout) == (0, True)
    assert run("decisions", "delete", "--user", "alice", *settings).exit_code == 0
    restored = run("restore", str(tmp_path / "b"), *settings)
    assert (restored.exit_code, "the present state is kept in" in restored.stderr) == (0, True)
    with closing(Database(path)) as database:
        assert database.find("bob3")
    assert run("decisions", "export", "--user", "alice", *settings).stdout == ""
    refused = run("restore", str(tmp_path / "none"), *settings)
    assert (refused.exit_code, "give the folder of a backup" in refused.stderr) == (2, True)
