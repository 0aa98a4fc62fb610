"""Files that are there whole or not at all, also after a crash."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic_ns
from typing import Final

PART: Final = ".part"
"""Suffix of a file that is not whole yet; one that a killed process left may be deleted."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to write, which replaces `path` at the end of the block; after an error `path` is as it was.

    The content is synced before it takes the name, and the folder afterwards. Safe for several processes that write
    the same path: one of them wins. Raises OSError, and leaves no half-written file behind.
    """
    part = path.with_name(f".{path.name}-{os.getpid()}-{monotonic_ns()}{PART}")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def unwritable(folder: Path) -> str | None:
    """Why this process could not make the folder, or files in it; None if it could. Changes nothing."""
    present = folder.absolute()
    while not present.exists() and present != present.parent:
        present = present.parent
    if not present.is_dir():
        return f"{present} is no folder"
    return None if os.access(present, os.W_OK | os.X_OK) else f"this user cannot write in {present}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one piece; see `replacing`."""
    with replacing(path) as part:
        part.write_bytes(content)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
