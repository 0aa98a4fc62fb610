"""Cleaning up that is not cut short when its request is cancelled again.

A caller who leaves is seen twice, by the server and by the request's own watch, and each cancels the request's task:
the second one while what the first ended is being closed. Whoever has several calls to close must close them all.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Give what `work` gives, and raise what it raises; a cancellation meanwhile is raised when it has ended."""
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as again:
            cancelled = again
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # seen, so that the loop does not report it as lost
    raise cancelled
