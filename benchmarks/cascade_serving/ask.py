"""Asks the endpoint the same queries under several model names, interleaved, and keeps what came and when."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import Any

import orjson

from benchmarks.connection import Address, Connection
from benchmarks.connection import Reply as Raw
from serve_app.lab.tasks import TASKS, Item

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One streamed answer. Times are milliseconds from the request's last byte to an event with text."""

    text: str
    quality: float
    pool: str
    first_ms: float
    probe_ms: float
    """To the last of the first `probe_tokens` tokens, or of all where there are fewer."""
    last_ms: float
    tokens: int
    wasted_tokens: int
    cost_usd: float
    wasted_usd: float
    strong_calls: int
    raced: bool
    """A strong call was begun and cancelled; it is none of the strong calls, and its tokens are wasted."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Base URL without /v1, the key if there is one, requests open at once, and the strong pool's name."""

    url: str
    api_key: str | None = None
    concurrency: int = 4
    strong: str = "large"
    probe_tokens: int = 2


async def ask_all(
    endpoint: Endpoint, models: Sequence[str], items: Sequence[Item], seed: int, progress: Callable[[int], None]
) -> dict[str, list[Reply]]:
    """By model, the greedy answers in the order of the items; the order of the requests is drawn.

    Raises RuntimeError with the server's words if one request fails.
    """
    work = [(model, row) for model in models for row in range(len(items))]
    Random(seed).shuffle(work)
    found: dict[str, list[Reply | None]] = {model: [None] * len(items) for model in models}
    queue = iter(work)
    done = 0

    async def worker() -> None:
        nonlocal done
        connection = await Connection.open(Address.of(endpoint.url))
        try:
            for model, row in queue:
                found[model][row] = await _ask(endpoint, connection, model, items[row])
                done += 1
                progress(done)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(endpoint.concurrency):
            group.create_task(worker())
    return {model: [reply for reply in replies if reply is not None] for model, replies in found.items()}


async def _ask(endpoint: Endpoint, connection: Connection, model: str, item: Item) -> Reply:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": item.prompt}],
        "temperature": 0,
        "max_tokens": 64,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    request = Address.of(endpoint.url).post("/v1/chat/completions", orjson.dumps(body), headers)
    sent_s = perf_counter()
    raw = await connection.exchange(request, TIMEOUT_S)
    if raw.status != 200 or not raw.events or raw.events[-1][1] != b"[DONE]":
        last = raw.events[-1][1] if raw.events else raw.body
        raise RuntimeError(f"{model}: {item.prompt!r} got {raw.status}: {last[:300]!r}")
    return reply_of(raw, sent_s, item, endpoint)


def reply_of(raw: Raw, sent_s: float, item: Item, endpoint: Endpoint) -> Reply:
    """What a whole stream says."""
    pieces: list[tuple[float, str]] = []
    jethro: dict[str, Any] = {}
    usage: dict[str, int] = {}
    for at_s, data in raw.events:
        if data == b"[DONE]":
            continue
        event = orjson.loads(data)
        text = "".join((c.get("delta") or {}).get("content") or "" for c in event.get("choices") or ())
        if text:
            pieces.append((1e3 * (at_s - sent_s), text))
        jethro = event.get("jethro") or jethro
        usage = event.get("usage") or usage
    times = [at for at, _ in pieces] or [1e3 * (raw.end_s - sent_s)]
    steps = jethro.get("steps") or [{"pool": jethro["pool"], "reason": ""}]
    wasted = jethro.get("wasted") or {}
    said = "".join(text for _, text in pieces)
    return Reply(
        text=said,
        quality=TASKS[item.task].grade(item, said),
        pool=raw.headers["x-jethro-pool"],
        first_ms=times[0],
        probe_ms=times[min(endpoint.probe_tokens, len(times)) - 1],
        last_ms=times[-1],
        tokens=usage["total_tokens"],
        wasted_tokens=wasted.get("total_tokens", 0),
        cost_usd=jethro["cost_usd"],
        wasted_usd=wasted.get("cost_usd", 0.0),
        strong_calls=sum(step["pool"] == endpoint.strong and "raced" not in step["reason"] for step in steps),
        raced=any("raced" in step["reason"] for step in steps),
    )
