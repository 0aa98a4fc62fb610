"""All streams of a Learner in one folder: made, found again after a restart, changed and forgotten.

The Learner in this process: one thread that learns, and a loop that only reads what it published.
"""

import asyncio
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final, ParamSpec, TypeVar

from serve_app.errors import ConfigError, Conflict, NotFound, Overloaded, RequestError, UpstreamError
from serve_app.files import sync_folder
from serve_app.streams.base import (
    BudgetChange,
    Core,
    EventBatch,
    Published,
    StreamCreate,
    arrays_to_bytes,
    batch_from_json,
)
from serve_app.streams.checkpoint import lock_folder
from serve_app.streams.online.base import Learner, StreamPolicy
from serve_app.streams.spec import difference, is_name, spec_to_json
from serve_app.streams.stream import LearnedStream, owner_of

_LOCK_S: Final = 60.0
"""Longest wait for the Learner before us to leave the folder."""
_RETRY_S: Final = 30.0
"""A checkpoint that could not be written, or a stream that could not be read, is tried again no sooner."""
_HIDDEN: Final = re.compile(r"\.(?P<name>.+)-([0-9a-f]{8}|(?P<uid>[0-9a-f]{16}))")
"""Folders of our own that are not found by name: with a uid one being made, else one being forgotten."""
logger = logging.getLogger("jethro.streams")


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """Where streams are kept, how many there may be, and after how many events the whole state is written.

    `most_per_tenant` bounds those of one owner; streams without an owner count against `most` alone.
    """

    folder: Path
    most: int = 64
    checkpoint_events: int = 2000
    most_per_tenant: int = 16


class StreamRegistry:
    """Owns the folder; not thread-safe. `published` may be read from any thread: it is replaced, never changed."""

    def __init__(self, keeping: RegistryOptions, core: Core, clock: Callable[[], float] = monotonic) -> None:
        """Takes up the streams in the folder. Raises ConfigError if it cannot be used or another Learner has it."""
        self._keeping = keeping
        self._core = core
        self._clock = clock
        self._streams: dict[str, LearnedStream] = {}
        self._retry_s: dict[str, float] = {}
        self._policies: dict[str, tuple[StreamPolicy, bytes]] = {}
        self.published: dict[str, Published] = {}
        """Every stream with its policy. One that cannot be read is there with its error."""
        self._lock = lock_folder(keeping.folder, _LOCK_S)
        _tidy(keeping.folder)
        for path in sorted(keeping.folder.iterdir()):
            if path.is_dir() and is_name(path.name):  # a disk may have folders of its own, `lost+found`
                self._open(path)

    def create(self, wanted: StreamCreate) -> None:
        """Make a stream; the same one again changes nothing but its budget.

        Raises Conflict if another stream, or another tenant's, has the name and `reset` is not set, Overloaded if there
        are too many, RequestError if the spec cannot be learned, UpstreamError if the disk does not take it.
        """
        self._check_open()
        name = wanted.spec.name
        there = self.published.get(name)
        if there is not None:
            if not _may(there, wanted.owner):
                raise Conflict(f"The name {name!r} is taken: give another one.", param="name")
            if not wanted.reset:
                self._again(wanted)
                return
        self._check_room(there, wanted.owner)
        learner = self._learner(wanted)
        with self._on_disk():
            self._settle(LearnedStream.create(self._keeping.folder, wanted.spec, wanted.owner, learner))
        self._publish(name)
        logger.warning("stream %s is made: %d labels", name, len(wanted.spec.labels))

    def budget(self, name: str, budget: BudgetChange, owner: str | None = None) -> None:
        """Change a budget. Raises NotFound, or UpstreamError if the stream cannot be read."""
        self._check_open()
        self._owned(name, owner)
        with self._on_disk():
            self._readable(name).budget(budget, self._core)
        self._publish(name)

    def delete(self, name: str, owner: str | None = None) -> None:
        """Forget a stream and all that was learned. Raises NotFound, UpstreamError if the disk does not forget it."""
        self._check_open()
        self._owned(name, owner)
        with self._on_disk():
            self._forget(name, self._put_aside(name))
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
            self._publish(path.name)
        except Exception as e:
            # whatever is wrong with one stream, the others go on
            self._let_go(path.name)
            self._retry_s[path.name] = self._clock() + _RETRY_S
            logger.error("stream %s is not learned: %s", path.name, e, exc_info=not isinstance(e, ConfigError))
            told = str(e) if isinstance(e, ConfigError) else f"{path}: {type(e).__name__}: {e}; the log says where"
            self.published = {**self.published, path.name: Published("", "", owner_of(path), {}, error=told)}
            return
        logger.warning("stream %s goes on: %d events since its checkpoint", path.name, stream.restored_events)

    def _check_open(self) -> None:
        if self._lock < 0:  # the folder may be another Learner's by now
            raise UpstreamError("The Learner is stopping: try again.")

    def _check_room(self, there: Published | None, owner: str | None) -> None:
        """Raises Overloaded if one more stream of this owner, in the place of `there`, is too many."""
        if there is None and len(self.published) >= self._keeping.most:
            raise Overloaded(f"There are {self._keeping.most} streams: delete one, or raise streams.most.")
        if owner is None or (there is not None and there.owner == owner):
            return
        most = self._keeping.most_per_tenant
        if sum(p.owner == owner for p in self.published.values()) >= most:
            raise Overloaded(f"You have {most} streams: delete one of yours, or raise streams.most_per_tenant.")

    def _learner(self, wanted: StreamCreate) -> Learner:
        try:
            return self._core.new(wanted.spec)
        except ConfigError as e:  # a parameter that only the core knows
            raise RequestError(f"{e}.", code="invalid_value") from e

    def _again(self, wanted: StreamCreate) -> None:
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
            self.budget(name, BudgetChange(told.mu, told.llm_share, told.horizon), wanted.owner)

    def _owned(self, name: str, owner: str | None) -> None:
        there = self.published.get(name)
        if there is None or not _may(there, owner):
            raise NotFound(f"No stream {name[:60]!r}.", param="name")

    def _readable(self, name: str) -> LearnedStream:
        if name not in self._streams and self._lock >= 0 and self._clock() >= self._retry_s.get(name, 0.0):
            self._open(self._keeping.folder / name)  # the disk may be back, or a checkpoint put back from a backup
        stream = self._streams.get(name)
        if stream is None:
            raise UpstreamError(f"The stream {name!r} is not learned now: {self.published[name].error}")
        return stream

    def _checkpoint_if_due(self, stream: LearnedStream, batch: EventBatch) -> None:
        if stream.events >= self._keeping.checkpoint_events and self._clock() >= self._retry_s.get(batch.stream, 0.0):
            self._checkpoint(stream)

    def _checkpoint(self, stream: LearnedStream) -> None:
        try:
            stream.checkpoint()
        except Exception as e:  # a full disk, or a state that cannot be written: the events are in the journal
            self._retry_s[stream.spec.name] = self._clock() + _RETRY_S
            logger.error("stream %s: no checkpoint could be written (%r); its journal goes on", stream.spec.name, e)

    def _settle(self, made: LearnedStream) -> None:
        """A new stream takes its name from an old one. Raises OSError, and leaves that one as it was."""
        name, aside = made.spec.name, None
        try:
            aside = self._put_aside(name)
            made.settle(self._keeping.folder / name)
        except OSError:
            shutil.rmtree(made.folder, ignore_errors=True)
            if aside is not None:
                with suppress(OSError):
                    aside.rename(self._keeping.folder / name)
            raise
        self._forget(name, aside)
        self._streams[name] = made

    def _put_aside(self, name: str) -> Path | None:
        """The hidden folder that a stream now lies in; None if it had none. Raises OSError, and leaves it as it was."""
        there, aside = self._keeping.folder / name, self._keeping.folder / f".{name}-{os.urandom(4).hex()}"
        if not there.exists():  # a new one, or removed by hand
            return None
        there.rename(aside)
        try:
            sync_folder(self._keeping.folder)
        except OSError:
            aside.rename(there)
            raise
        return aside

    def _forget(self, name: str, aside: Path | None) -> None:
        self._let_go(name)
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)

    def _let_go(self, name: str) -> None:
        stream = self._streams.pop(name, None)
        if stream is not None:
            stream.close()
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


def _tidy(folder: Path) -> None:
    """Removes what was being made or forgotten when a Learner was killed, and nothing that is not of our making.

    Where both lie under one name it was a reset that the kill came into: the new stream is whole, and takes the name.
    """
    found = {path: match for path in folder.iterdir() if (match := _HIDDEN.fullmatch(path.name)) and path.is_dir()}
    forgotten = {match["name"] for match in found.values() if not match["uid"] and is_name(match["name"])}
    for path, match in found.items():
        name = match["name"]
        if match["uid"] and name in forgotten and not (folder / name).exists() and any(path.glob("checkpoint-*")):
            path.rename(folder / name)
        elif is_name(name):
            shutil.rmtree(path, ignore_errors=True)


def _may(stream: Published, tenant: str | None) -> bool:
    """Whether a tenant may see and change a stream: its own, or one that was made without a key."""
    return stream.owner is None or stream.owner == tenant


P = ParamSpec("P")
R = TypeVar("R")


class LocalLearner:
    """A LearnerPort over a registry of its own; to be closed."""

    def __init__(self, keeping: RegistryOptions, core: Core) -> None:
        """Take up the streams, which takes its time. Raises ConfigError if the folder cannot be used."""
        self._registry = StreamRegistry(keeping, core)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learner")

    async def report(self, batch: bytes) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.report, batch)

    async def published(self, known: Mapping[str, str]) -> Mapping[str, Published]:
        """See LearnerPort. Does not wait for what is being learned."""
        told = self._registry.published
        return {n: replace(p, spec=None, policy=None) if known.get(n) == p.tag else p for n, p in told.items()}

    async def create(self, wanted: StreamCreate) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.create, wanted)

    async def budget(self, name: str, budget: BudgetChange, owner: str | None = None) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.budget, name, budget, owner)

    async def delete(self, name: str, owner: str | None = None) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.delete, name, owner)

    async def aclose(self) -> None:
        """Finish what is being learned, write checkpoints, free the folder."""
        await self._in_thread(self._registry.close)
        self._thread.shutdown()

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))
