"""What callers get of one request to an upstream: the same for the same bytes, however they are cut."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx
import orjson

from serve_app.api.app import build_app
from serve_app.pools.directory import Directory
from serve_app.pools.http import HttpPool, UpstreamOptions
from serve_app.pools.upstream import Backoff, Timeouts
from serve_app.types import Capabilities, Price
from tests.api.fakes import DictStore, services
from tests.pools.odd_upstreams import cuts, playing


@dataclass
class Outcome:
    """What the caller has, and what was recorded."""

    status: int
    text: str = ""
    finishes: list[str] = field(default_factory=list)
    finish_last: bool = True
    error: str | None = None
    code: Any = None
    usage: dict[str, int] | None = None
    done: bool = False
    jethro: int = 0
    stored: tuple[int, int] | None = None
    tries: int = 0
    ejected: bool = False
    repairs: dict[str, int] = field(default_factory=dict)


@asynccontextmanager
async def gateway(*urls: str) -> AsyncIterator[tuple[httpx.AsyncClient, HttpPool, DictStore]]:
    """A client of the API over one pool of these addresses."""
    options = UpstreamOptions("up", {}, Timeouts(20, 20, 20), Backoff(retries=2, base_s=0.001), identify=False)
    can = Capabilities(tools=True)
    pool = HttpPool("small", "up", Directory.fixed("small", urls), options, price=Price(1.0, 2.0), capabilities=can)
    parts = services(small=pool)  # type: ignore[arg-type]
    store = parts.store
    assert isinstance(store, DictStore)
    transport = httpx.ASGITransport(build_app(parts), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://jethro") as client:
        try:
            yield client, pool, store
        finally:
            await pool.aclose()


async def outcome(pieces: Sequence[bytes], stream: bool, pause_s: float = 0.0) -> Outcome:
    """What becomes of one request to an upstream that sends these pieces to every try."""
    body: dict[str, Any] = {"model": "up", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    async with playing(pieces, pause_s) as server, gateway(server.url) as (client, pool, store):
        response = await client.post("/v1/chat/completions", json=body)
        found = read_stream(response) if stream and response.status_code == 200 else read_whole(response)
        [*records] = store.records.values()
        if records and found.error is None:
            found.stored = (records[0].usage.prompt_tokens, records[0].usage.completion_tokens)
            assert records[0].cost_usd >= 0
        found.tries, found.ejected = server.tries, not pool.directory.available
        found.repairs = dict(pool.repairs)
    return found


def read_whole(response: httpx.Response) -> Outcome:
    body = orjson.loads(response.content)
    if response.status_code != 200:
        return Outcome(response.status_code, error=body["error"]["message"], code=body["error"]["code"])
    (choice,) = body["choices"]
    jethro = response.content.count(b'"jethro":')
    return Outcome(200, choice["message"]["content"], [choice["finish_reason"]], usage=body.get("usage"), jethro=jethro)


def read_stream(response: httpx.Response) -> Outcome:
    found = Outcome(200)
    lines = response.content.decode().split("\n\n")
    assert lines.pop() == ""
    for position, line in enumerate(lines):
        assert line.startswith("data:") and "\n" not in line
        if line == "data: [DONE]":
            found.done = True
            assert position == len(lines) - 1
            continue
        event = orjson.loads(line[5:])
        found.jethro += "jethro" in event
        if event.get("error"):
            assert position == len(lines) - 1, "an error is the last event"
            found.error, found.code = event["error"]["message"], event["error"]["code"]
            continue
        found.usage = event.get("usage") or found.usage
        for choice in event["choices"]:
            text = choice["delta"].get("content") or ""
            found.finish_last &= not (found.finishes and text)
            found.text += text
            found.finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
    return found


async def same_for_all_cuts(raw: bytes, stream: bool) -> Outcome:
    found = {name: asdict(await outcome(pieces, stream)) for name, pieces in cuts(raw).items()}
    assert found["bytes"] == found["whole"] == found["events"]
    return Outcome(**found["whole"])


def check(found: Outcome, expected: dict[str, Any]) -> None:
    assert {key: getattr(found, key) for key in expected} == expected
    assert not found.ejected
    assert found.status == 200 or found.error
