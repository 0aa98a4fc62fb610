"""HttpPool over somebody else's servers: who is blamed for what, and who is asked again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from time import monotonic

import pytest

from serve_app.errors import ContextLengthExceeded, DeadlineExceeded, Overloaded, UpstreamError
from serve_app.pools.client_session import Proxy
from serve_app.pools.directory import Directory
from serve_app.pools.http import HttpPool, UpstreamOptions
from serve_app.pools.upstream import Backoff, Timeouts
from serve_app.types import Capabilities, Message, Price, Query, Usage
from serve_app.wire.frames import Call
from tests.pools.upstream_server import END, Hold, Pause, Reset, answer, event, fake_upstream, head, piece, unused_url

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


async def test_a_remote_counts_no_tokens() -> None:
    async with fake_upstream(WHOLE) as server, remote(server.base_url) as pool:
        assert await pool.count_tokens(query(), CALL) is None
        assert not server.requests


async def test_a_remote_that_has_nobody_for_a_while_is_asked_again() -> None:
    nobody = answer({"error": {"message": "none there", "code": "pool_unavailable"}}, 503)
    async with fake_upstream(nobody, WHOLE) as server, remote(server.base_url) as pool:
        assert (await pool.complete(query(), CALL)).usage == Usage(1, 2)
        assert pool.load().replicas == 1


@pytest.mark.parametrize(
    ("status", "answers"),
    [(200, True), (404, True), (429, True), (501, True), (401, False), (403, False), (500, False), (503, False)],
)
async def test_a_probe_tells_whether_an_upstream_answers(status: int, answers: bool) -> None:
    """Without traffic nothing else would: a refusal other than of the key is an answer as well."""
    async with fake_upstream(answer({}, status)) as server, remote(f"{server.base_url}?api-version=1") as pool:
        assert not pool.load().answers, "nothing is known yet"
        watching = asyncio.ensure_future(pool.watch())
        async with asyncio.timeout(5):
            while not server.requests:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        watching.cancel()
        assert pool.load().answers is answers and (pool.load().fault is None) is answers
        assert answers or f"status {status}" in str(pool.load().fault)
        assert server.requests[0].path.endswith("/models?api-version=1")


async def test_an_upstream_that_cannot_be_reached_does_not_answer() -> None:
    async with remote(unused_url()) as pool:
        watching = asyncio.ensure_future(pool.watch())
        with pytest.raises(UpstreamError):
            await pool.complete(query(), CALL)
        await asyncio.sleep(0.1)
        watching.cancel()
        assert not pool.load().answers and pool.load().fault == "cannot be reached"


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
        assert len(pool.directory.members[0].failing) == 0
        with pytest.raises(UpstreamError, match="answer") as raised:
            await pool.complete(query(), Call("a", "b", 1, deadline_s=monotonic() + 60, may_wait=False))
        assert (raised.value.status, raised.value.code) == (504, "upstream_timeout")
        assert len(pool.directory.members[0].failing) == 1


async def test_streams_that_break_together_are_no_reason_to_leave_the_only_member() -> None:
    first = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    async with fake_upstream([head(), piece(event(first)), Pause, Reset]) as server, remote(server.base_url) as pool:
        told = await asyncio.gather(*(drained(pool) for _ in range(8)))
        assert all(isinstance(error, UpstreamError) for error in told)
        assert len(pool.directory.members[0].failing) == 8
        assert pool.load().replicas == 1


async def test_the_only_member_is_left_alone_while_it_refuses_connections_and_for_a_second_at_most() -> None:
    async with remote(unused_url()) as pool:
        member = pool.directory.members[0]
        for failures in (1, 2):
            with pytest.raises(UpstreamError, match="reached"):
                await pool.complete(query(), CALL)
            assert member.failures == failures, "a request counts once, whatever its tries"
        assert pool.load().replicas == 0
        assert member.down_until - monotonic() <= 1.0


async def test_two_retries_are_three_tries() -> None:
    page = [head(200, "text/html"), piece(b"<html>"), END]
    async with fake_upstream(page) as server, remote(server.base_url) as pool:
        with pytest.raises(UpstreamError, match="expected"):
            await pool.complete(query(), CALL)
        assert len(server.requests) == 3 and pool.retries == {"failed": 2}
        assert pool.load().replicas == 1 and len(pool.directory.members[0].failing) == 1


async def test_a_member_that_mostly_fails_is_left_for_one_that_does_not() -> None:
    odd = [head(200, "text/html"), piece(b"<html>"), END]
    async with fake_upstream(odd) as one, fake_upstream(WHOLE) as two, remote(one.base_url, two.base_url) as pool:
        while pool.load().replicas == 2:
            assert (await pool.complete(query(), CALL)).usage == Usage(1, 2)
            assert len(one.requests) < 6
        assert len(one.requests) == 5
        assert [m.address for m in pool.directory.available] == [two.base_url]


async def test_what_is_sent_to_a_server_of_somebody_else() -> None:
    async with fake_upstream(WHOLE) as server, remote(f"{server.base_url}?api-version=1") as pool:
        await pool.complete(query(), CALL)
    [request] = server.requests
    assert request.path == "/v1/chat/completions?api-version=1"
    assert request.headers["user-agent"].startswith("jethro/")
    assert (request.headers["accept"], request.headers["accept-encoding"]) == ("application/json", "identity")


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


async def test_a_proxy_is_used_only_if_the_config_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", unused_url())
    monkeypatch.setenv("http_proxy", unused_url())
    async with fake_upstream(WHOLE) as server:
        async with remote(server.base_url) as pool:
            await pool.complete(query(), CALL)
        assert server.requests[-1].path == "/v1/chat/completions"
        proxy = Proxy(server.base_url.removesuffix("/v1"), "me", "s3cret")
        wire = UpstreamOptions("m", {}, Timeouts(1, 5, 5), identify=False, proxy=proxy)
        far = Directory.fixed("r", ["http://far.invalid/v1"])
        pool = HttpPool("r", "m", far, wire, price=Price(), capabilities=Capabilities())
        try:
            await pool.complete(query(), CALL)
        finally:
            await pool.aclose()
    assert server.requests[-1].path == "http://far.invalid/v1/chat/completions"
    assert server.requests[-1].headers["proxy-authorization"].startswith("Basic ")
    assert "s3cret" not in repr(proxy)
