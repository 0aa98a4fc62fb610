"""Takes callers' texts out of streams' journals: those of a user or a tenant, and those older than `store.keep_days`.

An event keeps its label and its place, so that a journal that is learned again counts as it did; its text, its user and
its decision become empty. What was learned from a text stays, as sums over all texts: see docs/security.md.

`erasures.json` in the streams' folder remembers erasures as salted digests, for events that Gateways still hold. A
program that does not own the folder leaves `.erase-*.json`, which the Learner carries out.
"""

import logging
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any, Final

import orjson

from serve_app.erasure import SALT_BYTES, Erasure, ErasureLog, Origin, Selection
from serve_app.errors import ConfigError
from serve_app.files import write_whole
from serve_app.journal import checked, with_checksum
from serve_app.streams.base import EventBatch
from serve_app.streams.checkpoint import journals, lock_folder
from serve_app.streams.online.base import LabeledEvent
from serve_app.streams.spec import is_name

Covers = Callable[[Origin], bool]
_DAY_S: Final = 86_400.0
_ASK_S: Final = 0.1
_REMEMBERED: Final = "erasures.json"
_REQUESTS: Final = ".erase-*.json"
logger = logging.getLogger("jethro.streams")


class StreamErasures:
    """The erasures of a streams' folder that its owner remembers, for `days`."""

    def __init__(self, folder: Path, days: float) -> None:
        """Raises ConfigError if the file cannot be read: texts that are to be erased could be written otherwise."""
        self._path, self._days = folder / _REMEMBERED, days
        self._known = _read(self._path)
        self._salt = self._known[-1].salt if self._known else os.urandom(SALT_BYTES)
        self.log = ErasureLog(self._known)

    def add(self, selection: Selection, before_s: float) -> None:
        """Remember one more; durable when this returns. Raises OSError."""
        recent = [e for e in self._known if e.before_s >= before_s - self._days * _DAY_S]
        known = [*recent, Erasure(self._salt, selection.digest(self._salt), before_s)]
        _write(self._path, known)
        self._known, self.log = known, ErasureLog(known)

    def without_erased(self, batch: EventBatch) -> EventBatch:
        """The batch without texts that are erased: they are neither stored nor learned."""
        kept = tuple(e for e in batch.events if not (isinstance(e, LabeledEvent) and self.log.covers(origin(e))))
        return batch if len(kept) == len(batch.events) else replace(batch, events=kept)


def origin(event: LabeledEvent) -> Origin:
    """Whose text it is."""
    return Origin(event.id, event.tenant, event.users, event.created_s)


def erased(folder: Path, covers: Covers) -> dict[Path, bytes]:
    """The journals of a stream that hold such texts, with what they are to hold instead."""
    found = {}
    for path in journals(folder).values():
        written_s = path.stat().st_mtime
        lines = path.read_bytes().split(b"\n")[:-1]  # a last line that was cut short was never acknowledged
        new = [_blanked(line, covers, written_s) for line in lines]
        if new != lines:
            found[path] = b"".join(line + b"\n" for line in new)
    return found


def erase(folder: Path, covers: Covers) -> None:
    """Take such texts out of a stream that is not open. Raises OSError."""
    for path, content in erased(folder, covers).items():
        written = path.stat()
        write_whole(path, content)
        os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))  # by it, events of an earlier version age


def requested(folder: Path) -> list[tuple[Path, Selection, float]]:
    """Erasures that other programs have left, to be carried out; their files are then to be deleted."""
    found = []
    for path in sorted(folder.glob(_REQUESTS)):
        try:
            values = orjson.loads(path.read_bytes())
            found.append((path, Selection(**values["selection"]), float(values["before_s"])))
        except (OSError, ValueError, KeyError, TypeError) as e:
            logger.error("%s cannot be read and is not carried out: %r", path, e)
            path.replace(path.with_name(path.name.removeprefix(".") + ".corrupt"))
    return found


def erase_texts(folder: Path, selection: Selection, wait_s: float, days: float) -> bool:
    """Erase in all streams of a folder, by its Learner if one runs; returns whether one did.

    Raises ConfigError if the Learner does not do it within `wait_s`; it will, once it runs.
    """
    before_s = time()
    try:
        lock = lock_folder(folder, 0.0)
    except ConfigError:
        _request(folder, selection, before_s, wait_s)
        return True
    try:
        erasures = StreamErasures(folder, days)
        erasures.add(selection, before_s)
        log = ErasureLog([Erasure(b"", selection.digest(b""), before_s)])
        for path in folder.iterdir():
            if path.is_dir() and is_name(path.name):
                erase(path, log.covers)
    except OSError as e:
        raise ConfigError(f"streams.folder: {folder} cannot be written ({e}): repeat the command") from e
    finally:
        os.close(lock)
    return False


def _request(folder: Path, selection: Selection, before_s: float, wait_s: float) -> None:
    path = folder / f".erase-{secrets.token_hex(8)}.json"
    try:
        write_whole(path, orjson.dumps({"selection": asdict(selection), "before_s": before_s}))
    except OSError as e:
        raise ConfigError(f"streams.folder: {folder} cannot be written ({e}): repeat the command") from e
    until = monotonic() + wait_s
    while path.exists():
        if monotonic() > until:
            raise ConfigError(f"{path} is not carried out yet: the Learner does so when it runs; look again later")
        sleep(_ASK_S)


def _blanked(line: bytes, covers: Covers, written_s: float) -> bytes:
    """The line as it is to be; one that cannot be read stays, since nothing else can read it either."""
    if (content := checked(line)) is None:
        return line
    try:
        values = orjson.loads(content)
        events: list[dict[str, Any]] = values.get("events", [])
        texts = [e for e in events if e.get("text") and covers(_origin(e, written_s))]
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
    for event in texts:
        event |= {"text": "", "id": ""}
        event.pop("by", None)
    return with_checksum(orjson.dumps(values)) if texts else line


def _origin(event: dict[str, Any], written_s: float) -> Origin:
    """Of an event in a journal; one of an earlier version does not say, and is at most as old as its file."""
    created_s, tenant, users = event.get("by", (written_s, None, ()))
    return Origin(event["id"], tenant, tuple(users), created_s)


def merge_erasures(backup: Path, present: Path, stream: Path) -> None:
    """Of a stream taken from a backup: repeat the erasures that either file remembers, and remember all of them."""
    known = list({*_read(backup), *_read(present)})
    if known:
        erase(stream, ErasureLog(known).covers)
        _write(present, known)


_FORMAT: Final = 1


def _write(path: Path, known: Sequence[Erasure]) -> None:
    rows = [[e.salt.hex(), e.digest.hex(), e.before_s] for e in known]
    write_whole(path, orjson.dumps({"format": _FORMAT, "erasures": rows}))


def _read(path: Path) -> list[Erasure]:
    if not path.exists():
        return []
    try:
        values = orjson.loads(path.read_bytes())
        if values["format"] == _FORMAT:
            return [Erasure(bytes.fromhex(s), bytes.fromhex(d), float(b)) for s, d, b in values["erasures"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"{path} cannot be read ({e!r}): restore it from a backup, or delete it") from e
    raise ConfigError(
        f"{path} has format {values['format']}, and this version reads {_FORMAT}: start the version that wrote it"
    )
