"""All streams of a Learner in one folder: created, reopened after a restart, changed and deleted.

`LocalLearner` is a Learner in this process: one thread that learns, and a loop that reads what it published.
"""

import asyncio
import logging
import math
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, time
from typing import Final, ParamSpec, TypeVar

from serve_app.erasure import Erasure, ErasureLog, Selection
from serve_app.errors import ConfigError, Conflict, NotFound, Overloaded, RequestError, UpstreamError
from serve_app.files import sync_folder
from serve_app.streams.base import (
    BudgetChange,
    Core,
    Published,
    StreamCreate,
    arrays_to_bytes,
    batch_from_json,
    batch_to_json,
)
from serve_app.streams.checkpoint import lock_folder
from serve_app.streams.erasing import Covers, StreamErasures, erase, requested
from serve_app.streams.online.base import StreamPolicy
from serve_app.streams.spec import difference, is_name, spec_to_json
from serve_app.streams.stream import LearnedStream, owner_of

_LOCK_S: Final = 60.0
"""Longest wait for the Learner before us to leave the folder."""
_RETRY_S: Final = 30.0
"""A checkpoint that could not be written, or a stream that could not be read, is tried again no sooner."""
_UPKEEP_S: Final = 1.0
_EXPIRE_EVERY_S: Final = 3600.0
_DAY_S: Final = 86_400.0
_HIDDEN: Final = re.compile(r"\.(?P<name>.+)-([0-9a-f]{8}|(?P<uid>[0-9a-f]{16}))")
"""Hidden folders: with a uid, of a stream being created; otherwise of one being deleted."""
logger = logging.getLogger("jethro.streams")


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """Folder and number of streams, and the events after which the whole state is written.

    `most_per_tenant` bounds those of one owner; streams without an owner count against `most` alone.
    """

    folder: Path
    most: int = 64
    checkpoint_events: int = 2000
    most_per_tenant: int = 16
    keep_days: float = 30.0
    """Texts in journals that are older are erased."""


class StreamRegistry:
    """Owns the folder; not thread-safe. `published` may be read from any thread: it is replaced, never changed."""

    def __init__(self, options: RegistryOptions, core: Core, clock: Callable[[], float] = monotonic) -> None:
        """Open the streams in the folder. Raises ConfigError if it cannot be used or another Learner has it."""
        self._options = options
        self._core = core
        self._clock = clock
        self._streams: dict[str, LearnedStream] = {}
        self._retry_s: dict[str, float] = {}
        self._policies: dict[str, tuple[StreamPolicy, bytes]] = {}
        self.published: dict[str, Published] = {}
        """Every stream with its policy; an unreadable one with its error."""
        self._expired_s = -math.inf
        self._lock = lock_folder(options.folder, _LOCK_S)
        _tidy(options.folder)
        self._erasures = StreamErasures(options.folder, options.keep_days)
        for path in self._folders():
            self._open(path)

    def create(self, request: StreamCreate) -> None:
        """Create a stream; the same one again changes nothing but its budget.

        Raises Conflict if another stream, or another tenant's, has the name and `reset` is not set, Overloaded if there
        are too many, RequestError if the spec cannot be learned, UpstreamError if the disk does not take it.
        """
        self._check_open()
        name = request.spec.name
        if (old := self.published.get(name)) is not None:
            if not _may(old, request.owner):
                raise Conflict(f"The name {name!r} is taken: give another one.", param="name")
            if not request.reset:
                self._create_again(request)
                return
        self._check_room(old, request.owner)
        try:
            learner = self._core.new(request.spec)
        except ConfigError as e:  # a parameter that only the core knows
            raise RequestError(f"{e}.", code="invalid_value") from e
        with self._on_disk():
            self._settle(LearnedStream.create(self._options.folder, request.spec, request.owner, learner))
        self._publish(name)
        logger.warning("stream %s created: %d labels", name, len(request.spec.labels))

    def budget(self, name: str, budget: BudgetChange, owner: str | None = None) -> None:
        """Change a budget. Raises NotFound, or UpstreamError if the stream cannot be read."""
        self._check_open()
        self._owned(name, owner)
        with self._on_disk():
            self._readable(name).budget(budget, self._core)
        self._publish(name)

    def delete(self, name: str, owner: str | None = None) -> None:
        """Delete a stream and all that was learned. Raises NotFound, UpstreamError if the disk fails."""
        self._check_open()
        self._owned(name, owner)
        with self._on_disk():
            self._drop(name, self._hide(name))
        self.published = {n: p for n, p in self.published.items() if n != name}

    def erase(self, selection: Selection, before_s: float) -> None:
        """Take texts of requests until `before_s` out of all journals, also of streams that cannot be opened.

        Later events of such requests are dropped. Raises UpstreamError if the disk fails; repeat it then.
        """
        self._check_open()
        with self._on_disk():
            self._erasures.add(selection, before_s)
            self._erase(ErasureLog([Erasure(b"", selection.digest(b""), before_s)]).covers)

    def upkeep(self, now_s: float) -> None:
        """Carry out erasures that other programs left in the folder, and erase texts that are too old.

        `now_s` in unix seconds. To be called about once a second. Raises UpstreamError if the disk fails.
        """
        if self._lock < 0:
            return
        for path, selection, before_s in requested(self._options.folder):
            self.erase(selection, before_s)
            path.unlink(missing_ok=True)
        if abs(now_s - self._expired_s) > _EXPIRE_EVERY_S:
            self._expired_s, oldest_s = now_s, now_s - self._options.keep_days * _DAY_S
            with self._on_disk():
                self._erase(lambda origin: origin.created_s < oldest_s)

    def report(self, line: bytes) -> None:
        """Store a batch and learn from it; a batch of a deleted stream is dropped, and so are erased texts.

        Raises UpstreamError if it cannot be stored now, or ValueError if it is no batch.
        """
        batch = batch_from_json(line)
        if batch.stream not in self.published:
            return
        stream = self._readable(batch.stream)
        if (kept := self._erasures.without_erased(batch)) is not batch:
            batch, line = kept, batch_to_json(kept)
        stream.report(batch, line)
        if stream.events >= self._options.checkpoint_events and self._clock() >= self._retry_s.get(batch.stream, 0.0):
            self._checkpoint(stream)
        self._publish(batch.stream)

    def close(self) -> None:
        """Checkpoint every changed stream, and release the folder. Idempotent."""
        for stream in self._streams.values():
            if stream.events:
                self._checkpoint(stream)
            stream.close()
        self._streams = {}
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _folders(self) -> list[Path]:
        """Those of streams: a disk may have folders of its own, `lost+found`."""
        return sorted(path for path in self._options.folder.iterdir() if path.is_dir() and is_name(path.name))

    def _erase(self, covers: Covers) -> None:
        for path in self._folders():
            if (stream := self._streams.get(path.name)) is not None:
                stream.erase(covers)
            else:
                erase(path, covers)

    def _open(self, path: Path) -> None:
        try:
            self._streams[path.name] = stream = LearnedStream.open(path, self._core)
            self._publish(path.name)
        except Exception as e:
            # a fault of one stream does not stop the others
            self._close(path.name)
            self._retry_s[path.name] = self._clock() + _RETRY_S
            logger.error("stream %s cannot be opened: %s", path.name, e, exc_info=not isinstance(e, ConfigError))
            error = str(e) if isinstance(e, ConfigError) else f"{path}: {type(e).__name__}: {e}; see the log"
            self.published = {**self.published, path.name: Published("", "", owner_of(path), {}, error=error)}
            return
        logger.warning("stream %s resumes: %d events since its checkpoint", path.name, stream.restored_events)

    def _check_open(self) -> None:
        if self._lock < 0:  # the folder may be another Learner's by now
            raise UpstreamError("The Learner is stopping: try again.")

    def _check_room(self, old: Published | None, owner: str | None) -> None:
        """Raises Overloaded if one more stream of this owner, replacing `old`, is too many."""
        if old is None and len(self.published) >= self._options.most:
            raise Overloaded(f"There are {self._options.most} streams: delete one, or raise streams.most.")
        if owner is None or (old is not None and old.owner == owner):
            return
        most = self._options.most_per_tenant
        if sum(p.owner == owner for p in self.published.values()) >= most:
            raise Overloaded(f"You have {most} streams: delete one of yours, or raise streams.most_per_tenant.")

    def _create_again(self, request: StreamCreate) -> None:
        name, spec = request.spec.name, request.spec
        stream = self._readable(name)
        if (changed := difference(stream.spec, spec)) is not None:
            raise Conflict(
                f"The stream {name!r} exists with other {changed}: give reset to discard what was learned, or another "
                "name.",
                param=changed,
            )
        if stream.spec != spec:
            self.budget(name, BudgetChange(spec.mu, spec.llm_share, spec.horizon), request.owner)

    def _owned(self, name: str, owner: str | None) -> None:
        published = self.published.get(name)
        if published is None or not _may(published, owner):
            raise NotFound(f"No stream {name[:60]!r}.", param="name")

    def _readable(self, name: str) -> LearnedStream:
        if name not in self._streams and self._lock >= 0 and self._clock() >= self._retry_s.get(name, 0.0):
            self._open(self._options.folder / name)  # the disk may be back, or a checkpoint restored
        if (stream := self._streams.get(name)) is None:
            raise UpstreamError(f"The stream {name!r} cannot be read now: {self.published[name].error}")
        return stream

    def _checkpoint(self, stream: LearnedStream) -> None:
        try:
            stream.checkpoint()
        except Exception as e:  # a full disk, or a state that cannot be written: the events are in the journal
            self._retry_s[stream.spec.name] = self._clock() + _RETRY_S
            logger.error("stream %s: no checkpoint could be written (%r); its journal continues", stream.spec.name, e)

    def _settle(self, new: LearnedStream) -> None:
        """Give a new stream its name, replacing an old one. Raises OSError, and then the old one is unchanged."""
        name, hidden = new.spec.name, None
        try:
            hidden = self._hide(name)
            new.settle(self._options.folder / name)
        except OSError:
            shutil.rmtree(new.folder, ignore_errors=True)
            if hidden is not None:
                with suppress(OSError):
                    hidden.rename(self._options.folder / name)
            raise
        self._drop(name, hidden)
        self._streams[name] = new

    def _hide(self, name: str) -> Path | None:
        """Rename a stream's folder to a hidden one, and return it; None if it had none. Raises OSError, undone."""
        folder, hidden = self._options.folder / name, self._options.folder / f".{name}-{os.urandom(4).hex()}"
        if not folder.exists():  # a new one, or removed by hand
            return None
        folder.rename(hidden)
        try:
            sync_folder(self._options.folder)
        except OSError:
            hidden.rename(folder)
            raise
        return hidden

    def _drop(self, name: str, hidden: Path | None) -> None:
        self._close(name)
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)

    def _close(self, name: str) -> None:
        if (stream := self._streams.pop(name, None)) is not None:
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
        if (current := stream.learner.policy()) is not policy:
            data = arrays_to_bytes(current.arrays())
            self._policies[name] = (current, data)
        spec = spec_to_json(stream.spec)
        published = Published(stream.tag, stream.uid, stream.owner, stream.figures(), spec=spec, policy=data)
        self.published = {**self.published, name: published}


def _tidy(folder: Path) -> None:
    """Remove folders of streams that were being created or deleted when a Learner was killed; other files stay.

    Both kinds under one name are of an interrupted reset: the new stream is whole, and takes the name.
    """
    found = {path: match for path in folder.iterdir() if (match := _HIDDEN.fullmatch(path.name)) and path.is_dir()}
    deleted = {match["name"] for match in found.values() if not match["uid"] and is_name(match["name"])}
    for path, match in found.items():
        name = match["name"]
        if match["uid"] and name in deleted and not (folder / name).exists() and any(path.glob("checkpoint-*")):
            path.rename(folder / name)
        elif is_name(name):
            shutil.rmtree(path, ignore_errors=True)


def _may(stream: Published, tenant: str | None) -> bool:
    """Whether a tenant may see and change a stream: its own, or one that was created without a key."""
    return stream.owner is None or stream.owner == tenant


P = ParamSpec("P")
R = TypeVar("R")


class LocalLearner:
    """A LearnerPort over a registry of its own; to be closed."""

    def __init__(self, options: RegistryOptions, core: Core) -> None:
        """Open the streams, which may take a while. Raises ConfigError if the folder cannot be used."""
        self._registry = StreamRegistry(options, core)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learner")
        self._stop = threading.Event()
        threading.Thread(target=self._keep_up, name="learner-upkeep", daemon=True).start()

    async def report(self, batch: bytes) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.report, batch)

    async def published(self, known: Mapping[str, str]) -> Mapping[str, Published]:
        """See LearnerPort. Does not wait for what is being learned."""
        current = self._registry.published
        return {n: replace(p, spec=None, policy=None) if known.get(n) == p.tag else p for n, p in current.items()}

    async def create(self, request: StreamCreate) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.create, request)

    async def budget(self, name: str, budget: BudgetChange, owner: str | None = None) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.budget, name, budget, owner)

    async def delete(self, name: str, owner: str | None = None) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.delete, name, owner)

    async def erase(self, selection: Selection, before_s: float) -> None:
        """See LearnerPort."""
        await self._in_thread(self._registry.erase, selection, before_s)

    async def aclose(self) -> None:
        """Finish the batch in progress, write checkpoints, release the folder."""
        self._stop.set()
        await self._in_thread(self._registry.close)
        self._thread.shutdown()

    def _keep_up(self) -> None:
        while not self._stop.wait(_UPKEEP_S):
            try:
                self._thread.submit(self._registry.upkeep, time()).result()
            except Exception as e:  # a full disk, say: it is tried again
                if not self._stop.is_set():
                    logger.error("the upkeep of the streams' folder failed: %r", e)

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))
