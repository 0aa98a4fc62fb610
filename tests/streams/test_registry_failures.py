"""Disks that fail, kills between two steps, folders that are not as they were, and a Learner's registry over them."""

import os
import shutil

import pytest

from serve_app.errors import UpstreamError
from serve_app.files import sync_folder
from serve_app.streams.base import BudgetChange, EventBatch, StreamCreate, batch_to_json
from serve_app.streams.registry import RegistryOptions, StreamRegistry
from serve_app.streams.stream import LearnedStream
from tests.streams.fakes import FakeCore, spec
from tests.streams.learners import labelled, line, opened


def test_an_unreadable_stream_says_so_and_the_others_go_on(registry, tmp_path):
    registry.create(StreamCreate(spec(), owner="team"))
    registry.create(StreamCreate(spec(name="other")))
    held = line(registry, 1)
    registry.close()
    for path in (tmp_path / "streams" / "mood").glob("checkpoint-*"):
        path.write_bytes(b"nothing")
    again = opened(tmp_path / "streams")
    told = again.published["mood"]
    assert told.error is not None
    assert "no checkpoint" in told.error
    assert told.owner == "team"
    with pytest.raises(UpstreamError, match="cannot be read now"):
        again.report(held)  # the Gateway keeps it
    again.report(line(again, 1, "other"))
    assert labelled(again, "other") == 1
    again.create(StreamCreate(spec(), owner="team", reset=True))
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
            monkeypatch.setattr("serve_app.streams.stream.write_whole", write_whole)
            monkeypatch.setattr("serve_app.streams.checkpoint.write_whole", write_whole)
        else:
            monkeypatch.undo()

    return turn


def test_a_full_disk_makes_no_stream_and_costs_none(registry, tmp_path, full_disk):
    registry.create(StreamCreate(spec()))
    registry.report(line(registry, 1))
    full_disk(True)
    for wanted in (StreamCreate(spec(name="other")), StreamCreate(spec(labels=("joy", "anger")), reset=True)):
        with pytest.raises(UpstreamError, match=r"No space left on device"):
            registry.create(wanted)
    full_disk(False)
    assert list(registry.published) == ["mood"] == [p.name for p in (tmp_path / "streams").iterdir() if p.is_dir()]
    registry.report(line(registry, 2))
    assert labelled(registry) == 2


def test_a_learner_starts_with_a_full_disk_and_goes_on_by_its_journal(registry, tmp_path, full_disk):
    registry.create(StreamCreate(spec()))
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
    registry.create(StreamCreate(spec()))

    def rename(self, target):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.rename", rename)
        with pytest.raises(UpstreamError, match="Read-only"):
            registry.delete("mood")
    registry.report(line(registry, 1))
    assert labelled(registry) == 1


def _fail_once(monkeypatch, place, failing):
    """The `failing`-th call of sync_folder of a module fails."""
    calls = []
    whole = sync_folder

    def sync(folder):
        calls.append(folder)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        whole(folder)

    monkeypatch.setattr(f"serve_app.streams.{place}.sync_folder", sync)


@pytest.mark.parametrize(("place", "failing"), [("registry", 1), ("stream", 1)])
def test_a_disk_that_fails_in_the_middle_of_a_reset_costs_nothing_that_was_learned(
    registry, tmp_path, monkeypatch, place, failing
):
    registry.create(StreamCreate(spec()))
    registry.report(line(registry, 1))
    with monkeypatch.context() as patched:
        _fail_once(patched, place, failing)
        with pytest.raises(UpstreamError, match="Input/output error"):
            registry.create(StreamCreate(spec(labels=("joy", "anger")), reset=True))
    registry.report(line(registry, 2))
    assert labelled(registry) == 2
    assert [p.name for p in (tmp_path / "streams").iterdir() if p.is_dir()] == ["mood"]
    registry.close()
    again = opened(tmp_path / "streams")
    assert labelled(again) == 2
    again.create(StreamCreate(spec(labels=("joy", "anger")), reset=True))
    assert labelled(again) == 0
    again.close()


def test_a_disk_that_fails_once_while_a_stream_is_made_takes_it_the_next_time(registry, monkeypatch):
    with monkeypatch.context() as patched:
        _fail_once(patched, "stream", 1)
        with pytest.raises(UpstreamError, match="Input/output error"):
            registry.create(StreamCreate(spec()))
    registry.create(StreamCreate(spec()))
    registry.report(line(registry, 1))
    assert labelled(registry) == 1


def test_a_disk_that_fails_once_while_a_stream_is_deleted_forgets_it_the_next_time(registry, monkeypatch):
    registry.create(StreamCreate(spec()))
    with monkeypatch.context() as patched:
        _fail_once(patched, "registry", 1)
        with pytest.raises(UpstreamError, match="Input/output error"):
            registry.delete("mood")
    registry.report(line(registry, 1))
    assert labelled(registry) == 1
    registry.delete("mood")
    assert registry.published == {}


def test_a_stream_whose_folder_was_removed_by_hand_can_be_deleted_and_made_anew(registry, tmp_path):
    for name in ("mood", "other"):
        registry.create(StreamCreate(spec(name=name)))
        shutil.rmtree(tmp_path / "streams" / name)
    registry.delete("mood")
    registry.create(StreamCreate(spec(name="other"), reset=True))
    registry.report(line(registry, 1, "other"))
    assert (list(registry.published), labelled(registry, "other")) == (["other"], 1)


def test_a_reset_that_a_kill_came_into_is_ended_at_the_next_start(registry, tmp_path, monkeypatch):
    registry.create(StreamCreate(spec()))
    registry.report(line(registry, 1))

    def kill(self, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LearnedStream, "settle", kill)
        with pytest.raises(KeyboardInterrupt):
            registry.create(StreamCreate(spec(labels=("joy", "anger")), reset=True))
    os.close(registry._lock)  # as the kernel does it
    registry._lock, registry._streams = -1, {}
    again = opened(tmp_path / "streams")
    assert again.published["mood"].spec["labels"] == ["joy", "anger"]
    again.report(line(again, 1))
    assert labelled(again) == 1
    assert sorted(p.name for p in (tmp_path / "streams").iterdir()) == ["lock", "mood"]
    again.close()


def test_what_was_being_made_or_forgotten_at_a_kill_is_removed(registry, tmp_path):
    registry.create(StreamCreate(spec()))
    registry.close()
    folder = tmp_path / "streams"
    shutil.copytree(folder / "mood", folder / ".other-0123456789abcdef")
    (folder / "mood").rename(folder / ".mood-01234567")
    again = opened(folder)
    assert ([p.name for p in folder.iterdir()], again.published) == (["lock"], {})
    again.close()


def test_hidden_folders_that_are_not_ours_are_left_alone(tmp_path):
    """The operator may give a folder where other things lie."""
    for name in (".ssh", ".git", ".snapshot-1", ".cache-0123", ".0123456789abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").write_text("")
    opened(tmp_path).close()
    assert len(list(tmp_path.glob(".*/kept"))) == 5


def test_a_stream_that_cannot_be_published_stops_no_other_at_the_start(registry, tmp_path, monkeypatch):
    registry.create(StreamCreate(spec()))
    registry.create(StreamCreate(spec(name="other")))
    registry.close()
    whole = LearnedStream.figures

    def figures(self):
        return {"x": 1 / 0} if self.spec.name == "mood" else whole(self)

    monkeypatch.setattr(LearnedStream, "figures", figures)
    again = opened(tmp_path / "streams")
    assert again.published["mood"].error is not None
    assert "ZeroDivisionError" in again.published["mood"].error
    again.report(line(again, 1, "other"))
    assert labelled(again, "other") == 1
    with pytest.raises(UpstreamError, match="cannot be read now"):
        again.report(batch_to_json(EventBatch("g1", 1, "mood", "", ())))
    again.close()


def test_a_stream_that_can_be_read_again_goes_on_without_a_new_start(registry, tmp_path):
    """The disk is back, or the operator has put a checkpoint back."""
    registry.create(StreamCreate(spec()))
    registry.report(line(registry, 1))
    held = line(registry, 2)
    registry.close()
    folder = tmp_path / "streams" / "mood"
    shutil.copytree(folder, tmp_path / "backup")
    for path in folder.glob("checkpoint-*"):
        path.write_bytes(b"nothing")
    now = [0.0]
    again = StreamRegistry(RegistryOptions(tmp_path / "streams"), FakeCore(), clock=lambda: now[0])
    shutil.copytree(tmp_path / "backup", folder, dirs_exist_ok=True)
    with pytest.raises(UpstreamError, match="cannot be read now"):  # it is not tried at each report
        again.report(held)
    now[0] = 31.0
    again.report(held)  # the Gateway kept it
    assert (labelled(again), again.published["mood"].error) == (2, None)
    again.close()


def test_a_learner_that_stops_takes_no_change(registry, tmp_path):
    registry.create(StreamCreate(spec()))
    held = line(registry, 1)
    registry.close()
    for call in (
        lambda: registry.create(StreamCreate(spec(name="other"))),
        lambda: registry.create(StreamCreate(spec(), reset=True)),
        lambda: registry.budget("mood", BudgetChange(mu=1.0)),
        lambda: registry.delete("mood"),
        lambda: registry.report(held),
    ):
        with pytest.raises(UpstreamError):
            call()
    assert sorted(p.name for p in (tmp_path / "streams").iterdir()) == ["lock", "mood"]


def test_folders_that_are_no_streams_are_left_alone(tmp_path):
    (tmp_path / "lost+found").mkdir()
    registry = opened(tmp_path)
    assert registry.published == {}
    registry.close()
    assert (tmp_path / "lost+found").is_dir()
