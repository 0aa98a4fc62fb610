"""All streams of a Learner in one folder: made, found again after a restart, changed and forgotten."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, Final

from serve_app.cascade.online.base import Learner, Policy
from serve_app.cascade.streams.base import Batch, Budget, Core, Published, Wanted
from serve_app.cascade.streams.files import lock_folder, sync_folder
from serve_app.cascade.streams.spec import difference, is_name, spec_to_json
from serve_app.cascade.streams.stream import LearnedStream, owner_of
from serve_app.cascade.streams.wire import arrays_to_bytes, batch_from_json
from serve_app.errors import ConfigError, Conflict, NotFound, Overloaded, RequestError, UpstreamError

_LOCK_S: Final = 60.0
"""Longest wait for the Learner before us to leave the folder."""
_RETRY_S: Final = 30.0
"""A checkpoint that could not be written is tried again no sooner."""
log = logging.getLogger("jethro.streams")


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where streams are kept, how many there may be, and after how many events the whole state is written."""

    folder: Path
    most: int = 64
    checkpoint_events: int = 2000


class StreamRegistry:
    """Owns the folder; not thread-safe. `published` may be read from any thread: it is replaced, never changed."""

    def __init__(self, keeping: Keeping, core: Core, clock: Callable[[], float] = time) -> None:
        """Takes up the streams in the folder. Raises ConfigError if it cannot be used or another Learner has it."""
        self._keeping = keeping
        self._core = core
        self._clock = clock
        self._streams: dict[str, LearnedStream] = {}
        self._retry_s: dict[str, float] = {}
        self._policies: dict[str, tuple[Policy, bytes]] = {}
        self.published: dict[str, Published] = {}
        """Every stream with its policy. One that cannot be read is there with its error."""
        self._lock = lock_folder(keeping.folder, _LOCK_S)
        for path in sorted(keeping.folder.iterdir()):
            if path.name.startswith("."):  # one that was being made or forgotten
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and is_name(path.name):  # a disk may have folders of its own, `lost+found`
                self._open(path)

    def create(self, wanted: Wanted) -> None:
        """Make a stream; the same one again changes nothing but its budget.

        Raises Conflict if another stream, or another tenant's, has the name and `reset` is not set, Overloaded if there
        are too many, RequestError if the spec cannot be learned, UpstreamError if the disk does not take it.
        """
        name = wanted.spec.name
        there = self.published.get(name)
        if there is None and len(self.published) >= self._keeping.most:
            raise Overloaded(f"There are {self._keeping.most} streams: delete one, or raise streams.most.")
        if there is not None:
            if not _may(there, wanted.owner):
                raise Conflict(f"The name {name!r} is taken: give another one.", param="name")
            if not wanted.reset:
                self._again(wanted)
                return
        learner = self._learner(wanted)
        with self._on_disk():
            made = LearnedStream.create(self._keeping.folder, wanted.spec, wanted.owner, learner)
            if there is not None:  # only now: what cannot be made must not cost what was learned
                self._put_aside(name)
            made.settle(self._keeping.folder / name)
        self._streams[name] = made
        self._publish(name)
        log.warning("stream %s is made: %d labels", name, len(wanted.spec.labels))

    def budget(self, name: str, budget: Budget, owner: str | None = None) -> None:
        """Change a budget. Raises NotFound, or UpstreamError if the stream cannot be read."""
        self._owned(name, owner)
        with self._on_disk():
            self._readable(name).budget(budget, self._core)
        self._publish(name)

    def delete(self, name: str, owner: str | None = None) -> None:
        """Forget a stream and all that was learned. Raises NotFound, UpstreamError if the disk does not forget it."""
        self._owned(name, owner)
        with self._on_disk():
            self._put_aside(name)
        self.published = {n: p for n, p in self.published.items() if n != name}

    def report(self, line: bytes) -> None:
        """Keep a batch and learn from it. Of a stream that is not there any more nothing is kept.

        Raises UpstreamError if it cannot be kept now, or ValueError if it is no batch.
        """
        batch = batch_from_json(line)
        if batch.stream not in self.published:
            return
        stream = self._readable(batch.stream)
        stream.report(batch, line)
        self._checkpoint_if_due(stream, batch)
        self._publish(batch.stream)

    def close(self) -> None:
        """Write what is not in a checkpoint, and free the folder. Idempotent."""
        for stream in self._streams.values():
            if stream.events:
                self._checkpoint(stream)
            stream.close()
        self._streams = {}
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _open(self, path: Path) -> None:
        try:
            self._streams[path.name] = stream = LearnedStream.open(path, self._core)
        except Exception as e:
            # whatever is wrong with one stream, the others go on
            log.error("stream %s is not learned: %s", path.name, e, exc_info=not isinstance(e, ConfigError))
            told = str(e) if isinstance(e, ConfigError) else f"{path}: {type(e).__name__}: {e}; the log says where"
            self.published = {**self.published, path.name: Published("", "", owner_of(path), {}, error=told)}
            return
        log.warning("stream %s goes on: %d events since its checkpoint", path.name, stream.restored_events)
        self._publish(path.name)

    def _learner(self, wanted: Wanted) -> Learner:
        try:
            return self._core.new(wanted.spec)
        except ConfigError as e:  # a parameter that only the core knows
            raise RequestError(f"{e}.", code="invalid_value") from e

    def _again(self, wanted: Wanted) -> None:
        name = wanted.spec.name
        stream = self._readable(name)
        changed = difference(stream.spec, wanted.spec)
        if changed is not None:
            raise Conflict(
                f"The stream {name!r} exists with other {changed}: give reset to begin anew without what was learned, "
                "or another name.",
                param=changed,
            )
        if stream.spec != wanted.spec:
            told = wanted.spec
            self.budget(name, Budget(told.mu, told.llm_share, told.horizon), wanted.owner)

    def _owned(self, name: str, owner: str | None) -> None:
        there = self.published.get(name)
        if there is None or not _may(there, owner):
            raise NotFound(f"No stream {name[:60]!r}.", param="name")

    def _readable(self, name: str) -> LearnedStream:
        stream = self._streams.get(name)
        if stream is None:
            raise UpstreamError(f"The stream {name!r} is not learned now: {self.published[name].error}")
        return stream

    def _checkpoint_if_due(self, stream: LearnedStream, batch: Batch) -> None:
        if stream.events >= self._keeping.checkpoint_events and self._clock() >= self._retry_s.get(batch.stream, 0.0):
            self._checkpoint(stream)

    def _checkpoint(self, stream: LearnedStream) -> None:
        try:
            stream.checkpoint()
        except Exception as e:  # a full disk, or a state that cannot be written: the events are in the journal
            self._retry_s[stream.spec.name] = self._clock() + _RETRY_S
            log.error("stream %s: no checkpoint could be written (%r); its journal goes on", stream.spec.name, e)

    def _put_aside(self, name: str) -> None:
        """A stream is no more, on the disk and here. Raises OSError, and leaves it as it was."""
        aside = self._keeping.folder / f".{name}-{os.urandom(4).hex()}"
        (self._keeping.folder / name).rename(aside)
        sync_folder(self._keeping.folder)
        stream = self._streams.pop(name, None)
        if stream is not None:
            stream.close()
        shutil.rmtree(aside, ignore_errors=True)
        self._policies.pop(name, None)
        self._retry_s.pop(name, None)

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise UpstreamError(f"The Learner cannot write its folder ({e}): make room on that disk.") from e

    def _publish(self, name: str) -> None:
        stream = self._streams[name]
        policy, data = self._policies.get(name, (None, b""))
        now = stream.learner.policy()
        if now is not policy:
            data = arrays_to_bytes(now.arrays())
            self._policies[name] = (now, data)
        figures: dict[str, Any] = stream.figures()
        spec = spec_to_json(stream.spec)
        published = Published(stream.tag, stream.uid, stream.owner, figures, spec=spec, policy=data)
        self.published = {**self.published, name: published}


def _may(stream: Published, tenant: str | None) -> bool:
    """Whether a tenant may see and change a stream: its own, or one that was made without a key."""
    return stream.owner is None or stream.owner == tenant
