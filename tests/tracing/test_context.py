"""W3C trace context: a caller's is continued, sampled as it says; what is passed on, to replicas and to others."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from serve_app.pools.directory import Directory, ReplicaReport
from serve_app.tracing.names import provider_of
from tests.api.fakes import sse
from tests.pools.upstream_server import answer, fake_upstream
from tests.pools.upstream_server import stream as events_of
from tests.tracing.test_requests import BOTH, called
from tests.tracing.world import World, pool_of, world

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
HEADER = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")


@pytest.fixture
async def rare(tmp_path: Path) -> AsyncIterator[World]:
    """Nothing is sampled but what a caller samples."""
    async with world(tmp_path, sample=0.0) as found:
        yield found


@BOTH
async def test_a_callers_trace_is_continued(rare: World, stream: bool) -> None:
    headers = {"traceparent": SAMPLED, "tracestate": "vendor=1,other=x"}
    response = await rare.ask("cascade", stream=stream, headers=headers)
    assert response.status_code == 200
    (root,) = await rare.roots()
    assert root.side == "gateway" and root.span.parent is not None
    assert f"{root.span.parent.span_id:016x}" == SPAN and f"{root.span.context.trace_id:032x}" == TRACE
    assert called("small") in [child.outline for child in root.children]
    for one in root.below:
        assert one.span.context.trace_state.to_header() == "vendor=1,other=x"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": UNSAMPLED},
        {"traceparent": SAMPLED.replace("00-", "ff-")},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
        {"traceparent": "canary"},
        {"traceparent": SAMPLED + "x" * 2000},
        [("traceparent", SAMPLED), ("traceparent", SAMPLED)],
    ],
)
async def test_without_a_sampled_parent_the_ratio_decides(rare: World, headers: object) -> None:
    assert (await rare.ask("route", headers=headers)).status_code == 200
    assert await rare.roots() == []


async def test_a_caller_who_does_not_sample_is_followed_too(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("route", headers={"traceparent": UNSAMPLED})
        assert await made.roots() == []


async def test_callers_may_be_left_unfollowed(tmp_path: Path) -> None:
    async with world(tmp_path, sample=0.0, follow=False) as made:
        await made.ask("route", headers={"traceparent": SAMPLED})
        assert await made.roots() == []
    async with world(tmp_path, sample=1.0, follow=False) as made:
        await made.ask("route", headers={"traceparent": SAMPLED})
        root = await made.root()
        assert root.span.parent is None and f"{root.span.context.trace_id:032x}" != TRACE


@BOTH
@pytest.mark.parametrize("sample", [0.0, 1.0])
async def test_another_server_receives_the_context_of_its_call(tmp_path: Path, sample: float, stream: bool) -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": "x"}, "delta": {"content": "x"}}
    body = {"id": "c", "model": "theirs-1", "choices": [choice], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}
    script = events_of(sse(body)) if stream else answer(body)
    async with fake_upstream(script) as upstream, world(tmp_path, sample=sample) as made:
        found = pool_of("small", [upstream.base_url], identify=False)
        directory = Directory.fixed("small", [upstream.base_url])
        directory.update([ReplicaReport(upstream.base_url)])
        made.pools["small"].directory = directory
        made.pools["small"].options, made.pools["small"]._session = found.options, found._session
        headers = {"tracestate": "vendor=1", "traceparent": SAMPLED if sample else UNSAMPLED, "baggage": "canary=1"}
        response = await made.ask("direct-small", stream=stream, headers=headers)
        assert response.status_code == 200, response.text
        (sent,) = upstream.requests
        assert HEADER.fullmatch(sent.headers["traceparent"])
        assert sent.headers["tracestate"] == "vendor=1" and "baggage" not in sent.headers
        roots = await made.roots()
        if not sample:
            assert roots == [] and re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-00", sent.headers["traceparent"])
            return
        (call,) = [one for one in roots[0].below if one.kind == "client"]
        assert sent.headers["traceparent"] == f"00-{TRACE}-{call.span.context.span_id:016x}-01"
        assert call["gen_ai.provider.name"] == "openai" and call["gen_ai.response.model"] == "theirs-1"
        assert orjson.loads(sent.body)["model"] == "m-small"


@pytest.mark.parametrize(
    ("address", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1?api-version=1", "azure.ai.openai"),
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://notmistral.ai/v1", "openai"),
        ("http://10.0.0.7:8000/v1", "openai"),
    ],
)
def test_a_provider_is_known_by_its_host(address: str, provider: str) -> None:
    assert provider_of(address) == provider
