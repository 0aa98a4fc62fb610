"""The console's files, read once into memory: their paths, types, validators and headers.

A request names a file by a key of a fixed table, so that no path of a caller ever reaches the file system. The page is
static and holds no secret: it asks the API for everything, with the key that its user types.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

PAGE: Final = "/console"
"""The path of the page; its files are below it."""
_INDEX: Final = "index.html"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Other files of the folder, such as licences, are not served."""
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Only files of this endpoint run or are shown, and no text can become script: not even by a mistake of the page."""
HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-cache",  # the browser keeps it, and checks its ETag each time
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent. `etag` is of its bytes, quoted as in the header."""

    body: bytes
    media_type: str
    etag: str

    def is_held_by(self, if_none_match: str) -> bool:
        """Whether a request's If-None-Match names these bytes, by a strong or a weak validator, or any."""
        held = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
        return self.etag in held or "*" in held


@cache
def assets() -> Mapping[str, Asset]:
    """Every file of the console by the path at which it is served."""
    root = resources.files(__package__).joinpath("static")
    found = {f"{PAGE}/{name}": _read(file, name) for name, file in _files(root)}
    return {PAGE: found.pop(f"{PAGE}/{_INDEX}"), **found}


def _files(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            yield from _files(entry, f"{above}{entry.name}/")
        elif _suffix(entry.name) in _TYPES:
            yield above + entry.name, entry


def _read(file: Traversable, name: str) -> Asset:
    body = file.read_bytes()
    return Asset(body, _TYPES[_suffix(name)], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _suffix(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""
