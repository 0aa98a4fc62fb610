"""References to routers, in every command, config key and artefact: NAME, NAME@VERSION, FOLDER, FOLDER@VERSION.

Without a version NAME means the version that serves, and FOLDER whatever it holds. `pinned` adds the version, which is
a hash of the router: what was fitted on its scores can then be served with them, and with no others.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from serve_app.errors import ConfigError
from serve_app.routing.artefact import Registered
from serve_app.routing.base import Placement
from serve_app.routing.registry import Registry, load_router

_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def split_reference(reference: str) -> tuple[str, str | None]:
    """The name or folder, and the version or None. Raises ConfigError for `NAME@` without a version."""
    source, at, version = reference.rpartition("@")
    if not at or Path(reference).is_dir():
        return reference, None
    if not source or not _VERSION.fullmatch(version):
        raise ConfigError(f"router {reference!r}: write NAME, NAME@VERSION, or the folder of a saved router")
    return source, version


def open_reference(registry: Registry, reference: str, *, remote: Collection[Placement] = ()) -> Registered:
    """The router that a reference means; those placed in `remote` stay on the disk, see `Registry.load`.

    Raises ConfigError naming the routers that exist, the versions of the one named, or what the folder holds instead.
    """
    source, version = split_reference(reference)
    if source in registry.names():
        found = registry.load(source, version, remote=remote)
    elif Path(source).is_dir():
        found = load_router(source, remote=remote)
    else:
        raise ConfigError(
            f"no router {source!r}: {registry.folder} and the package have {', '.join(registry.names())}; give one of "
            "them, NAME@VERSION, or the folder of a saved router"
        )
    if version is not None and found.version != version:
        raise ConfigError(
            f"router {reference}: {source} is {found.version}, not {version}; put that version there, or fit again "
            "what needs it"
        )
    return found


def pinned(registry: Registry, reference: str, found: Registered) -> str:
    """The reference with its version; a folder of the registry becomes NAME@VERSION, which can be served anywhere."""
    source, _ = split_reference(reference)
    if source not in registry.names():
        folder = Path(source).resolve()
        inside = folder.parent.parent == registry.folder.resolve() and folder.name == found.version
        source = folder.parent.name if inside else str(Path(source).absolute())  # the endpoint runs elsewhere
    return f"{source}@{found.version}"
