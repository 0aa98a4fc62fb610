"""HttpPool over somebody else's servers: who is blamed for what, and who is asked again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from time import monotonic

import pytest

from serve_app.errors import ContextLengthExceeded, DeadlineExceeded, Overloaded, UpstreamError
from serve_app.pools.directory import Directory
from serve_app.pools.http import HttpPool, UpstreamOptions
from serve_app.pools.upstream import Backoff, Timeouts
from serve_app.types import Capabilities, Message, Price, Query, Usage
from serve_app.wire.frames import Call
from tests.pools.upstream_server import END, Hold, Pause, Reset, answer, event, fake_upstream, head, piece

CALL = Call(id="abc", request_id="r1", created_s=1_700_000_000)


def query() -> Query:
    return Query((Message("user", "hello"),))


@contextlib.asynccontextmanager
async def remote(*urls: str, timeouts: Timeouts | None = None) -> AsyncIterator[HttpPool]:
    wire = UpstreamOptions("m", {}, timeouts or Timeouts(1, 5, 5), Backoff(retries=2, base_s=0.01), identify=False)
    pool = HttpPool("r", "m", Directory.fixed("r", urls), wire, price=Price(), capabilities=Capabilities())
    try:
        yield pool
    finally:
        await pool.aclose()
        assert all(m.in_flight == 0 for m in pool.directory.members)


WHOLE = answer({"choices": [{"index": 0}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})


async def test_a_remote_that_has_nobody_for_a_while_is_asked_again() -> None:
    nobody = answer({"error": {"message": "none there", "code": "pool_unavailable"}}, 503)
    async with fake_upstream(nobody, WHOLE) as server, remote(server.base_url) as pool:
        assert (await pool.complete(query(), CALL)).usage == Usage(1, 2)
        assert pool.load().replicas == 1


async def test_a_full_pool_says_so_at_once() -> None:
    full = answer({"error": {"message": "full", "code": "overloaded"}}, 429, retry_after="4")
    async with fake_upstream(full) as server, remote(server.base_url) as pool, asyncio.timeout(2):
        with pytest.raises(Overloaded):
            await pool.complete(query(), CALL)
    assert len(server.requests) == 1


async def test_an_upstream_is_not_blamed_for_a_short_deadline() -> None:
    limits = Timeouts(1, 0.05, 5)
    async with fake_upstream([Hold]) as server, remote(server.base_url, timeouts=limits) as pool:
        call = Call("a", "b", 1, deadline_s=monotonic() + 0.03)
        with pytest.raises(DeadlineExceeded):
            await pool.complete(query(), call)
        with pytest.raises(DeadlineExceeded):
            await anext(pool.stream(query(), call))
        assert pool.directory.members[0].failures == 0
        with pytest.raises(UpstreamError, match="answer"):
            await pool.complete(query(), Call("a", "b", 1, deadline_s=monotonic() + 60, may_wait=False))
        assert pool.directory.members[0].failures == 1


async def test_streams_that_break_together_are_one_failure_of_the_member() -> None:
    first = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    async with fake_upstream([head(), piece(event(first)), Pause, Reset]) as server, remote(server.base_url) as pool:
        told = await asyncio.gather(*(drained(pool) for _ in range(8)))
        assert all(isinstance(error, UpstreamError) for error in told)
        assert pool.directory.members[0].failures == 1


async def test_a_callers_mistake_told_inside_the_stream_does_not_rest_the_member() -> None:
    first = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    late = event({"error": {"message": "too long", "code": "context_length_exceeded"}})
    script = [head(), piece(event(first)), Pause, piece(late), END]
    async with fake_upstream(script) as server, remote(server.base_url) as pool:
        assert isinstance(await drained(pool), ContextLengthExceeded)
        assert pool.load().replicas == 1


async def test_an_error_with_status_200_is_an_error_and_another_is_asked() -> None:
    broken = answer({"error": {"message": "no credits left", "code": 402}})
    async with fake_upstream(broken, WHOLE) as server, remote(server.base_url) as pool:
        assert (await pool.complete(query(), CALL)).usage == Usage(1, 2)


async def drained(pool: HttpPool) -> Exception | None:
    """The error that ends a stream."""
    try:
        async with aclosing(pool.stream(query(), CALL)) as frames:
            async for _ in frames:
                pass
    except (UpstreamError, ContextLengthExceeded) as error:
        return error
    return None
