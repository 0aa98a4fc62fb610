"""One stream on the Learner: its state in memory, and on disk so that a kill at any point loses nothing.

An event is written to the journal first, then learned, then acknowledged. The folder holds the newest two checkpoints
and the journals since the older one. To open a stream is to read a checkpoint and learn the journal again, event by
event, from the same state: it resumes exactly.
"""

import logging
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import time
from typing import Any, Final, Self

import orjson

from serve_app.errors import ConfigError, UpstreamError
from serve_app.files import sync_folder, write_whole
from serve_app.journal import Journal
from serve_app.streams.base import BudgetChange, Core, Event, EventBatch, ObservedEvent, StreamCounts, batch_from_json
from serve_app.streams.checkpoint import StreamCheckpoint, journal_path, journals, newest, save
from serve_app.streams.erasing import Covers, erase, erased
from serve_app.streams.online.base import Learner, StreamSpec
from serve_app.streams.spec import spec_from_json, spec_to_json, with_budget

_SOURCES: Final = 8192
"""Gateways whose last batch is remembered: more than the kept journals have batches, so that none is learned twice when
they are read. A stream with few queries outlives thousands of Gateways between two checkpoints.
"""
_ABOUT: Final = "stream.json"
"""Owner and spec as created: for people, and for a stream whose checkpoints cannot be read."""
logger = logging.getLogger("jethro.streams")


@dataclass(slots=True)
class State:
    """Everything but the learner. `sources`: the last batch of each Gateway, oldest first."""

    spec: StreamSpec
    uid: str
    owner: str | None
    created_s: float
    revision: int = 0
    counts: StreamCounts = field(default_factory=StreamCounts)
    sources: OrderedDict[str, int] = field(default_factory=OrderedDict)
    corrupt: int = 0
    """Unreadable checkpoints and journal lines, over the stream's life."""


class LearnedStream:
    """An open stream; one owner, not thread-safe. From `create` or `open`, to be closed."""

    def __init__(self, folder: Path, state: State, learner: Learner, checkpoint: int) -> None:
        self.folder = folder
        self.learner = learner
        self.opened_s = time()
        """Unix time; a later one after a restart of the Learner."""
        self.restored_events = 0
        """Events learned again when the stream was opened."""
        self._state = state
        self._checkpoint = checkpoint
        self._since = 0
        self._journal: Journal | None = None

    @classmethod
    def create(cls, among: Path, spec: StreamSpec, owner: str | None, learner: Learner) -> Self:
        """A new stream, in a hidden folder in `among` until it is settled. `learner` has learned nothing."""
        learner.policy()
        learner.figures()  # a learner that fails here is refused
        state = State(spec, secrets.token_hex(8), owner, time())
        folder = among / f".{spec.name}-{state.uid}"
        stream = cls(folder, state, learner, -1)
        try:
            folder.mkdir(parents=True)
            write_whole(folder / _ABOUT, orjson.dumps({"owner": owner, "spec": spec_to_json(spec)}))
            stream.checkpoint()
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return stream

    def settle(self, folder: Path) -> None:
        """Move to its final folder, which does not exist yet."""
        self.folder.rename(folder)
        self.folder = folder
        sync_folder(folder.parent)

    @classmethod
    def open(cls, folder: Path, core: Core) -> Self:
        """A stream as it was when its last event was acknowledged.

        Raises ConfigError, naming folder and fix, if no checkpoint can be read.
        """
        found, corrupt = newest(folder)
        if found is None:
            names = ", ".join(path.name for path in corrupt) or "there is none"
            raise ConfigError(
                f"{folder}: no checkpoint can be read ({names}); restore one from a backup, or create the stream again "
                "with reset"
            )
        state = state_of(found.values["stream"])
        state.corrupt += len(corrupt)
        stream = cls(folder, state, core.restored(state.spec, found.arrays, found.values["learner"]), found.number)
        stream._replay(core)
        if corrupt or stream.restored_events:
            try:
                stream.checkpoint()  # not to learn the same again after the next kill
            except OSError as e:  # a full disk: the journals remain
                logger.error("stream %s: no checkpoint could be written (%s)", state.spec.name, e)
        return stream

    @property
    def spec(self) -> StreamSpec:
        """The current spec."""
        return self._state.spec

    @property
    def uid(self) -> str:
        """Identifies the stream as created: one created later under the same name has another."""
        return self._state.uid

    @property
    def owner(self) -> str | None:
        """The tenant that created it."""
        return self._state.owner

    @property
    def tag(self) -> str:
        """Names the policy together with the spec."""
        return f"{self.uid}.{self._state.revision}.{self.learner.policy().version}"

    @property
    def events(self) -> int:
        """Events since the last checkpoint."""
        return self._since

    def report(self, batch: EventBatch, line: bytes) -> None:
        """Learn from a batch; `line` is its JSON. A batch learned before, or of another uid, changes nothing.

        Raises UpstreamError if it cannot be stored; then nothing is learned.
        """
        if batch.uid != self.uid or batch.seq <= self._state.sources.get(batch.source, 0):
            return
        self._keep(line)
        self._learn(batch)

    def budget(self, budget: BudgetChange, core: Core) -> None:
        """Set another budget; what was learned stays. Raises ConfigError, and changes nothing, for an invalid one."""
        learner, spec = self._rebudgeted(budget, core)
        self._keep(orjson.dumps({"budget": asdict(budget), "revision": self._state.revision + 1}))
        self._set_budget(learner, spec)

    def checkpoint(self) -> None:
        """Write the whole state and begin a new journal. Raises OSError; the journal then continues."""
        arrays, values = self.learner.state()
        state = asdict(self._state)
        state |= {"spec": spec_to_json(self._state.spec), "sources": list(self._state.sources.items())}
        save(self.folder, StreamCheckpoint(self._checkpoint + 1, arrays, {"stream": state, "learner": values}))
        self._checkpoint += 1
        self._since = 0
        self.close()

    def erase(self, covers: Covers) -> None:
        """Take texts out of the journals. Raises OSError; texts may be left then.

        First a checkpoint, so that no restart learns from the journals without them.
        """
        if not erased(self.folder, covers):
            return
        if self._since:
            try:
                self.checkpoint()
            except OSError as e:  # a full disk: then a restart learns from an empty text in their place
                logger.error("stream %s: no checkpoint could be written (%s)", self.spec.name, e)
        self.close()
        erase(self.folder, covers)

    def figures(self) -> dict[str, Any]:
        """For status and metrics, JSON-ready; shares are nan-free and sum to 1 once there are queries."""
        counts = self._state.counts
        answered = {level: counts.levels.get(level, 0) for level in self.spec.levels}
        queries = max(counts.queries, 1)
        return {
            "version": self.learner.policy().version,
            "created_s": self._state.created_s,
            "opened_s": self.opened_s,
            **{k: v for k, v in asdict(counts).items() if k != "levels"},
            "share": {level: n / queries for level, n in answered.items()} | {"llm": counts.llm_calls / queries},
            "corrupt": self._state.corrupt,
            "restored_events": self.restored_events,
            "learner": self.learner.figures(),
        }

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _keep(self, line: bytes) -> None:
        """Append to the journal. Raises UpstreamError if the disk does not take the line."""
        try:
            if self._journal is None:
                self._journal = Journal(journal_path(self.folder, self._checkpoint), checksums=True)
            self._journal.append(line)
        except OSError as e:
            path = journal_path(self.folder, self._checkpoint)
            raise UpstreamError(f"{path} cannot be written ({e}): make room on that disk") from e

    def _replay(self, core: Core) -> None:
        """Learn the journals' events; those that the checkpoint already holds are skipped."""
        found = journals(self.folder)
        last = max([self._checkpoint, *found])
        if not found.keys() >= set(range(self._checkpoint, last)):
            logger.error("%s: a journal between %d and %d is missing", self.folder, self._checkpoint, last)
            self._state.corrupt += 1
        for path in found.values():
            journal = Journal(path, checksums=True)
            if journal.broken:
                logger.error("%s: %d broken lines are skipped", path, journal.broken)
                self._state.corrupt += journal.broken
            try:
                for line in journal.lines:
                    self._learn_again(line, core)
            except (KeyError, TypeError, ValueError) as e:  # whole lines, by their checksum, of another format
                raise ConfigError(
                    f"{path}: a line is of another format ({type(e).__name__}: {e}): start the version that wrote it, "
                    "or create the stream again with reset"
                ) from e
            finally:
                journal.close()
        self._checkpoint = last
        self.restored_events = self._since

    def _learn_again(self, line: bytes, core: Core) -> None:
        values = orjson.loads(line)
        if "budget" in values:
            if values["revision"] > self._state.revision:
                self._set_budget(*self._rebudgeted(BudgetChange(**values["budget"]), core))
            return
        batch = batch_from_json(line)
        if batch.seq > self._state.sources.get(batch.source, 0):
            self._learn(batch)

    def _learn(self, batch: EventBatch) -> None:
        state = self._state
        state.sources[batch.source] = batch.seq
        state.sources.move_to_end(batch.source)
        if len(state.sources) > _SOURCES:
            state.sources.popitem(last=False)
        state.counts.lost += batch.lost
        state.counts.failed += batch.failed
        for event in batch.events:
            self._event(event)
        self.learner.policy()  # its version counts calls: the same when it is learned again

    def _event(self, event: Event) -> None:
        self._since += 1
        self._count(event)
        try:
            if isinstance(event, ObservedEvent):
                self.learner.observe(event.episode)
            else:
                self.learner.learn(event)
        except Exception:  # one event that fails must not stop all that follow
            self._state.counts.refused += 1
            logger.exception("stream %s: an event was skipped", self.spec.name)

    def _count(self, event: Event) -> None:
        counts = self._state.counts
        if isinstance(event, ObservedEvent):
            counts.queries += 1
            if event.episode.level is None:
                counts.llm_calls += 1
            elif event.episode.level < len(self.spec.levels):
                name = self.spec.levels[event.episode.level]
                counts.levels[name] = counts.levels.get(name, 0) + 1
        elif event.label is None:
            counts.unparsed += 1
        else:
            counts.labelled += 1

    def _rebudgeted(self, budget: BudgetChange, core: Core) -> tuple[Learner, StreamSpec]:
        arrays, values = self.learner.state()
        spec = with_budget(self.spec, budget)
        # through JSON, so that it is the same when repeated from the disk
        return core.restored(spec, arrays, orjson.loads(orjson.dumps(values))), spec

    def _set_budget(self, learner: Learner, spec: StreamSpec) -> None:
        self.learner = learner
        self.learner.policy()
        self._state.spec = spec
        self._state.revision += 1


def owner_of(folder: Path) -> str | None:
    """The owner of a stream that cannot be opened, if known."""
    try:
        owner = orjson.loads((folder / _ABOUT).read_bytes())["owner"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return owner if isinstance(owner, str) else None


def state_of(values: Mapping[str, Any]) -> State:
    """The state in a checkpoint's values."""
    spec, counts = spec_from_json(values["spec"]), StreamCounts(**values["counts"])
    sources = OrderedDict((source, seq) for source, seq in values["sources"])
    return State(**{**values, "spec": spec, "counts": counts, "sources": sources})
