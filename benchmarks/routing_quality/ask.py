"""Asks the endpoint every query under one model name, and keeps what was answered, by whom and at what cost."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from serve_app.lab.tasks import TASKS, Item

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer with its grade in [0, 1], and the decision's headers."""

    text: str
    quality: float
    pool: str
    cost_usd: float
    score: float | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Base URL without /v1, the key if there is one, and how many requests are open at once."""

    url: str
    api_key: str | None = None
    concurrency: int = 32


async def ask_all(
    endpoint: Endpoint, model: str, items: Sequence[Item], progress: Callable[[int], None]
) -> list[Reply]:
    """Greedy answers in the order of the items. Raises RuntimeError with the server's words if one request fails."""
    headers = {"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    limits = httpx.Limits(max_connections=endpoint.concurrency)
    gate = asyncio.Semaphore(endpoint.concurrency)
    done = 0
    async with httpx.AsyncClient(
        base_url=endpoint.url, headers=headers, timeout=TIMEOUT_S, limits=limits, trust_env=False
    ) as client:

        async def one(item: Item) -> Reply:
            nonlocal done
            async with gate:
                reply = await _ask(client, model, item)
            done += 1
            progress(done)
            return reply

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]


async def _ask(client: httpx.AsyncClient, model: str, item: Item) -> Reply:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": item.prompt}],
        "temperature": 0,
        "max_tokens": 64,
    }
    reply = await client.post("/v1/chat/completions", json=body)
    if reply.status_code != 200:
        raise RuntimeError(f"{model}: {item.prompt!r} got {reply.status_code}: {reply.text[:300]}")
    text = reply.json()["choices"][0]["message"]["content"] or ""
    head = reply.headers
    return Reply(
        text=text,
        quality=TASKS[item.task].grade(item, text),
        pool=head["x-jethro-pool"],
        cost_usd=float(head["x-jethro-cost-usd"]),
        score=float(head["x-jethro-score"]) if "x-jethro-score" in head else None,
        threshold=float(head["x-jethro-threshold"]) if "x-jethro-threshold" in head else None,
    )
