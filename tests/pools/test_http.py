"""HttpPool over real replica apps on localhost: pass-through, retries before the first byte, cancellation."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
import uvicorn

from serve_app.engines.app import ReplicaApp, build_replica_app
from serve_app.errors import ContextLengthExceeded, Overloaded, PoolUnavailable, UpstreamError
from serve_app.pools.directory import Directory, ReplicaReport
from serve_app.pools.http import HttpPool, UpstreamOptions
from serve_app.pools.scrape import scrape
from serve_app.pools.upstream import Backoff, Timeouts
from serve_app.types import Capabilities, Message, Price, Query, Sampling, Usage
from serve_app.wire.frames import Call
from tests.fakes import FakeEngine

CALL = Call(id="abc", request_id="r1", created_s=1_700_000_000)


class Replica:
    """A replica app with its fake engine on a port of its own."""

    def __init__(self, **options: object) -> None:
        self.engine = FakeEngine(**options)  # type: ignore[arg-type]
        self.app: ReplicaApp = build_replica_app(self.engine, secret="s3cret", max_ongoing=4, max_queued=0)
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.server = _Server(uvicorn.Config(self.app, log_config=None, lifespan="off", loop="none"))
        self.task = asyncio.get_running_loop().create_task(self.server.serve([self.listener]))

    async def kill(self) -> None:
        """As a killed process: the port closes and open connections break."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        for server in self.server.servers:
            server.close()
        for connection in list(self.server.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]
        self.listener.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def running(*replicas: Replica, wait_s: float = 0.0) -> AsyncIterator[HttpPool]:
    directory = Directory("small", wait_s=wait_s)
    directory.update([ReplicaReport(r.address) for r in replicas])
    options = UpstreamOptions(
        "fake", {"authorization": "Bearer s3cret"}, Timeouts(1, 5, 5), Backoff(retries=4, base_s=0.01)
    )
    pool = HttpPool("small", "fake", directory, options, price=Price(), capabilities=Capabilities())
    for replica in replicas:
        while not replica.server.started:
            await asyncio.sleep(0.005)
    try:
        yield pool
    finally:
        await pool.aclose()
        for replica in replicas:
            await replica.kill()


def query(text: str = "hello", **sampling: object) -> Query:
    return Query((Message("user", text),), Sampling(**sampling))  # type: ignore[arg-type]


async def told(pool: HttpPool, q: Query) -> str:
    async with aclosing(pool.stream(q, CALL)) as frames:
        events = [e async for frame in frames for e in frame.events]
    assert {e["id"] for e in events} == {"chatcmpl-abc"}
    assert {e["created"] for e in events} == {1_700_000_000}
    assert events[-1]["usage"]["completion_tokens"] == len(q.text)
    return "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])


async def test_streams_and_answers_pass_through() -> None:
    async with running(Replica()) as pool:
        assert await told(pool, query()) == "hello"
        answer = await pool.complete(query("abc"), CALL)
        assert answer.parsed["choices"][0]["message"]["content"] == "abc"
        assert answer.usage.completion_tokens == 3
        assert pool.load().in_flight == 0


async def test_a_replica_counts_the_tokens_of_a_prompt() -> None:
    dead, alive = Replica(), Replica()
    async with running(dead, alive) as pool:
        await dead.kill()
        assert [await pool.count_tokens(query(), CALL) for _ in range(4)] == [6] * 4
        assert pool.load().in_flight == 0 and not alive.engine.queries


async def test_a_dead_replica_is_replaced_before_the_first_byte() -> None:
    dead, alive = Replica(), Replica()
    async with running(dead, alive) as pool:
        await dead.kill()
        assert [await told(pool, query()) for _ in range(6)] == ["hello"] * 6
        assert (await pool.complete(query(), CALL)).usage == Usage(6, 5)
        assert [m.address for m in pool.directory.available] == [alive.address]


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """The address of a replica that was stopped: the kernel takes connections, and nothing is answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


async def test_requests_at_a_replica_that_stops_answering_move_to_another() -> None:
    async with silent() as hung, running(Replica()) as pool:
        known = [ReplicaReport(hung), *(m.report for m in pool.directory.members)]
        pool.directory.update(known)
        asked = [asyncio.ensure_future(told(pool, query())) for _ in range(8)]
        await asyncio.sleep(0.2)
        assert pool.directory.members[0].waiting, "some wait there"
        watching = asyncio.ensure_future(pool.watch())
        async with asyncio.timeout(10):
            assert await asyncio.gather(*asked) == ["hello"] * 8
        assert pool.retries["slow"] >= 1
        assert pool.load().replicas == 1 and pool.load().answers
        watching.cancel()


async def test_a_pool_answers_once_its_replica_has_and_no_more_when_it_is_killed() -> None:
    replica = Replica()
    async with running(replica) as pool:
        assert not pool.load().answers
        watching = asyncio.ensure_future(pool.watch())
        async with asyncio.timeout(10):
            while not pool.load().answers:
                await asyncio.sleep(0.02)
            await replica.kill()
            while pool.load().answers:
                await asyncio.sleep(0.02)
        watching.cancel()


async def test_a_crash_before_the_first_byte_is_retried_elsewhere() -> None:
    broken, sound = Replica(fail_after=0), Replica()
    async with running(broken, sound) as pool:
        assert [await told(pool, query()) for _ in range(40)] == ["hello"] * 40  # each begins at either of them
        assert set(pool.retries) == {"failed"}


async def test_a_crash_after_the_first_byte_is_the_callers() -> None:
    async with running(Replica(fail_after=2, delay_s=0.02)) as pool:
        with pytest.raises(UpstreamError):
            await told(pool, query())
        assert pool.load().in_flight == 0


async def test_a_draining_replica_is_left_and_finishes_what_it_has() -> None:
    gate = asyncio.Event()
    leaving, staying = Replica(gate=gate), Replica()
    async with running(leaving) as pool:
        open_one = asyncio.create_task(told(pool, query()))
        while not leaving.engine.running:
            await asyncio.sleep(0.005)
        draining = asyncio.create_task(leaving.app.drain(5.0))
        pool.directory.update([ReplicaReport(leaving.address), ReplicaReport(staying.address)])
        while not staying.server.started:
            await asyncio.sleep(0.005)
        assert [await told(pool, query("other")) for _ in range(4)] == ["other"] * 4
        gate.set()
        assert await open_one == "hello"
        assert await draining is True
        await staying.kill()


async def test_full_replicas_give_overloaded_with_a_time_to_wait() -> None:
    gate = asyncio.Event()
    full = Replica(gate=gate)
    async with running(full) as pool:
        held = [asyncio.create_task(told(pool, query())) for _ in range(4)]
        while full.engine.running < 4:
            await asyncio.sleep(0.005)
        with pytest.raises(Overloaded) as caught:
            await pool.complete(query(), CALL)
        assert caught.value.retry_after_s
        gate.set()
        assert await asyncio.gather(*held) == ["hello"] * 4


async def test_the_callers_mistake_is_not_retried() -> None:
    one, two = Replica(), Replica()
    async with running(one, two) as pool:
        with pytest.raises(ContextLengthExceeded):
            await pool.complete(query("x" * 5000), CALL)
        assert len(one.engine.queries) + len(two.engine.queries) == 1
        assert len(pool.directory.available) == 2 and not pool.retries


async def test_dropping_the_iterator_stops_the_engine() -> None:
    replica = Replica(delay_s=0.02)
    async with running(replica) as pool:
        async with aclosing(pool.stream(query("a" * 500), CALL)) as frames:
            await anext(frames)
        async with asyncio.timeout(2):
            while replica.engine.running:
                await asyncio.sleep(0.005)
        assert replica.engine.cancelled == 1
        assert pool.load().in_flight == 0


async def test_cancelling_a_one_shot_stops_the_engine() -> None:
    replica = Replica(delay_s=0.02)
    async with running(replica) as pool:
        asking = asyncio.create_task(pool.complete(query("a" * 500), CALL))
        while not replica.engine.running:
            await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(2):
            while replica.engine.running:
                await asyncio.sleep(0.005)
        assert pool.load().in_flight == 0


async def test_with_nobody_there_it_waits_only_if_it_may() -> None:
    late = Replica()
    async with running(wait_s=5.0) as pool:
        with pytest.raises(PoolUnavailable):
            await pool.complete(query(), Call("a", "b", 1, may_wait=False))
        asking = asyncio.create_task(pool.complete(query(), CALL))
        await asyncio.sleep(0.05)
        while not late.server.started:
            await asyncio.sleep(0.005)
        pool.directory.update([ReplicaReport(late.address)])
        assert (await asking).usage.completion_tokens == 5
        await late.kill()


async def test_metrics_of_all_replicas_are_merged_with_labels() -> None:
    one, two = Replica(), Replica()
    async with running(one, two) as pool:
        text = await scrape([pool])
    assert text.count("# TYPE fake_running") == 1
    for replica in (one, two):
        assert f'fake_running{{pool="small",replica="{replica.address}"}} 0.0' in text


async def test_long_metrics_are_read_whole_and_resting_replicas_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica()
    lines = "".join(f'fake_figure{{n="{i}"}} {i}\n' for i in range(20_000))  # several packets
    monkeypatch.setattr(replica.engine, "metrics", lambda: lines)
    async with running(replica) as pool:
        pool.directory.failed(pool.directory.members[0])
        assert not pool.directory.available
        text = await scrape([pool])
    assert text.count("\nfake_figure{") == 20_000


async def test_a_query_that_the_engine_cannot_take_does_not_keep_others_out() -> None:
    def script(asked: Query, index: int) -> list[str]:
        if asked.messages[-1].content == "poison":
            raise RuntimeError("no such token")
        return list(asked.messages[-1].content)

    async with running(Replica(script=script)) as pool:  # tried again as long as the back-off allows
        with pytest.raises(UpstreamError, match="log"):
            await pool.complete(query("poison"), CALL)
        assert (await pool.complete(query("abc"), CALL)).usage.completion_tokens == 3
