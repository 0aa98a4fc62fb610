"""Files that are there whole or not at all, and a folder that one process owns at a time."""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from serve_app.errors import ConfigError

PART: Final = ".part"
"""End of the name of a file that is not whole; one that a kill left is nobody's."""
_LOOK_S: Final = 0.1


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves it as it was, or whole. Raises OSError, and leaves no half of it behind."""
    part = path.with_name(f".{path.name}{PART}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_folder(
    folder: Path, wait_s: float, clock: Callable[[], float] = monotonic, pause: Callable[[float], None] = sleep
) -> int:
    """The open lock of a folder; the kernel frees it when its process ends, however it ends.

    Waits for an owner that is about to leave. Raises ConfigError if it stays, or if the folder cannot be made.
    """
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)  # callers' texts lie in it
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise ConfigError(f"streams.folder: {folder} cannot be used ({e}); give a folder that can be written") from e
    until = clock() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if clock() >= until:
                os.close(file)
                raise ConfigError(
                    f"streams.folder: another Learner works in {folder}; stop it, or give each endpoint its own folder"
                ) from None
            pause(_LOOK_S)
