"""Folders of what was learned (routers, cascades, ensembles, fusers), which may come from elsewhere: read with checks.

Before any file of one is read, `check_folder` refuses links that lead out of it, special files, and sizes that nothing
of ours has.
"""

import json
import stat
import zipfile
from pathlib import Path
from typing import Any, Final

from serve_app.errors import ConfigError, reading

MAX_FILES: Final = 200
MAX_JSON_BYTES: Final = 256 * 2**20
"""The largest router.json of ours (6,000 named weights) is under 1 MiB."""
MAX_FILE_BYTES: Final = 32 * 2**30
"""A causal language model of 7 billion parameters has 14 GiB."""
MAX_ARRAYS_BYTES: Final = 8 * 2**30
"""Arrays of one npz file, unpacked: 100,000 stored vectors of 384 dimensions have 0.15 GiB."""
_REMEDY: Final = "give the folder of a saved router, or train and save it again"


def read_json(
    path: Path, *, kind: str | None = None, version: int | None = None, remedy: str = _REMEDY
) -> dict[str, Any]:
    """The JSON object in `path`, its size, `kind` and `format` checked. Raises ConfigError naming file and remedy."""
    with reading(path, remedy, ValueError, RecursionError):
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise ConfigError(f"{path}: has {size:,} bytes, more than {MAX_JSON_BYTES:,}; {remedy}")
        body = json.loads(path.read_text("utf-8"))
    if not isinstance(body, dict):
        raise ConfigError(f"{path}: must hold a JSON object, got {type(body).__name__}; {remedy}")
    if kind is not None and body.get("kind") != kind:
        raise ConfigError(f"{path}: kind is {body.get('kind')!r}, not {kind!r}; {remedy}")
    if version is not None and (found := body.get("format")) != version:
        newer = isinstance(found, int) and found > version
        fix = "it is of a newer version of jethro: run that one, or " if newer else ""
        raise ConfigError(f"{path}: format is {found!r}, this version reads {version}; {fix}{remedy}")
    return body


def check_folder(folder: Path) -> None:
    """Refuse a folder that no router of ours would have saved. Raises ConfigError naming the file and what to do."""
    root = folder.resolve()
    files = sorted(folder.rglob("*"))
    if len(files) > MAX_FILES:
        raise ConfigError(f"{folder}: holds more than {MAX_FILES} files; give the folder of one saved router")
    for file in files:
        try:
            inside = file.resolve(strict=True).is_relative_to(root)
            status = file.stat()
        except (OSError, RuntimeError) as e:
            raise ConfigError(f"{file}: cannot be read ({e}); save the router again") from e
        if not inside:
            raise ConfigError(f"{file}: links to outside its folder; put the file itself there")
        if not stat.S_ISDIR(status.st_mode):
            _check_file(file, status)


def _check_file(file: Path, status: Any) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{file}: is not a regular file; save the router again")
    limit = MAX_JSON_BYTES if file.suffix == ".json" else MAX_FILE_BYTES
    if status.st_size > limit:
        raise ConfigError(f"{file}: has {status.st_size:,} bytes, more than {limit:,}; save the router again")
    if file.suffix == ".npz" and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as arrays:
            unpacked = sum(entry.file_size for entry in arrays.infolist())
        if unpacked > MAX_ARRAYS_BYTES:
            raise ConfigError(f"{file}: unpacks to {unpacked:,} bytes, more than {MAX_ARRAYS_BYTES:,}; save it again")
