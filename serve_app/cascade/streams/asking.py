"""How the Learner is asked: for so long, and by a task that outlives a call that is cancelled under it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from serve_app.replies import reply

T = TypeVar("T")


async def asked(call: Coroutine[Any, Any, T], limit_s: float) -> T:
    """What a call of LearnerPort gives. Raises TimeoutError, or whatever a Learner that is away raises.

    See `reply`: what follows the Learner and sends it events lives as long as its Gateway.
    """
    async with asyncio.timeout(limit_s):
        return await reply(call)
