"""Requests of which nothing may be kept: whether this task works for one, and whether this process does.

Log lines ask here: what an error says may quote the request it failed on. A task knows for whom it works; a thread that
serves many requests does not, so that it keeps to the stricter form while any such request is open. Of other requests
log lines quote nothing either unless `log.content` is set: from the first request on, errors are logged without texts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Self

HEADER: Final = "x-jethro-unrecorded"
"""By which a Gateway informs a replica."""

_CURRENT: Final[ContextVar[bool]] = ContextVar("jethro_unrecorded", default=False)
_OPEN: Final = [0, 0]
"""Such requests that are open in this process, and those that ever were."""
_ANY: Final = [False]
"""Whether this process has worked for any request at all."""


@contextmanager
def unrecorded(required: bool = True) -> Iterator[None]:
    """The body works for a request of which nothing may be kept, and so do the tasks that it starts, if `required`."""
    _ANY[0] = True
    if not required:
        yield
        return
    token = _CURRENT.set(True)
    _OPEN[0] += 1
    _OPEN[1] += 1
    try:
        yield
    finally:
        _OPEN[0] -= 1
        _CURRENT.reset(token)


class Undecided:
    """Context of a request whose privacy class is not known yet: until `decide` it is treated as the strictest."""

    def __enter__(self) -> Self:
        _ANY[0] = True
        self._token = _CURRENT.set(True)
        self._counted = False
        return self

    def decide(self, required: bool) -> None:
        """The class is known; `required`: nothing may be kept."""
        _CURRENT.set(required)
        if required and not self._counted:
            self._counted = True
            _OPEN[0] += 1
            _OPEN[1] += 1

    def __exit__(self, *failure: object) -> None:
        _CURRENT.reset(self._token)
        _OPEN[0] -= self._counted


def is_unrecorded() -> bool:
    """Whether the current task works for such a request."""
    return _CURRENT.get()


def any_open() -> bool:
    """Whether the process works for one now."""
    return _OPEN[0] > 0


def any_ever() -> bool:
    """Whether the process ever worked for one: what is collected later may still hold its content."""
    return _OPEN[1] > 0


def note_content() -> None:
    """This process receives texts of requests from now on, by another way than a request of its own."""
    _ANY[0] = True


def any_content() -> bool:
    """Whether the process ever worked for a request: an error that it raises now may quote one."""
    return _ANY[0]
