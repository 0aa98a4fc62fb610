"""The client of one address against a real server on localhost that breaks every rule in turn."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.errors import Overloaded, PoolUnavailable, RequestError, UpstreamError
from serve_app.pools.client_session import client_session
from serve_app.pools.replica_session import ReplicaSession
from serve_app.pools.upstream import Timeouts, Upstream
from tests.pools.upstream_server import (
    DONE,
    END,
    Hold,
    Pause,
    Reset,
    answer,
    event,
    fake_upstream,
    head,
    piece,
    stream,
    unused_url,
)

KEY = "very-secret-key"


def said(text: str, finish: str | None = None, **more: object) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more})


FIRST, SECOND, LAST = said("a"), said('says "error" \n'), said("b", usage=None, error=None)


SESSIONS = {"aiohttp": client_session, "replica": ReplicaSession}


@pytest.fixture(params=SESSIONS)
async def session(request) -> AsyncIterator:
    async with contextlib.aclosing(Closing(SESSIONS[request.param]())) as closing:
        yield closing.session


class Closing:
    """aclose for what is closed by an awaited close."""

    def __init__(self, session) -> None:
        self.session = session

    async def aclose(self) -> None:
        await self.session.close()


def client(url, session, **timeouts) -> Upstream:
    return Upstream(url, session=session, headers={"authorization": f"Bearer {KEY}"}, timeouts=Timeouts(**timeouts))


async def read(upstream: Upstream) -> list[bytes]:
    events = await upstream.open_stream("/chat/completions", b"{}", {"x-request-id": "r1"})
    try:
        return [frame.data async for frame in events]
    finally:
        await events.aclose()


async def test_a_stream_passes_through_without_done(session):
    async with fake_upstream(stream(FIRST, SECOND, LAST)) as server:
        buffers = await read(client(server.base_url, session))
    assert b"".join(buffers) == FIRST + SECOND + LAST
    [request] = server.requests
    assert request.path == "/v1/chat/completions" and request.body == b"{}"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert (request.headers["x-request-id"], request.headers["content-type"]) == ("r1", "application/json")


async def test_the_connection_is_used_again(session):
    async with fake_upstream(stream(FIRST)) as server:
        for _ in range(3):
            await read(client(server.base_url, session))
    assert server.connections == 1


async def test_done_in_the_same_buffer_as_the_last_event(session):
    async with fake_upstream([head(), piece(FIRST + LAST + DONE), END]) as server:
        assert await read(client(server.base_url, session)) == [FIRST + LAST]


async def test_a_stream_of_nothing_but_done_is_empty(session):
    async with fake_upstream(stream()) as server:
        assert await read(client(server.base_url, session)) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 200), max_size=8), st.sampled_from([b"\n", b"\r\n"]))
@pytest.mark.parametrize("make", SESSIONS.values(), ids=SESSIONS)
def test_any_byte_boundaries(make, places, line_end):
    whole = (FIRST + b": ping\n\n" + SECOND + LAST + DONE).replace(b"\n", line_end)
    edges = sorted({0, *(p % len(whole) for p in places), len(whole)})
    pieces = [piece(whole[a:b]) for a, b in itertools.pairwise(edges)]

    async def run() -> list[bytes]:
        session = make()
        async with contextlib.aclosing(Closing(session)), fake_upstream([head(), *pieces, END]) as server:
            return await read(client(server.base_url, session))

    buffers = asyncio.run(run())
    assert b"".join(buffers) == FIRST + SECOND + LAST
    assert all(b.endswith(b"\n\n") and b.startswith(b"data:") for b in buffers)


async def test_closing_drops_the_connection_at_once(session):
    async with fake_upstream([head(), piece(FIRST), Hold]) as server:
        events = await client(server.base_url, session).open_stream("/x", b"{}")
        assert (await anext(events)).data == FIRST
        await events.aclose()
        await asyncio.wait_for(server.left.wait(), 5)


@pytest.mark.parametrize("call", ["open_stream", "post"])
async def test_cancelling_before_the_first_byte_drops_the_connection(session, call):
    async with fake_upstream([Hold]) as server:
        task = asyncio.create_task(getattr(client(server.base_url, session), call)("/x", b"{}"))
        while not server.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)


async def test_cancelling_inside_the_stream_drops_the_connection(session):
    async with fake_upstream([head(), piece(FIRST), Hold]) as server:
        task = asyncio.create_task(read(client(server.base_url, session)))
        while not server.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)


async def test_nobody_listens(session):
    url = unused_url()
    for call in (client(url, session).open_stream, client(url, session).post):
        with pytest.raises(UpstreamError, match="reached") as raised:
            await call("/x", b"{}")
        assert raised.value.retryable and f"upstream {url}" in raised.value.__notes__
        assert "127.0.0.1" not in raised.value.message


@pytest.mark.parametrize(
    "script",
    [[Reset], [b"HTTP/1.1 200 OK\r\ncont", Reset], [b"not http at all\r\n\r\n", Reset], [head(), Reset]],
    ids=["at once", "inside the head", "no HTTP", "after the head"],
)
async def test_a_connection_that_breaks_before_the_first_event_may_be_retried(session, script):
    async with fake_upstream(script) as server:
        with pytest.raises(UpstreamError) as raised:
            await client(server.base_url, session).open_stream("/x", b"{}")
    assert raised.value.retryable


@pytest.mark.parametrize("script", [[Hold], [head(), Hold], [head(), piece(b": ping\n\n"), Hold]])
async def test_no_first_event_in_time(session, script):
    async with fake_upstream(script) as server:
        with pytest.raises(UpstreamError, match=r"within 0\.1 s"):
            await client(server.base_url, session, first_byte_s=0.1, idle_s=0.1).open_stream("/x", b"{}")
        await asyncio.wait_for(server.left.wait(), 5)


async def test_a_stream_that_goes_silent(session):
    async with fake_upstream([head(), piece(FIRST), piece(b'data: {"ha'), Hold]) as server:
        events = await client(server.base_url, session, idle_s=0.1).open_stream("/x", b"{}")
        assert (await anext(events)).data == FIRST
        with pytest.raises(UpstreamError, match=r"0\.1 s"):
            await anext(events)
        await asyncio.wait_for(server.left.wait(), 5)


@pytest.mark.parametrize(
    "ending",
    [[Reset], [END], [piece(b'data: {"a'), Reset], [piece(b'data: {"a'), END]],
    ids=["reset", "end without DONE", "reset in an event", "end in an event"],
)
async def test_a_cut_stream_is_told_from_a_whole_one(session, ending):
    async with fake_upstream([head(), piece(FIRST), *ending]) as server:
        events = await client(server.base_url, session).open_stream("/x", b"{}")
        assert (await anext(events)).data == FIRST
        with pytest.raises(UpstreamError):
            await anext(events)


async def test_an_error_event_inside_a_stream(session):
    broken = event({"error": {"message": f"failed for {KEY}", "code": None}})
    async with fake_upstream(stream(FIRST, broken)) as server:
        events = await client(server.base_url, session).open_stream("/x", b"{}")
        assert (await anext(events)).data == FIRST
        with pytest.raises(UpstreamError, match=r"\[hidden\]"):
            await anext(events)


async def test_an_error_event_first_is_an_error_before_the_first_byte(session):
    async with fake_upstream(stream(event({"error": {"message": "full", "code": "overloaded"}}))) as server:
        with pytest.raises(Overloaded, match="full"):
            await client(server.base_url, session).open_stream("/x", b"{}")


@pytest.mark.parametrize("call", ["open_stream", "post"])
async def test_refusals_keep_their_words_and_free_the_connection(session, call):
    refused = answer({"error": {"message": "n is too large", "param": "n", "code": None}}, 400)
    full = answer({"error": {"message": "later", "code": "overloaded"}}, 429, retry_after="7")
    drains = answer({"error": {"message": "stopping"}}, 503, x_jethro_draining="1")
    async with fake_upstream(refused, full, drains) as server:
        ask = getattr(client(server.base_url, session), call)
        with pytest.raises(RequestError, match="n is too large") as raised:
            await ask("/x", b"{}")
        assert (raised.value.status, raised.value.param) == (400, "n")
        with pytest.raises(Overloaded, match="later") as raised:
            await ask("/x", b"{}")
        assert raised.value.retry_after_s == 7
        with pytest.raises(PoolUnavailable):
            await ask("/x", b"{}")


@pytest.mark.parametrize("call", ["open_stream", "post"])
async def test_a_wrong_kind_of_answer(session, call):
    page = [head(200, "text/html"), piece(b"<html>"), END]
    moved = [head(302, "text/event-stream", location="http://elsewhere.invalid/"), END]
    async with fake_upstream(page, moved) as server:
        for _ in range(2):
            with pytest.raises(UpstreamError, match=r"expected|redirect"):
                await getattr(client(server.base_url, session), call)("/x", b"{}")
    assert len(server.requests) == 2


async def test_post_gives_the_whole_body(session):
    body = {"choices": ["x" * 200_000]}
    async with fake_upstream(answer(body), answer(body)) as server:
        first = await client(server.base_url, session).post("/completions", b"{}")
        again = await client(server.base_url, session).post("/completions", b"{}")
    assert first == again and len(first) > 200_000
    assert server.connections == 1


async def test_post_that_breaks_or_stalls_in_the_body(session):
    cut = [head(200, "application/json"), piece(b'{"a'), Reset]
    stalls = [head(200, "application/json"), piece(b'{"a'), Hold]
    async with fake_upstream(cut, stalls) as server:
        upstream = client(server.base_url, session, idle_s=0.1)
        with pytest.raises(UpstreamError):
            await upstream.post("/x", b"{}")
        with pytest.raises(UpstreamError):
            await upstream.post("/x", b"{}")


async def test_blank_lines_while_the_model_works_keep_a_whole_answer_alive(session):
    blank = [Pause, piece(b"\n")]
    script = [head(200, "application/json"), *blank * 6, piece(b'{"a":1}'), END]
    async with fake_upstream(script) as server:
        body = await client(server.base_url, session, idle_s=0.2).post("/x", b"{}")
    assert body.strip() == b'{"a":1}'


@pytest.mark.parametrize("ending", [[END], [Reset]], ids=["long", "cut"])
async def test_a_refusal_keeps_its_status_whatever_its_body(session, ending):
    quoted = piece(b'{"detail":[{"msg":"bad","input":"' + b"x" * 200_000)
    async with fake_upstream([head(422, "application/json"), quoted, *ending]) as server:
        with pytest.raises(RequestError) as raised:
            await client(server.base_url, session).post("/x", b"{}")
    assert not raised.value.retryable


async def test_the_key_is_in_no_repr_and_no_error(session):
    async with fake_upstream(answer({"error": {"message": f"bad key {KEY}"}}, 401)) as server:
        upstream = client(server.base_url, session)
        with pytest.raises(UpstreamError) as raised:
            await upstream.post("/x", b"{}")
    assert KEY not in repr(upstream) + str(raised.value) + repr(raised.value) + "".join(raised.value.__notes__)
