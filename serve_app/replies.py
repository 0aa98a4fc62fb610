"""What another deployment answers to a call through its handle."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def reply(awaited: Awaitable[T]) -> T:
    """The answer; raises what the call raises, and ConnectionError where it ended with its replica.

    Ray tells the end of a call on the other side as a CancelledError, which would end the task here that asked: a
    request, or one that is to go on for ever. Only a cancellation of that task itself passes.
    """
    try:
        return await awaited
    except asyncio.CancelledError as e:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the replica stopped while it was asked") from e
