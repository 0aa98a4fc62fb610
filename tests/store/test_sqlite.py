import asyncio
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import orjson
import pytest

from serve_app.config.tree import StoreConfig
from serve_app.errors import ConfigError, NotFound, PoolUnavailable
from serve_app.store.base import Feedback, RequestRecord
from serve_app.store.database import Database
from serve_app.store.sqlite import SqliteStore
from serve_app.types import Decision, Step, Usage


def record(id_="d1", created_s=1000.0, **changes) -> RequestRecord:
    decision = Decision(
        id=id_,
        strategy="route",
        pool="small",
        model="lab-small",
        reason="easy",
        score=0.25,
        threshold=0.5,
        router="complexity",
        policy_version="v1",
        decision_ms=0.2,
        expected={"small": {"quality": 0.9, "cost_usd": 1e-6}},
        features={"length": 0.1},
    )
    values = {
        "request_id": "r1", "created_s": created_s, "endpoint": "chat", "status": "completed",
        "steps": (Step("small", "chosen", Usage(5, 3), 1e-6),), "latency_ms": 12.5, "ttft_ms": 3.5, "tenant": "acme",
    }  # fmt: skip
    return RequestRecord(decision=decision, **{**values, **changes})


@pytest.fixture
def config(tmp_path) -> StoreConfig:
    return StoreConfig(path=str(tmp_path / "var" / "x.sqlite3"), flush_s=0.02, batch=4)


def open_store(config: StoreConfig, **changes) -> SqliteStore:
    """A store in whose time the records above are young."""
    return SqliteStore(config.model_copy(update=changes), clock=lambda: 2000.0)


@pytest.fixture
async def store(config):
    made = open_store(config)
    await made.start()
    yield made
    await made.aclose()


def rows(config: StoreConfig, query: str = "SELECT decision_id FROM decisions ORDER BY decision_id") -> list:
    connection = sqlite3.connect(config.path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def test_a_decision_is_seen_at_once_with_all_its_fields(store):
    store.record(record(prompt="hi", error_code="x"))
    assert await store.decision("d1") == {
        "decision_id": "d1", "created_s": 1000.0, "request_id": "r1", "tenant": "acme", "endpoint": "chat",
        "status": "completed", "strategy": "route", "pool": "small", "model": "lab-small", "router": "complexity",
        "score": 0.25, "threshold": 0.5, "reason": "easy", "policy_version": "v1", "decision_ms": 0.2,
        "expected": {"small": {"quality": 0.9, "cost_usd": 1e-6}}, "features": {"length": 0.1}, "prompt_tokens": 5,
        "completion_tokens": 3, "cost_usd": 1e-6, "latency_ms": 12.5, "ttft_ms": 3.5, "error_code": "x",
        "prompt": "hi", "user": None, "safety_identifier": None, "feedback": [], "warning": None, "task": None,
        "adapter": None,
    }  # fmt: skip


async def test_the_description_and_the_record_agree(store):
    from serve_app.api.shapes import RECORD

    store.record(record())
    found = await store.decision("d1")
    assert set(RECORD["required"]) <= set(found)
    assert orjson.loads(orjson.dumps(found)) == found


async def test_feedback_works_for_a_decision_that_is_still_queued(store, config):
    store.record(record())
    await store.feedback(Feedback("d1", 0.5, "so so"))
    await store.feedback(Feedback("d1", 1))
    assert rows(config, "SELECT score, comment, created_s FROM feedback") == [
        (0.5, "so so", 2000.0),
        (1.0, None, 2000.0),
    ]
    assert [f["score"] for f in (await store.decision("d1"))["feedback"]] == [0.5, 1.0]


async def test_feedback_is_on_the_disk_when_it_returns(store, config):
    store.record(record())
    await store.feedback(Feedback("d1", 1))
    assert rows(config, "PRAGMA journal_mode") == [("wal",)]
    assert rows(config, "SELECT count(*) FROM feedback") == [(1,)]


async def test_many_judgements_at_once_each_get_their_own_answer(store):
    store.record(record())
    results = await asyncio.gather(
        *(store.feedback(Feedback(id_, 1)) for id_ in ("d1", "none", "d1", "nobody")), return_exceptions=True
    )
    assert [type(r) for r in results] == [type(None), NotFound, type(None), NotFound]
    assert len((await store.decision("d1"))["feedback"]) == 2


async def test_what_is_unknown(store):
    for ask in (store.decision("none"), store.feedback(Feedback("none", 1))):
        with pytest.raises(NotFound) as caught:
            await ask
        assert caught.value.param == "decision_id"


async def test_nothing_waits_for_more_than_a_flush(store, config):
    store.record(record())
    for _ in range(200):
        if rows(config):
            break
        await asyncio.sleep(0.01)
    assert rows(config) == [("d1",)]
    assert store.queued == 0


async def test_closing_writes_what_is_queued(config):
    store = open_store(config, flush_s=60.0)
    await store.start()
    for i in range(11):
        store.record(record(f"d{i:02}"))
    await store.aclose()
    await store.aclose()
    assert len(rows(config)) == 11
    with pytest.raises(PoolUnavailable):
        await store.decision("d00")


async def test_a_full_queue_drops_and_counts(config):
    store = open_store(config, queue=3)  # not started: nobody takes from the queue
    for i in range(5):
        store.record(record(f"d{i}"))
    assert (store.queued, store.dropped) == (3, 2)


async def test_recording_does_not_wait_for_a_locked_file(store, config):
    other = sqlite3.connect(config.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    for i in range(100):
        store.record(record(f"d{i:03}"))
    assert time.monotonic() - started < 5  # the lock below is held for as long as the test likes
    await asyncio.sleep(0.05)
    assert rows(config) == []
    other.execute("COMMIT")
    other.close()
    assert (await store.decision("d099"))["pool"] == "small"
    assert len(rows(config)) == 100


async def test_a_file_that_cannot_be_written_is_said_once_and_so_is_its_return(config, caplog, monkeypatch):
    monkeypatch.setattr("serve_app.store.database._BUSY_S", 0.01)
    store = open_store(config)
    await store.start()
    other = sqlite3.connect(config.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.record(record())
    await asyncio.sleep(1)
    other.execute("COMMIT")
    other.close()
    assert (await store.decision("d1"))["pool"] == "small"
    await store.aclose()
    said = [line.getMessage() for line in caplog.records if line.name == "jethro.store"]
    assert [line.partition(":")[2] for line in said] == [
        " 1 decisions wait, the file cannot be written: database is locked",
        " the file is written again, 1 decisions had waited",
    ]


async def test_a_decision_told_twice_is_kept_once(store, config):
    store.record(record())
    store.record(record(status="failed"))
    assert (await store.decision("d1"))["status"] == "completed"


async def test_a_record_that_cannot_be_written_loses_only_itself_and_says_so(config, caplog):
    store = open_store(config, batch=100)
    for i in range(50):
        store.record(record(f"d{i:02}"))
    store.record(record("bad", request_id="r-bad", latency_ms=object()))
    store.record(record("last"))
    assert store.queued == 52
    await store.start()
    assert await store.decision("last")
    with pytest.raises(NotFound):
        await store.decision("bad")
    assert (store.failed, store.queued, store.dropped, len(rows(config))) == (1, 0, 0, 51)
    (line,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert "decision bad lost: StatementError" in line.getMessage() and line.request_id == "r-bad"
    assert "INSERT" not in line.getMessage()
    await store.aclose()
    store.record(record("late"))
    assert (store.queued, store.dropped) == (0, 1)


async def test_what_cannot_be_written_at_the_end_is_counted(config):
    store = open_store(config, flush_s=60.0)
    await store.start()
    shutil.rmtree(Path(config.path).parent)
    Path(config.path).parent.write_text("in the way")
    store.record(record())
    await store.aclose()
    assert (store.queued, store.failed) == (0, 1)


async def test_another_tenants_decision_takes_the_same_look_ups_as_none(config, monkeypatch):
    store = open_store(config)
    await store.start()
    ours, none = "0" * 24, "1" * 24
    store.record(record(ours, tenant="acme"))
    assert (await store.decision(ours, "acme"))["tenant"] == "acme"
    seen: list[str] = []
    find = Database.find
    monkeypatch.setattr(Database, "find", lambda *args: (seen.append(args[1]), find(*args))[1])
    for decision_id in (ours, none):
        with pytest.raises(NotFound, match=decision_id):
            await store.decision(decision_id, "umbrella")
    assert seen == [ours, ours, none, none]
    await store.aclose()


async def test_two_gateways_share_the_file(config):
    """They also start at the same time, on a file that is not there yet."""
    one, two = open_store(config), open_store(config)
    await asyncio.gather(one.start(), two.start())
    for i in range(50):
        one.record(record(f"a{i}"))
        two.record(record(f"b{i}"))
    await asyncio.gather(one.decision("a49"), two.decision("b49"))
    await two.feedback(Feedback("a7", 1))
    assert len((await one.decision("a7"))["feedback"]) == 1
    await asyncio.gather(one.aclose(), two.aclose())
    assert len(rows(config)) == 100


async def test_a_decision_that_another_gateway_still_holds_is_waited_for(config):
    one, two = open_store(config, flush_s=0.1), open_store(config, flush_s=0.2)
    await one.start()
    await two.start()
    one.record(record("0" * 24))
    await two.feedback(Feedback("0" * 24, 1))
    await asyncio.gather(one.aclose(), two.aclose())
    assert rows(config, "SELECT count(*) FROM feedback") == [(1,)]


async def test_old_decisions_go_with_their_feedback(config):
    day = 86_400.0
    store = SqliteStore(config)
    await store.start()
    store.record(record("old", created_s=time.time() - 40 * day))
    store.record(record("new", created_s=time.time() - 20 * day))
    await store.feedback(Feedback("old", 1))
    await store.feedback(Feedback("new", 1))
    await store.aclose()
    again = SqliteStore(config)
    await again.start()
    for _ in range(200):
        if len(rows(config)) == 1:
            break
        await asyncio.sleep(0.01)
    await again.aclose()
    assert rows(config) == [("new",)]
    assert rows(config, "SELECT decision_id FROM feedback") == [("new",)]


async def test_a_file_is_opened_again(config):
    for i in range(2):
        store = open_store(config)
        await store.start()
        store.record(record(f"d{i}"))
        await store.aclose()
    assert rows(config) == [("d0",), ("d1",)]


def foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    connection.close()


def other_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE decisions (x)")
    connection.execute(f"PRAGMA application_id = {0x4A455448}")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda p: p.write_text("this is not a database, and it is long enough to be read as a header" * 20),
            "SQLite",
        ),
        (foreign, "another program"),
        (other_version, "newer versions.*version 99, .*2"),
        (lambda p: p.mkdir(), "opened"),
    ],
)
async def test_a_file_that_cannot_be_used_stops_the_start(config, spoil, message):
    path = Path(config.path)
    path.parent.mkdir()
    spoil(path)
    store = SqliteStore(config)
    with pytest.raises(ConfigError, match=message) as caught:
        await store.start()
    assert str(path) in caught.value.message
    await store.aclose()


async def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="created"):
        await SqliteStore(StoreConfig(path=str(tmp_path / "file" / "x.sqlite3"))).start()


async def test_the_writer_is_a_thread_of_its_own_and_ends(config):
    store = SqliteStore(config)
    await store.start()
    assert any(t.name == "store-writer" for t in threading.enumerate())
    await store.aclose()
    assert not any(t.name == "store-writer" for t in threading.enumerate())
