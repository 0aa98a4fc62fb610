"""Texts leave the journals: on demand of whoever they are from, and with age; what was learned and counted stays."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from serve_app.erasure import Selection
from serve_app.errors import ConfigError
from serve_app.streams.base import EventBatch, ObservedEvent, StreamCreate, batch_from_json, batch_to_json
from serve_app.streams.checkpoint import journals
from serve_app.streams.erasing import erase_texts
from serve_app.streams.online.base import LabeledEvent
from serve_app.streams.registry import LocalLearner, RegistryOptions, StreamRegistry
from tests.streams.fakes import FakeCore, spec
from tests.streams.learners import WALK, labelled, opened

ALICE = ("alice@example.org",)


def batch(registry: StreamRegistry, seq: int, *events: LabeledEvent, name: str = "mood") -> bytes:
    observed = tuple(ObservedEvent(WALK) for _ in events)
    return batch_to_json(EventBatch("g1", seq, name, registry.published[name].uid, observed + events))


def text(user: tuple[str, ...], number: int, created_s: float = 1000.0, tenant: str | None = "acme") -> LabeledEvent:
    return LabeledEvent(f"{user[0]} says {number}", 0, WALK, f"{user[0][0]}{number}", created_s, tenant, user)


def on_disk(folder: Path, word: str) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and word.encode() in p.read_bytes()]


@pytest.fixture
def filled(registry: StreamRegistry, tmp_path: Path) -> StreamRegistry:
    registry.create(StreamCreate(spec()))
    registry.create(StreamCreate(spec(name="other")))
    for seq in range(1, 4):
        registry.report(batch(registry, seq, text(ALICE, seq), text(("bob",), seq)))
        registry.report(batch(registry, seq, text(ALICE, seq), name="other"))
    assert len(on_disk(tmp_path / "streams", "alice@")) == 2
    return registry


def test_no_byte_of_a_deleted_users_texts_is_in_any_journal(filled, tmp_path):
    folder = tmp_path / "streams"
    filled.erase(Selection(user=ALICE[0]), 2000.0)
    assert on_disk(folder, "alice") == []
    assert on_disk(folder, "bob says 3") == ["mood/journal-00000000.jsonl"]
    before = filled.published["mood"]
    filled.close()
    again = opened(folder)
    after = again.published["mood"]
    assert (after.tag, after.policy, labelled(again), labelled(again, "other")) == (before.tag, before.policy, 6, 3)
    assert after.figures["corrupt"] == after.figures["refused"] == 0
    again.close()


def test_older_journals_that_a_damaged_checkpoint_would_need_still_count_the_same(filled, tmp_path):
    filled.erase(Selection(user=ALICE[0]), 2000.0)
    policy = filled.published["mood"].tag
    filled.close()
    newest = max((tmp_path / "streams" / "mood").glob("checkpoint-*"))
    newest.write_bytes(b"damaged")
    again = opened(tmp_path / "streams")
    assert (labelled(again), again.published["mood"].tag) == (6, policy)
    again.close()


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        (Selection("acme", ALICE[0]), {"b1", "a2"}),
        (Selection("acme"), {"a2"}),
        (Selection(decision_id="b1"), {"a1", "a2"}),
        (Selection(user="bob"), {"a1", "a2"}),
        (Selection("nobody"), {"b1", "a1", "a2"}),
        (Selection(), set()),
    ],
)
def test_who_is_selected(registry, tmp_path, selection, left):
    registry.create(StreamCreate(spec()))
    registry.report(batch(registry, 1, text(ALICE, 1), text(("bob",), 1), text(ALICE, 2, tenant="rival")))
    registry.erase(selection, 2000.0)
    (journal,) = journals(tmp_path / "streams" / "mood").values()
    events = [e for line in journal.read_bytes().splitlines() for e in orjson.loads(line[9:])["events"]]
    assert {e["id"] for e in events if e.get("text")} == left


def test_texts_that_gateways_still_hold_are_neither_stored_nor_learned_also_after_a_restart(filled, tmp_path):
    folder = tmp_path / "streams"
    late = batch(filled, 9, text(ALICE, 9, created_s=1999.0), text(("bob",), 9))
    new = batch(filled, 10, text(ALICE, 10, created_s=2001.0))
    filled.erase(Selection(user=ALICE[0]), 2000.0)
    filled.close()
    assert on_disk(folder, "alice") == []
    again = opened(folder)
    again.report(late)
    assert on_disk(folder, "alice") == []
    assert labelled(again) == 7
    again.report(new)
    assert on_disk(folder, "alice@example.org says 10")
    again.close()


def test_a_stream_that_cannot_be_read_is_cleaned_as_well(filled, tmp_path):
    folder = tmp_path / "streams"
    filled.close()
    registry = opened(folder)
    registry.report(batch(registry, 20, text(ALICE, 20)))
    for path in (folder / "mood").glob("checkpoint-*"):
        path.write_bytes(b"damaged")
    # as after a kill: no checkpoint is written at the end
    registry._streams["mood"].close()
    registry._streams.clear()
    registry.close()
    again = opened(folder)
    assert again.published["mood"].error
    again.erase(Selection(user=ALICE[0]), 2000.0)
    assert on_disk(folder, "alice") == []
    again.close()


def test_a_journal_of_an_earlier_version_is_cleaned_by_its_age_and_by_the_tenant_of_nobody(filled, tmp_path):
    filled.close()
    folder = tmp_path / "streams"
    registry = opened(folder, keep_days=1.0)
    line = orjson.loads(batch(registry, 30, text(("carol",), 1)))
    for event in line["events"]:
        event.pop("by", None)
    assert batch_from_json(orjson.dumps(line)).events[1].users == ()
    registry._streams["mood"]._keep(orjson.dumps(line))
    registry.erase(Selection(user="carol"), time.time())
    assert on_disk(folder, "carol"), "it does not say whose it is"
    registry.upkeep(time.time() + 86_400 - 60)
    assert on_disk(folder, "carol")
    registry.upkeep(time.time() + 86_400 + 3700)
    assert on_disk(folder, "carol") == []
    registry.close()


def test_texts_older_than_keep_days_leave_a_quiet_stream(registry, tmp_path):
    folder = tmp_path / "streams"
    registry.create(StreamCreate(spec()))
    registry.report(batch(registry, 1, text(ALICE, 1, created_s=1000.0), text(("bob",), 1, created_s=90_000.0)))
    registry.upkeep(1000.0 + 30 * 86_400 - 1)
    assert on_disk(folder, "alice")
    registry.upkeep(1000.0 + 30 * 86_400 + 3601)
    assert (on_disk(folder, "alice"), len(on_disk(folder, "bob"))) == ([], 1)
    assert labelled(registry) == 2


def test_an_operator_erases_while_the_learner_runs(tmp_path):
    """In another process' place: a thread asks, and the Learner that holds the folder does it."""
    folder = tmp_path / "streams"
    learner = LocalLearner(RegistryOptions(folder), FakeCore())
    registry = learner._registry
    registry.create(StreamCreate(spec()))
    registry.report(batch(registry, 1, text(ALICE, 1, created_s=time.time())))
    found: list[bool] = []
    asking = threading.Thread(target=lambda: found.append(erase_texts(folder, Selection(user=ALICE[0]), 10.0, 30.0)))
    asking.start()
    asking.join(15)
    assert found == [True]
    assert on_disk(folder, "alice") == []
    learner._stop.set()
    learner._thread.submit(registry.close).result()
    learner._thread.shutdown()


def test_an_operator_erases_while_nothing_runs(filled, tmp_path):
    folder = tmp_path / "streams"
    now_s = time.time()
    late = batch(filled, 9, text(ALICE, 9, created_s=now_s - 1))
    filled._streams["mood"].close()
    os.close(filled._lock)  # killed
    filled._lock, filled._streams = -1, {}
    assert erase_texts(folder, Selection(user=ALICE[0]), 0.0, 30.0) is False
    assert on_disk(folder, "alice") == []
    again = opened(folder)
    assert labelled(again) == 6
    again.report(late)
    assert on_disk(folder, "alice") == []
    again.close()


def test_a_learner_that_does_not_come_is_reported_and_does_it_later(filled, tmp_path):
    folder = tmp_path / "streams"
    with pytest.raises(ConfigError, match=r"not carried out yet: the Learner does so when it runs"):
        erase_texts(folder, Selection(user=ALICE[0]), 0.2, 30.0)
    assert on_disk(folder, "alice@example.org says")
    filled.upkeep(time.time())
    assert on_disk(folder, "alice") == []
    assert list(folder.glob(".erase-*")) == []


def test_a_request_that_cannot_be_read_is_put_aside(filled, tmp_path, caplog):
    (tmp_path / "streams" / ".erase-1.json").write_text("{")
    filled.upkeep(time.time())
    filled.upkeep(time.time())
    assert caplog.text.count("is not carried out") == 1
    assert (tmp_path / "streams" / "erase-1.json.corrupt").exists()


def test_a_memory_of_a_newer_version_stops_the_start(filled, tmp_path):
    filled.erase(Selection(user="x"), 1.0)
    filled.close()
    path = tmp_path / "streams" / "erasures.json"
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(ConfigError, match=r"erasures\.json has format 2, and this version reads 1"):
        opened(tmp_path / "streams")


def test_what_a_gateway_reports_says_whose_text_it_is():
    event = replace(text(ALICE, 1), users=("a", "b"))
    sent = batch_to_json(EventBatch("g", 1, "mood", "u", (event,)))
    assert batch_from_json(sent).events == (event,)
