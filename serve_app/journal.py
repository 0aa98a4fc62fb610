"""An append-only file of lines that survives kills: a line that was acknowledged is read back after any crash.

A last line that was cut short was never acknowledged and is dropped. With `checksums` a line is `CRC32 content`, in
hexadecimal: broken lines elsewhere are left out and counted.
"""

import fcntl
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from serve_app.files import sync_folder

_HEAD: Final = 9
"""Bytes before the content: eight digits and a blank."""


class Journal:
    """An open journal with one owner. `lines` are those found when it was opened; `broken` of them were left out."""

    def __init__(self, path: Path, *, checksums: bool = False, exclusive: bool = False) -> None:
        """Open `path`, or create it with mode 0600.

        Raises OSError; BlockingIOError if another process holds an `exclusive` one.
        """
        self.path = path
        new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._checksums = checksums
        self._torn = False
        try:
            if exclusive:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if new:
                sync_folder(path.parent)
            self.lines, self.broken, self._size = self._read()
        except BaseException:
            os.close(self._file)
            raise

    def append(self, line: bytes, *, sync: bool = True) -> None:
        """Append a line without its end. It is on disk on return; without `sync` it survives kills of the process.

        Raises OSError, and then the line is not in the file.
        """
        whole = (with_checksum(line) if self._checksums else line) + b"\n"
        try:
            if self._torn:  # half a line would spoil the next one
                os.ftruncate(self._file, self._size)
            self._torn = True
            left = whole
            while left:
                left = left[os.write(self._file, left) :]
            if sync:
                os.fdatasync(self._file)
        except OSError:
            with suppress(OSError):  # if this fails too, it is repeated before the next line
                os.ftruncate(self._file, self._size)
            raise
        self._torn = False
        self._size += len(whole)

    def sync(self) -> None:
        """Bring lines appended without `sync` to the disk. Raises OSError."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file, which also releases its lock. Syncs nothing."""
        os.close(self._file)

    def _read(self) -> tuple[list[bytes], int, int]:
        content = self.path.read_bytes()
        size = content.rfind(b"\n") + 1
        if size < len(content):
            os.ftruncate(self._file, size)
        lines = content[:size].split(b"\n")[:-1]
        if not self._checksums:
            return lines, 0, size
        whole = [line[_HEAD:] for line in lines if checked(line) is not None]
        return whole, len(lines) - len(whole), size


def with_checksum(content: bytes) -> bytes:
    """A line as a journal with checksums holds it, without its end."""
    return b"%08x " % zlib.crc32(content) + content


def checked(line: bytes) -> bytes | None:
    """The content of such a line; None: it is broken."""
    return line[_HEAD:] if line == with_checksum(line[_HEAD:]) else None
