import multiprocessing
import os
import signal

import pytest

from serve_app.cascade.online.base import Labelled, Walk
from serve_app.cascade.streams.base import Batch, Budget, Saw, Wanted
from serve_app.cascade.streams.files import lock_folder
from serve_app.cascade.streams.registry import Keeping, StreamRegistry
from serve_app.cascade.streams.wire import batch_from_json, batch_to_json
from serve_app.errors import ConfigError, Conflict, NotFound, Overloaded, UpstreamError
from tests.cascade.streams.fakes import FakeCore, spec

WALK = Walk(None, None, (), (), "deferred", 0)


def opened(folder, **keeping):
    return StreamRegistry(Keeping(folder, **keeping), FakeCore())


@pytest.fixture
def registry(tmp_path):
    made = opened(tmp_path / "streams", most=3)
    yield made
    made.close()


def line(registry, seq, name="mood", source="g1"):
    events = (Saw(WALK), Labelled(f"word{seq}", 0, WALK, str(seq)))
    return batch_to_json(Batch(source, seq, name, registry.published[name].uid, events))


def labelled(registry, name="mood"):
    return registry.published[name].figures["labelled"]


def test_streams_are_there_again_after_a_restart(registry, tmp_path):
    registry.create(Wanted(spec(), owner="team"))
    registry.report(line(registry, 1))
    before = registry.published["mood"]
    registry.close()
    again = opened(tmp_path / "streams")
    after = again.published["mood"]
    assert (after.tag, after.uid, after.owner, after.policy) == (before.tag, before.uid, "team", before.policy)
    assert labelled(again) == 1
    again.close()


def test_the_same_stream_again_changes_nothing_but_its_budget(registry):
    registry.create(Wanted(spec()))
    registry.report(line(registry, 1))
    registry.create(Wanted(spec()))
    assert labelled(registry) == 1
    registry.create(Wanted(spec(llm_share=0.5)))
    assert registry.published["mood"].spec["llm_share"] == 0.5
    assert labelled(registry) == 1


@pytest.mark.parametrize(
    ("change", "param"), [({"labels": ("joy", "anger")}, "labels"), ({"instruction": "Other."}, "instruction")]
)
def test_a_changed_label_set_is_refused_unless_what_was_learned_may_go(registry, change, param):
    registry.create(Wanted(spec()))
    registry.report(line(registry, 1))
    stale = line(registry, 2)
    with pytest.raises(Conflict, match=f"other {param}: give reset") as refused:
        registry.create(Wanted(spec(**change)))
    assert (refused.value.status, refused.value.param, labelled(registry)) == (409, param, 1)
    registry.create(Wanted(spec(**change), reset=True))
    registry.report(stale)  # labels of the old set are not learned into the new one
    assert labelled(registry) == 0
    assert registry.published["mood"].spec[param] == list(change[param]) if param == "labels" else change[param]


def test_there_are_only_so_many(registry):
    for name in ("a", "b", "c"):
        registry.create(Wanted(spec(name=name)))
    with pytest.raises(Overloaded, match=r"There are 3 streams: delete one, or raise streams\.most"):
        registry.create(Wanted(spec(name="d")))
    registry.delete("a")
    registry.create(Wanted(spec(name="d")))


def test_a_deleted_stream_is_gone_for_good(registry, tmp_path):
    registry.create(Wanted(spec()))
    late = line(registry, 1)
    registry.delete("mood")
    registry.report(late)
    assert registry.published == {}
    with pytest.raises(NotFound):
        registry.delete("mood")
    registry.close()
    again = opened(tmp_path / "streams")
    assert again.published == {}
    again.close()


def test_another_tenants_stream_does_not_exist(registry):
    registry.create(Wanted(spec(), owner="team"))
    for call in (
        lambda: registry.delete("mood", "other"),
        lambda: registry.budget("mood", Budget(mu=1.0), None),
    ):
        with pytest.raises(NotFound):
            call()
    for reset in (False, True):
        with pytest.raises(Conflict, match="'mood' is taken: give another one"):
            registry.create(Wanted(spec(), owner="other", reset=reset))
    registry.budget("mood", Budget(mu=1.0), "team")


def test_an_unreadable_stream_says_so_and_the_others_go_on(registry, tmp_path):
    registry.create(Wanted(spec(), owner="team"))
    registry.create(Wanted(spec(name="other")))
    held = line(registry, 1)
    registry.close()
    for path in (tmp_path / "streams" / "mood").glob("checkpoint-*"):
        path.write_bytes(b"nothing")
    again = opened(tmp_path / "streams")
    told = again.published["mood"]
    assert told.error is not None
    assert "no checkpoint can be read" in told.error
    assert told.owner == "team"
    with pytest.raises(UpstreamError, match="is not learned now"):
        again.report(held)  # the Gateway keeps it
    again.report(line(again, 1, "other"))
    assert labelled(again, "other") == 1
    again.create(Wanted(spec(), owner="team", reset=True))
    again.report(line(again, 1))
    assert labelled(again) == 1
    again.close()


@pytest.fixture
def full_disk(monkeypatch):
    """A disk on which no file can be written any more."""

    def turn(full):
        def write_whole(path, content):
            raise OSError(28, "No space left on device")

        if full:
            monkeypatch.setattr("serve_app.cascade.streams.stream.write_whole", write_whole)
            monkeypatch.setattr("serve_app.cascade.streams.checkpoint.write_whole", write_whole)
        else:
            monkeypatch.undo()

    return turn


def test_a_full_disk_makes_no_stream_and_costs_none(registry, tmp_path, full_disk):
    registry.create(Wanted(spec()))
    registry.report(line(registry, 1))
    full_disk(True)
    for wanted in (Wanted(spec(name="other")), Wanted(spec(labels=("joy", "anger")), reset=True)):
        with pytest.raises(UpstreamError, match=r"No space left on device.*: make room on that disk"):
            registry.create(wanted)
    full_disk(False)
    assert list(registry.published) == ["mood"] == [p.name for p in (tmp_path / "streams").iterdir() if p.is_dir()]
    registry.report(line(registry, 2))
    assert labelled(registry) == 2


def test_a_learner_starts_with_a_full_disk_and_goes_on_by_its_journal(registry, tmp_path, full_disk):
    registry.create(Wanted(spec()))
    registry.report(line(registry, 1))
    full_disk(True)
    registry.close()
    again = opened(tmp_path / "streams")
    assert (again.published["mood"].error, labelled(again)) == (None, 1)
    again.report(line(again, 2))
    full_disk(False)
    again.close()
    third = opened(tmp_path / "streams")
    assert labelled(third) == 2
    third.close()


def test_a_stream_that_the_disk_does_not_forget_is_there_still(registry, monkeypatch):
    registry.create(Wanted(spec()))

    def rename(self, target):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.rename", rename)
        with pytest.raises(UpstreamError, match="Read-only"):
            registry.delete("mood")
    registry.report(line(registry, 1))
    assert labelled(registry) == 1


def test_the_folder_that_holds_texts_is_its_owners_alone(registry, tmp_path):
    assert (tmp_path / "streams").stat().st_mode & 0o077 == 0


def test_folders_that_are_no_streams_are_left_alone(tmp_path):
    (tmp_path / "lost+found").mkdir()
    registry = opened(tmp_path)
    assert registry.published == {}
    registry.close()
    assert (tmp_path / "lost+found").is_dir()


def test_one_learner_at_a_time(registry, tmp_path):
    waits = []
    with pytest.raises(ConfigError, match="another Learner works in"):
        lock_folder(tmp_path / "streams", 1.0, clock=iter([0.0, 0.5, 2.0]).__next__, pause=waits.append)
    assert waits == [0.1]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"streams\.folder: .* cannot be used"):
        opened(tmp_path / "file" / "streams")


def test_a_checkpoint_is_written_after_so_many_events(tmp_path):
    registry = opened(tmp_path, checkpoint_events=4)
    registry.create(Wanted(spec()))
    for seq in range(1, 6):
        registry.report(line(registry, seq))
    assert len(list((tmp_path / "mood").glob("checkpoint-*"))) == 2
    registry.close()


def _report_until_killed(folder, pipe):
    registry = opened(folder, checkpoint_events=5)
    registry.create(Wanted(spec()))
    pipe.send(batch_from_json(line(registry, 1)).uid)
    for seq in range(1, 100_000):
        registry.report(line(registry, seq))
        pipe.send(seq)


@pytest.mark.parametrize("after", [3, 11, 26])
def test_a_process_killed_by_sigkill_has_kept_all_that_it_acknowledged(tmp_path, after):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_report_until_killed, args=(tmp_path, theirs))
    process.start()
    theirs.close()
    ours.recv()
    acknowledged = 0
    while acknowledged < after:
        acknowledged = ours.recv()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    try:
        while True:
            acknowledged = ours.recv()
    except EOFError:
        pass
    ours.close()
    registry = opened(tmp_path)
    assert labelled(registry) in (acknowledged, acknowledged + 1)  # one may be kept and not yet acknowledged
    registry.close()
