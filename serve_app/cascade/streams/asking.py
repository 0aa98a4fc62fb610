"""How the Learner is asked: for so long, and by a task that outlives a call that is cancelled under it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def asked(call: Coroutine[Any, Any, T], limit_s: float) -> T:
    """What a call of LearnerPort gives.

    Raises TimeoutError, ConnectionError for a call that somebody else cancelled (Ray does, where it gives a call up),
    or whatever a Learner that is away raises. CancelledError is raised only where the caller itself is to end: what
    follows the Learner and sends it events lives as long as its Gateway.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await call
    except asyncio.CancelledError as e:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the call of the Learner was cancelled") from e
