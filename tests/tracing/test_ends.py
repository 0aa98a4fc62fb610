"""Every span ends, with the right status: failures, retries, fallbacks, deadlines, and callers who leave."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import ContextLengthExceeded, UpstreamError
from serve_app.pools.directory import Directory, ReplicaReport
from tests.api.fakes import config
from tests.pools.test_http import Replica
from tests.pools.upstream_server import unused_url
from tests.tracing.test_requests import BOTH, POST
from tests.tracing.world import CHAT, Seen, World, world


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as found:
        yield found


def calls_of(root: Seen) -> list[Seen]:
    return [one for one in root.below if one.kind == "client"]


def failing(replica: Replica, error: Exception, after: int = 0) -> None:
    replica.engine.error, replica.engine.fail_after = error, after


@BOTH
@pytest.mark.parametrize("error", [UpstreamError("the word is canary"), RuntimeError("canary")])
async def test_a_fallback_shows_the_call_that_failed(made: World, error: Exception, stream: bool) -> None:
    failing(made.replicas["small"], error)
    assert (await made.ask("route", stream=stream)).status_code == 200
    root = await made.root()
    assert not root.failed and root["jethro.pool"] == "large" and root["jethro.calls"] == 2
    small, large = calls_of(root)
    assert (small["jethro.pool"], large["jethro.pool"]) == ("small", "large")
    assert small.failed and small["error.type"] == "upstream_error" and not large.failed
    assert [event.name for event in small.span.events] == ["jethro.attempt_failed"] * len(small.span.events)
    assert small.span.events
    for served in small.children:  # each try is a request to the replica
        assert served.failed and served["http.response.status_code"] == 502
        (engine,) = served.children
        assert engine.failed
    assert "canary" not in str([one.span.to_json() for one in (root, *root.below)])


@BOTH
async def test_a_retry_at_another_replica_is_an_event_of_the_call(made: World, stream: bool) -> None:
    away = unused_url()
    directory = Directory("small")
    directory.update([ReplicaReport(f"{away}/v1"), ReplicaReport(made.replicas["small"].address)])
    directory.rng.seed(1)
    made.pools["small"].directory = directory
    for _ in range(8):
        assert (await made.ask("direct-small", stream=stream)).status_code == 200
    roots = await made.roots()
    events = [event for root in roots for event in calls_of(root)[0].span.events]
    assert 1 <= len(events) <= 8
    for event in events:
        assert event.name == "jethro.attempt_failed" and event.attributes["jethro.error"] == "NoConnection"
        assert f"{event.attributes['server.address']}:{event.attributes['server.port']}" in away
    assert not any(one.failed for root in roots for one in (root, *root.below))


@BOTH
async def test_a_fault_of_the_request_is_no_failure_of_ours(made: World, stream: bool) -> None:
    failing(made.replicas["small"], ContextLengthExceeded("canary is too long"))
    assert (await made.ask("direct-small", stream=stream)).status_code == 400
    root = await made.root()
    assert (root["http.response.status_code"], root["error.type"]) == (400, "context_length_exceeded")
    (call,) = calls_of(root)
    assert not root.failed and call.failed and call["error.type"] == "context_length_exceeded"
    (served,) = call.children
    assert not served.failed and served["http.response.status_code"] == 400


async def test_a_stream_that_breaks_fails_though_its_status_was_sent(made: World) -> None:
    failing(made.replicas["small"], RuntimeError("canary"), after=3)
    made.replicas["small"].engine.delay_s = 0.02
    response = await made.ask("direct-small", stream=True)
    assert response.status_code == 200 and '"error"' in response.text
    root = await made.root()
    assert root.failed and root["jethro.status"] == "failed" and root["http.response.status_code"] == 200
    (call,) = calls_of(root)
    assert call.failed and call.children[0].failed and call.children[0].children[0].failed


async def test_a_request_that_is_refused_has_a_span_alone(made: World) -> None:
    assert (await made.ask("nobody")).status_code == 404
    assert (await made.http.post(CHAT, content=b"{")).status_code == 400
    found = await made.roots()
    assert [(root["http.response.status_code"], root.children, root.failed) for root in found] == [
        (404, [], False),
        (400, [], False),
    ]


@BOTH
async def test_a_deadline_ends_every_span(tmp_path: Path, stream: bool) -> None:
    async with world(tmp_path) as made:
        object.__setattr__(made.services, "config", config(limits={"request_timeout_s": 0.3}))
        made.replicas["small"].engine.gate = asyncio.Event()
        assert (await made.ask("direct-small", stream=stream)).status_code == 504
        root = await made.root()
        assert root.failed and root["http.response.status_code"] == 504 and root["error.type"] == "deadline_exceeded"
        (call,) = calls_of(root)
        assert root["jethro.decision_id"] == call["jethro.decision_id"] is not None
        assert call["jethro.cancelled"] or call["error.type"] == "deadline_exceeded"
        assert [(one["jethro.cancelled"], one.failed) for one in call.below] == [(True, False)] * 2


@pytest.mark.parametrize("model", ["direct-small", "cascade-stream", "ensemble", "orchestrate"])
@BOTH
async def test_a_caller_who_leaves_ends_every_span(made: World, model: str, stream: bool) -> None:
    for replica in made.replicas.values():
        replica.engine.gate = asyncio.Event()
    asking = asyncio.create_task(made.ask(model, stream=stream))
    async with asyncio.timeout(10):
        while not any(replica.engine.running for replica in made.replicas.values()):
            await asyncio.sleep(0.005)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    root = await made.root()
    assert root["jethro.status"] == "cancelled" and root["http.response.status_code"] == 499
    calls = calls_of(root)
    assert calls and all(call["jethro.cancelled"] for call in calls)
    assert not any(one.failed for one in (root, *root.below))
    assert all(call.outline == (call.name, [(POST, [f"generate {call['gen_ai.request.model']}"])]) for call in calls)


async def test_a_reader_who_stops_in_the_middle_ends_every_span(made: World) -> None:
    """Over a socket: the in-process client of the other tests reads whole answers."""
    import socket

    import httpx
    import uvicorn

    from serve_app.api.app import build_app
    from tests.pools.test_http import _Server

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = _Server(uvicorn.Config(build_app(made.services), log_config=None, lifespan="off", loop="none"))
        serving = asyncio.create_task(server.serve([listening]))
        made.replicas["small"].engine.delay_s = 0.1
        said = [{"role": "user", "content": "hi"}]
        body: dict[str, Any] = {"model": "direct-small", "messages": said, "stream": True}
        url = f"http://127.0.0.1:{listening.getsockname()[1]}{CHAT}"
        async with httpx.AsyncClient() as http, http.stream("POST", url, json=body) as response:
            assert response.status_code == 200
            async for _ in response.aiter_bytes():
                break
        root = await made.root()
        server.should_exit = True
        await serving
    assert root["jethro.status"] == "cancelled" and root["jethro.ttft_ms"] > 0
    (call,) = calls_of(root)
    assert call["jethro.cancelled"] and [one["jethro.cancelled"] for one in call.below] == [True, True]


async def test_tools_on_the_server_are_spans(tmp_path: Path) -> None:
    from serve_app.config.orchestration import TaskConfig
    from serve_app.tracing.spans import in_force
    from tests.cascade.fakes import query, run
    from tests.orchestration.fakes import call, orchestration, pool, tool
    from tests.tracing.world import traced

    tracing, collected = traced("gateway", 1.0)
    small = pool("small", call("double", a=4), call("fail", a=1), "8")
    row = TaskConfig.model_validate({"tiers": [{"pool": "small"}], "tools": ["double", "fail"]})
    strategy = orchestration([small], default=row, tools={"double": tool("double"), "fail": tool("fail")})
    span = tracing.request("POST /x", [])
    with in_force(span):
        await run(strategy, query())
    span.end()
    names = [one.name for one in collected.spans]
    assert names == [
        *("decide", "chat m-small", "execute_tool double", "chat m-small", "execute_tool fail", "chat m-small"),
        *("assess", "POST /x"),
    ]
    ran, failed = (one for one in collected.spans if one.name.startswith("execute_tool"))
    assert ran.attributes and ran.attributes["gen_ai.tool.name"] == "double" and ran.status.is_unset
    assert failed.attributes and failed.attributes["error.type"] == "tool_failed" and not failed.status.is_ok
