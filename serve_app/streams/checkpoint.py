"""Checkpoints of a stream: one file each, its checksum in its name, the newest two kept; and the folder's lock.

`checkpoint-NNNNNNNN-DIGEST.safetensors` holds the arrays, and the JSON values in its header. A file whose content does
not match the digest in its name is renamed to `.corrupt`, and the checkpoint before it is used. Events after checkpoint
NNNNNNNN are in `journal-NNNNNNNN.jsonl`.
"""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.numpy

from serve_app.errors import ConfigError
from serve_app.files import PART, unwritable, write_whole
from serve_app.streams.online.base import Arrays
from serve_app.streams.spec import is_name

_RETRY_S: Final = 0.1
_OWNER_ONLY: Final = 0o700
_STOPPING_S: Final = 3.0
"""A Learner that was just stopped may still be writing its checkpoints."""


def lock_folder(
    folder: Path, wait_s: float, clock: Callable[[], float] = monotonic, pause: Callable[[float], None] = sleep
) -> int:
    """Lock a folder; returns the open lock file, which the kernel releases when the process ends.

    The folder is for its owner only, since it holds callers' texts, also if it had another mode before. Waits `wait_s`
    for another Learner to stop. Raises ConfigError if it does not, or if the folder cannot be created.
    """
    try:
        folder.mkdir(_OWNER_ONLY, parents=True, exist_ok=True)
        if (found := folder.stat()).st_uid == os.getuid() and found.st_mode & 0o077:
            folder.chmod(_OWNER_ONLY)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as e:
        raise ConfigError(f"streams.folder: {folder} cannot be used ({e}); give a writable folder") from e
    until = clock() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if clock() >= until:
                os.close(file)
                raise ConfigError(
                    f"streams.folder: another Learner uses {folder}; stop it, or give each endpoint its own folder"
                ) from None
            pause(_RETRY_S)


def check_folder(folder: Path) -> list[str]:
    """What of the folder's streams this version cannot read, each with the fix. Changes nothing.

    Raises ConfigError if a Learner could not use the folder, or another one does.
    """
    if (why := unwritable(folder)) is not None:
        raise ConfigError(f"streams.folder: {folder} cannot be used ({why}); give a writable folder")
    if (folder / "lock").is_file():
        os.close(lock_folder(folder, wait_s=_STOPPING_S))
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        newest_first = _found(path) if path.is_dir() and is_name(path.name) else iter(())
        for number, file in newest_first:
            try:
                _load(number, file)
            except ConfigError as e:
                found.append(f"streams.folder: {e}")
            except (OSError, *_CORRUPT):
                continue  # the Learner takes the one before it
            break
    return found


_KEPT: Final = 2
_FORMAT: Final = 1
_CORRUPT: Final = (ValueError, KeyError, safetensors.SafetensorError)
logger = logging.getLogger("jethro.streams")


@dataclass(frozen=True, slots=True)
class StreamCheckpoint:
    """A state: `number` counts the stream's checkpoints from 0."""

    number: int
    arrays: Arrays
    values: Mapping[str, Any]


def save(folder: Path, checkpoint: StreamCheckpoint) -> None:
    """Write it; the oldest ones beyond two are deleted, with the journals that only they need. Raises OSError.

    The file may exist even after an error: a caller that continues the journal before it loses nothing, since all
    journals are read when a stream is opened.
    """
    values = {"format": _FORMAT, "values": checkpoint.values}
    arrays = {name: np.ascontiguousarray(a) for name, a in checkpoint.arrays.items()}
    content = safetensors.numpy.save(arrays, metadata={"values": json.dumps(values)})
    written = folder / f"checkpoint-{checkpoint.number:08d}-{_digest(content)}.safetensors"
    write_whole(written, content)
    found = list(_found(folder))
    kept = set(sorted({number for number, _ in found})[-_KEPT:])
    for number, path in found:
        # another file of this number is of an attempt that failed half-way: it holds less
        if number not in kept or (number == checkpoint.number and path != written):
            path.unlink()
    for number, path in journals(folder).items():
        if number < min(kept):
            path.unlink()


def latest(folder: Path) -> StreamCheckpoint | None:
    """The newest readable checkpoint, for a process that does not own the folder: nothing is changed in it."""
    for number, path in list(_found(folder)):
        try:
            return _load(number, path)
        except (OSError, *_CORRUPT, ConfigError) as e:
            logger.warning("%s is not read: %s", path, e)
    return None


def newest(folder: Path) -> tuple[StreamCheckpoint | None, list[Path]]:
    """The newest readable checkpoint, and the unreadable ones, now named `.corrupt`.

    Files that a kill left half-written are removed. Raises ConfigError for a whole checkpoint of another format, which
    is left unchanged.
    """
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)
    corrupt: list[Path] = []
    for number, path in list(_found(folder)):
        try:
            return _load(number, path), corrupt
        except (OSError, *_CORRUPT) as e:
            corrupt.append(path.replace(path.with_name(path.name + ".corrupt")))
            logger.error("%s is corrupt (%s) and renamed to %s: the one before it is used", path, e, corrupt[-1].name)
    return None, corrupt


def journal_path(folder: Path, number: int) -> Path:
    """The file of events after checkpoint `number`."""
    return folder / f"journal-{number:08d}.jsonl"


def journals(folder: Path) -> dict[int, Path]:
    """The existing journals, oldest first, by the number of the checkpoint that each follows."""
    return {_number(path): path for path in sorted(folder.glob("journal-*.jsonl"))}


def _found(folder: Path) -> Iterator[tuple[int, Path]]:
    """Newest first."""
    for path in sorted(folder.glob("checkpoint-*.safetensors"), reverse=True):
        yield _number(path), path


def _number(path: Path) -> int:
    return int(path.name.split("-")[1].partition(".")[0])


def _load(number: int, path: Path) -> StreamCheckpoint:
    content = path.read_bytes()
    if path.name.split("-")[2].partition(".")[0] != _digest(content):
        raise ValueError("its content does not match the checksum in its name")
    with safetensors.safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["values"])
    if header.get("format") != _FORMAT:
        raise ConfigError(
            f"{path} has format {header.get('format')}, and this version reads {_FORMAT}: start the version that wrote "
            "it, or create the stream again with reset"
        )
    return StreamCheckpoint(number, safetensors.numpy.load(content), header["values"])


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
