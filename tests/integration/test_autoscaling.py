"""A pool between bounds on a real Ray: requests in flight bring a replica, quiet takes it away, nobody is refused."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.script import prompt
from serve_app.config import load
from tests.integration.serving import serving

pytestmark = pytest.mark.integration


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    tree = load("lab").model_dump(mode="json")
    bounds = {"min": 1, "max": 2, "target_ongoing_requests": 3, "upscale_delay_s": 0, "downscale_delay_s": 1}
    tree["pools"]["small"]["replicas"] = {**bounds, "policy": "in_flight"}
    with serving(tree, tmp_path, "benchmarks.fake_engine:build") as url:
        yield url


async def test_replicas_follow_the_requests_in_flight(url: str) -> None:
    async with httpx.AsyncClient(timeout=60) as client:

        async def replicas() -> int:
            found: int = (await client.get(f"{url}/health/ready")).json()["pools"]["small"]["replicas"]
            return found

        async def asked() -> set[int]:
            body = {
                "model": "jlab-small",
                "max_tokens": 40,
                "messages": [{"role": "user", "content": prompt(pace_ms=50)}],
            }
            codes = set()
            while not over.is_set():
                codes.add((await client.post(f"{url}/v1/chat/completions", json=body)).status_code)
            return codes

        over = asyncio.Event()
        assert await replicas() == 1
        asking = [asyncio.create_task(asked()) for _ in range(8)]
        async with asyncio.timeout(90):
            while await replicas() < 2:
                await asyncio.sleep(0.2)
        over.set()
        assert set().union(*await asyncio.gather(*asking)) == {200}
        async with asyncio.timeout(90):
            while await replicas() > 1:
                await asyncio.sleep(0.2)
