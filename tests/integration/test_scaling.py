"""Pools that follow the wanted share on a real Ray: an idle pool sleeps and is woken, a busy one grows and shrinks."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.script import prompt
from serve_app.config import load
from tests.integration.serving import serving

pytestmark = pytest.mark.integration

PATIENCE_S = 180


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    tree = load("lab").model_dump(mode="json")
    bounds = {"max": 2, "concurrency": 4, "hold_s": 2, "idle_s": 3, "warm_up_s": 1}
    for name, fewest in (("small", 1), ("large", 0)):
        tree["pools"][name] |= {"replicas": {"min": fewest, **bounds}, "wait_s": PATIENCE_S}
    with serving(tree, tmp_path, "benchmarks.fake_engine:build") as url:
        yield url


async def replicas(client: httpx.AsyncClient, pool: str) -> int:
    found: int = (await client.get("/health/ready")).json()["pools"][pool]["replicas"]
    return found


async def until(client: httpx.AsyncClient, pool: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await replicas(client, pool) != count:
            await asyncio.sleep(0.2)


async def ask(client: httpx.AsyncClient, model: str, seconds: float) -> int:
    text = prompt(pace_ms=50)
    body = {"model": model, "max_tokens": int(seconds * 20), "messages": [{"role": "user", "content": text}]}
    return (await client.post("/v1/chat/completions", json=body)).status_code


async def test_pools_follow_what_is_wanted_of_them(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S + 30) as client:
        await until(client, "large", 0)
        assert (await client.get("/health/ready")).status_code == 200  # a pool that may sleep is ready asleep
        assert await ask(client, "jlab-large", 0.1) == 200  # waits until the pool is awake

        over = asyncio.Event()

        async def caller() -> set[int]:
            codes = set()
            while not over.is_set():
                codes.add(await ask(client, "jlab-small", 1))
            return codes

        calling = [asyncio.create_task(caller()) for _ in range(12)]
        await until(client, "small", 2)
        over.set()
        assert set().union(*await asyncio.gather(*calling)) == {200}
        await until(client, "small", 1)
        await until(client, "large", 0)
