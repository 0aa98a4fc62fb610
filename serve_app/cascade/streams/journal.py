"""An append-only log of lines, each with its checksum: what was learned from since a checkpoint.

A line is `CRC32 JSON`. A last line that was cut short was never acknowledged and is dropped; a broken line elsewhere
is left out and counted.
"""

import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from serve_app.cascade.streams.files import sync_folder
from serve_app.errors import UpstreamError

_HEAD: Final = 9
"""Eight digits and a blank."""


class Journal:
    """An open journal. `lines` are those found when it was opened; `broken` were left out. One owner."""

    def __init__(self, path: Path) -> None:
        """Open `path`, or make it. Raises OSError, with nothing left open: it is tried again at each batch."""
        self.path = path
        new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._torn = False
        try:
            if new:
                sync_folder(path.parent)
            self.lines, self.broken, self._size = self._read()
        except OSError:
            self.close()
            raise

    def append(self, line: bytes) -> None:
        """Keep a line (no line end in it). When this returns it is on the disk. Raises UpstreamError if it is not."""
        whole = b"%08x " % zlib.crc32(line) + line + b"\n"
        try:
            if self._torn:  # half a line would spoil the next one
                os.ftruncate(self._file, self._size)
            self._torn = True
            rest = whole
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError as e:
            with suppress(OSError):  # then it is tried again before the next line
                os.ftruncate(self._file, self._size)
            raise UpstreamError(f"{self.path} cannot be written ({e}): make room on that disk") from e
        self._torn = False
        self._size += len(whole)

    def close(self) -> None:
        """Let go of the file; all is on the disk already."""
        os.close(self._file)

    def _read(self) -> tuple[list[bytes], int, int]:
        content = self.path.read_bytes()
        size = content.rfind(b"\n") + 1
        if size < len(content):
            os.ftruncate(self._file, size)
        lines = content[:size].split(b"\n")[:-1]
        good = [line[_HEAD:] for line in lines if _whole(line)]
        return good, len(lines) - len(good), size


def _whole(line: bytes) -> bool:
    return line[:_HEAD] == b"%08x " % zlib.crc32(line[_HEAD:])
