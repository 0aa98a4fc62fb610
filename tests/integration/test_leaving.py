"""Callers who leave and deadlines that pass, everywhere at once: nothing may be left open."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from serve_app.config import load
from serve_app.lab.sample import sample
from tests.integration.idleness import until_idle
from tests.integration.serving import serving

pytestmark = pytest.mark.integration
STORM_S = 12.0
DEADLINE_S = 0.05
CALLERS = 24


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("leaving")
    tree = load("lab").model_dump(mode="json")
    tree["cascade"]["streaming"]["race"] = {"low": 0.0, "high": 1.0, "wasted_share": 1.0}
    tree["streams"]["folder"] = str(folder / "streams")
    tree["limits"]["request_timeout_s"] = DEADLINE_S
    with serving(tree, folder) as url:
        yield url


async def test_nothing_is_left_open_by_callers_who_leave_or_are_cut_off(url: str) -> None:
    """Every model, streamed or not: most callers leave after a random while, the others meet their deadline or not."""
    told: Counter[int | str] = Counter()
    async with httpx.AsyncClient(timeout=30) as client:
        stream = {"name": "leaving", "labels": ["x", "y"], "instruction": "Say x or y.", "llm_pool": "large"}
        assert (await client.post(f"{url}/v1/streams", json=stream)).status_code == 200
        listed = (await client.get(f"{url}/v1/models")).json()["data"]
        models = [m["id"] for m in listed if m["type"] == "chat"]
        assert {"jethro", "jethro-cascade", "jethro-cascade-stream", "jethro-stream-leaving"} <= set(models)
        end = time.monotonic() + STORM_S
        await asyncio.gather(*(_caller(url, models, random.Random(i), end, told) for i in range(CALLERS)))
        await until_idle(client, url)
    assert told["left"] and told[200] and told[504]
    assert set(told) <= {"left", 200, 429, 502, 503, 504}, told


async def _caller(url: str, models: list[str], rng: random.Random, end: float, told: Counter[int | str]) -> None:
    texts = [item.prompt for item in sample(n=50, seed=7, split="unseen")]
    async with httpx.AsyncClient(timeout=30) as client:
        while time.monotonic() < end:
            model = rng.choice(models)
            body = {
                "model": model,
                "messages": [{"role": "user", "content": rng.choice(texts)}],
                "max_tokens": rng.choice((1, 20, 200)),
                "temperature": rng.choice((0.0, 2.0)),
                "n": 1 if model.startswith("jethro-stream-") else rng.choice((1, 4)),
                "stream": rng.random() < 0.5,
            }
            leaves_after_s = rng.expovariate(1 / 0.03) if rng.random() < 0.7 else None
            try:
                async with asyncio.timeout(leaves_after_s):
                    told[(await client.post(f"{url}/v1/chat/completions", json=body)).status_code] += 1
            except TimeoutError:
                told["left"] += 1
