"""The forms of a path that clients send for one route.

A base URL is configured with or without `/v1` and with or without a slash at its end, and clients add `/v1` or not. All
forms mean the same route, and the keys are checked for that one.
"""

import re
from collections.abc import Iterable

from starlette.types import Scope

_PREFIX = "/v1"
_SLASHES = re.compile("//+")
_LONGEST = 4096
_ONE_FORM = ("/v1/admin", "/console", "/docs")
_LENIENT = frozenset({"GET", "HEAD", "OPTIONS", "POST"})


class Paths:
    """Maps what was sent to a path of ours. `known`: the routes' paths, as Starlette or OpenAPI writes them."""

    def __init__(self, known: Iterable[str]) -> None:
        known = tuple(known)
        self._roots = {_root(path) for path in known if not path.startswith(f"{_PREFIX}/")}
        versioned = {_root(path[len(_PREFIX) :]) for path in known if path.startswith(f"{_PREFIX}/")}
        self._versioned = versioned - self._roots - {"admin"}

    def canonical(self, path: str, method: str) -> str:
        """The path of the route; what is no form of any stays as it is.

        The operator's routes have their one form: nothing else may lead to them. So has what changes or deletes: with
        an empty id, which a slash at the end may be, all would be meant instead of one. And so have pages, whose links
        are relative.
        """
        if len(path) > _LONGEST or method not in _LENIENT:
            return path
        found = _SLASHES.sub("/", path).rstrip("/") or "/"
        while found.startswith("/v1/v1/"):
            found = found[len(_PREFIX) :]
        if _root(found) in self._versioned:
            found = _PREFIX + found
        return path if found.startswith(_ONE_FORM) else found


def _root(path: str) -> str:
    """The first segment."""
    return path.split("/", 2)[1] if path.startswith("/") else ""


def rewrite(scope: Scope, before: str, after: str) -> None:
    """Put a path of ours into the request's scope, below the path at which the application is mounted."""
    mounted = scope["path"].removesuffix(before)
    scope["path"] = mounted + after
    scope["raw_path"] = scope["path"].encode("utf-8", "surrogateescape")
