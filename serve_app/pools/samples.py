"""Several answers of one pool to one query: in one call where the pool takes `n`, else in as many calls."""

import asyncio
from dataclasses import replace

from serve_app.errors import JethroError, RequestError
from serve_app.pools.base import Pool
from serve_app.types import Query
from serve_app.wire.frames import Answer, Call


def refuses_n(error: JethroError) -> bool:
    """Whether a pool takes no `n`, so that each answer needs a call of its own."""
    return isinstance(error, RequestError) and error.param == "n"


def singly(query: Query, call: Call, what: str) -> list[tuple[Query, Call]]:
    """A query for `n` answers as so many queries for one, each with a seed and the name of a call of its own."""
    sampling = query.sampling
    return [
        (
            replace(query, sampling=replace(sampling, n=1, seed=None if sampling.seed is None else sampling.seed + i)),
            replace(call, id=f"{call.id}-{what}{i}"),
        )
        for i in range(sampling.n)
    ]


async def answers_of(pool: Pool, query: Query, call: Call, what: str) -> list[Answer]:
    """`query.sampling.n` answers in one call, or in as many calls. Raises as the pool does."""
    try:
        return [await pool.complete(query, replace(call, id=f"{call.id}-{what}"))]
    except RequestError as error:
        if not refuses_n(error):
            raise
    try:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(pool.complete(one, its_call)) for one, its_call in singly(query, call, what)]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in calls]
