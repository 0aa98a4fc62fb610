"""A stream is killed anywhere, and has learned what was acknowledged: no more, no less, once each, in order."""

import random
import shutil

import pytest

from serve_app.errors import ConfigError
from serve_app.streams import checkpoint as checkpoints
from serve_app.streams.base import BudgetChange, EventBatch, ObservedEvent, batch_to_json
from serve_app.streams.online.base import Episode, LabeledEvent
from serve_app.streams.stream import LearnedStream
from tests.streams.fakes import FakeCore, spec

WALK = Episode(None, None, (), (), "deferred", 0)
CORE = FakeCore()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "mood"


def create(folder):
    made = LearnedStream.create(folder.parent, spec(), None, CORE.new(spec()))
    made.settle(folder)
    return made


def batch(stream, seq, source="g1", text=None, **changes):
    events = (ObservedEvent(WALK), LabeledEvent(text or f"word{seq}", seq % 2, WALK, f"{source}-{seq}"))
    return EventBatch(source, seq, "mood", stream.uid, events, **changes)


def report(stream, told):
    stream.report(told, batch_to_json(told))


def order(stream):
    return stream.learner.order


def killed(stream):
    """As SIGKILL leaves it: nothing is written any more."""
    stream.close()


def state(stream):
    arrays, values = stream.learner.state()
    ours = {"restored_events": 0, "corrupt": 0, "opened_s": 0}
    return arrays["counts"].tolist(), values, stream.figures() | ours


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_it_resumes_exactly_after_a_kill_between_any_two_batches(folder, every):
    whole, cut = create(folder), create(folder.with_name("cut"))
    rng = random.Random(every)
    for seq in range(1, 40):
        for stream in (whole, cut):
            report(stream, batch(stream, seq))
            if stream.events >= 2 * every:
                stream.checkpoint()
        if rng.random() < 0.4:
            killed(cut)
            cut = LearnedStream.open(cut.folder, CORE)
    counts, values, figures = state(whole)
    again, same, told = state(cut)
    assert (again, same) == (counts, values)
    assert {k: v for k, v in told.items() if k != "created_s"} == {k: v for k, v in figures.items() if k != "created_s"}
    assert told["queries"] == told["llm_calls"] == told["labelled"] == 39


def test_a_batch_that_is_sent_again_is_learned_once(folder):
    stream = create(folder)
    first = batch(stream, 1)
    report(stream, first)
    report(stream, first)
    killed(stream)
    stream = LearnedStream.open(folder, CORE)
    report(stream, first)
    report(stream, batch(stream, 1, source="g2"))
    assert order(stream) == ["g1-1", "g2-1"]


def test_batches_of_gateways_long_gone_are_learned_once(folder):
    """A stream with few queries, and Gateways that are started anew each day."""
    stream = create(folder)
    for n in range(600):
        report(stream, batch(stream, 1, source=f"g{n}"))
        if n in (300, 590):
            stream.checkpoint()
    killed(stream)
    stream = LearnedStream.open(folder, CORE)
    assert order(stream) == [f"g{n}-1" for n in range(600)]
    assert stream.figures()["queries"] == 600


def test_batches_of_one_that_was_made_anew_change_nothing(folder):
    stream = create(folder)
    told = batch(stream, 1)
    report(stream, EventBatch("g1", 1, "mood", "another", told.events))
    assert order(stream) == []


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "gone"])
def test_a_corrupt_checkpoint_gives_way_to_the_one_before_and_nothing_is_lost(folder, damage, caplog):
    stream = create(folder)
    for seq in range(1, 10):
        report(stream, batch(stream, seq))
        if seq in (3, 6):
            stream.checkpoint()
    expected = state(stream)
    killed(stream)
    newest = sorted(folder.glob("checkpoint-*"))[-1]
    content = newest.read_bytes()
    if damage == "gone":
        newest.unlink()
    else:
        newest.write_bytes({"cut": content[:40], "changed": content[:-1] + b"\xff", "empty": b""}[damage])
    stream = LearnedStream.open(folder, CORE)
    assert state(stream) == expected
    assert order(stream) == [f"g1-{n}" for n in range(1, 10)]
    if damage != "gone":
        assert stream.figures()["corrupt"] == 1
        assert "is corrupt" in caplog.text
    report(stream, batch(stream, 10))
    killed(stream)
    assert order(LearnedStream.open(folder, CORE))[-1] == "g1-10"


def test_without_any_readable_checkpoint_the_error_names_folder_and_mend(folder):
    stream = create(folder)
    report(stream, batch(stream, 1))
    stream.checkpoint()
    killed(stream)
    for path in folder.glob("checkpoint-*"):
        path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"mood: no checkpoint .*corrupt.*reset"):
        LearnedStream.open(folder, CORE)


def test_what_another_version_wrote_is_left_as_it_is_and_the_error_says_so(folder, monkeypatch):
    stream = create(folder)
    report(stream, batch(stream, 1))
    monkeypatch.setattr(checkpoints, "_FORMAT", 2)
    stream.checkpoint()
    killed(stream)
    monkeypatch.undo()
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ConfigError, match=r"format 2, .*1"):
        LearnedStream.open(folder, CORE)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_journal_of_another_format_is_named_with_the_mend(folder):
    stream = create(folder)
    report(stream, batch(stream, 1))
    stream._keep(b'{"kind":"batch","events":[]}')
    killed(stream)
    with pytest.raises(ConfigError, match=r"journal-00000000.jsonl: .*another format .*reset"):
        LearnedStream.open(folder, CORE)


def test_two_checkpoints_are_kept_and_no_older_journal(folder):
    stream = create(folder)
    for seq in range(1, 8):
        report(stream, batch(stream, seq))
        stream.checkpoint()
    report(stream, batch(stream, 8))
    assert len(list(folder.glob("checkpoint-*"))) == 2
    assert len(list(folder.glob("journal-*"))) == 2


def test_a_checkpoint_that_fails_half_way_loses_nothing(folder, monkeypatch):
    """The file is there and the process does not know: what it keeps in the old journal counts."""
    stream = create(folder)
    report(stream, batch(stream, 1))
    whole = checkpoints.write_whole

    def written_and_failed(path, content):
        whole(path, content)
        raise OSError("the folder could not be brought to the disk")

    monkeypatch.setattr(checkpoints, "write_whole", written_and_failed)
    with pytest.raises(OSError, match="brought"):
        stream.checkpoint()
    monkeypatch.undo()
    report(stream, batch(stream, 2))
    killed(stream)
    stream = LearnedStream.open(folder, CORE)
    assert order(stream) == ["g1-1", "g1-2"]
    report(stream, batch(stream, 3))
    stream.checkpoint()
    killed(stream)
    assert order(LearnedStream.open(folder, CORE)) == ["g1-1", "g1-2", "g1-3"]


def test_a_checkpoint_that_failed_half_way_gives_way_to_the_next_one_of_its_number(folder, monkeypatch):
    whole = checkpoints.write_whole

    def written_and_failed(path, content):
        whole(path, content)
        raise OSError("the folder could not be brought to the disk")

    for n in range(8):  # which of the two is found first lies in their digests
        stream = create(folder.with_name(f"mood{n}"))
        report(stream, batch(stream, 1))
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints, "write_whole", written_and_failed)
            with pytest.raises(OSError, match="brought"):
                stream.checkpoint()
        report(stream, batch(stream, 2))
        stream.checkpoint()
        report(stream, batch(stream, 3))
        killed(stream)
        assert order(LearnedStream.open(stream.folder, CORE)) == ["g1-1", "g1-2", "g1-3"]


def test_a_full_disk_is_not_filled_with_halves_of_checkpoints(folder, monkeypatch):
    stream = create(folder)

    def full(file):
        raise OSError(28, "No space left on device")

    for seq in range(1, 4):
        report(stream, batch(stream, seq))
        with monkeypatch.context() as patched:
            patched.setattr("serve_app.streams.checkpoint.os.fsync", full)
            with pytest.raises(OSError, match="No space"):
                stream.checkpoint()
    assert list(folder.glob(".*")) == []
    (folder / ".checkpoint-00000001-00.safetensors.part").write_bytes(b"half")  # of a kill
    killed(stream)
    stream = LearnedStream.open(folder, CORE)
    assert order(stream) == ["g1-1", "g1-2", "g1-3"]
    assert list(folder.glob(".*")) == []


def test_a_budget_changes_live_and_what_was_learned_stays(folder):
    stream = create(folder)
    report(stream, batch(stream, 1))
    before = stream.tag
    stream.budget(BudgetChange(mu=2.0), CORE)
    report(stream, batch(stream, 2))
    assert stream.tag != before
    killed(stream)
    stream = LearnedStream.open(folder, CORE)
    assert (stream.spec.mu, stream.spec.llm_share) == (2.0, None)
    assert order(stream) == ["g1-1", "g1-2"]
    tag = stream.tag
    killed(stream)
    assert LearnedStream.open(folder, CORE).tag == tag


def test_a_budget_of_an_older_journal_does_not_come_back(folder):
    stream = create(folder)
    stream.budget(BudgetChange(mu=1.0), CORE)
    stream.checkpoint()
    stream.budget(BudgetChange(mu=2.0), CORE)
    killed(stream)
    assert LearnedStream.open(folder, CORE).spec.mu == 2.0


def test_an_event_that_cannot_be_learned_from_is_counted_and_the_rest_goes_on(folder, caplog):
    stream = create(folder)
    report(stream, batch(stream, 1, text="poison"))
    report(stream, batch(stream, 2))
    assert stream.figures()["refused"] == 1
    killed(stream)
    stream = LearnedStream.open(folder, CORE)
    assert (order(stream), stream.figures()["refused"]) == (["g1-2"], 1)
    assert "skipped" in caplog.text


def test_an_answer_without_a_label_is_counted_and_not_learned_from(folder):
    stream = create(folder)
    report(
        stream,
        EventBatch("g1", 1, "mood", stream.uid, (ObservedEvent(WALK), LabeledEvent("x", None, WALK)), lost=3, failed=2),
    )
    told = stream.figures()
    assert (told["unparsed"], told["labelled"], told["lost"], told["failed"]) == (1, 0, 3, 2)
    assert order(stream) == []


def test_shares_by_level(folder):
    stream = create(folder)
    episodes = [Episode(0, 1, ((0.1, 0.9),), (0.1,), "confident", 0)] * 3 + [WALK]
    report(stream, EventBatch("g1", 1, "mood", stream.uid, tuple(ObservedEvent(w) for w in episodes)))
    assert stream.figures()["share"] == {"logistic": 0.75, "llm": 0.25}


def test_a_folder_half_made_is_no_stream(folder, tmp_path):
    create(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["mood"]
    shutil.rmtree(folder)
