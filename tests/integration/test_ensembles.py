"""An ensemble on a real Ray: votes of the lab's models, a ranker in the Scorer, engines idle when callers leave."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serve_app.config import load
from tests.ensemble.ranking.rankers import untrained
from tests.integration.idleness import calls, until_idle
from tests.integration.serving import serving

pytestmark = pytest.mark.integration
MODEL = "jethro-ensemble"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ensembles")
    tree = load("lab").model_dump(mode="json")
    tree["ensemble"]["rounds"] = [{"calls": [{"pool": "small", "samples": 3}, {"pool": "large"}], "stop_at": 0.0}]
    tree["ensemble"] |= {"ranker": ranker(folder), "ranker_timeout_ms": 20_000}
    tree["scorer"] |= {"replicas": 1}
    tree["scorer"]["resources"]["num_cpus"] = 0.1
    with serving(tree, folder) as url:
        yield url


def ranker(folder: Path) -> str:
    """A tiny random one: it is served like any other."""
    untrained(folder).save(folder / "ranker")
    return str(folder / "ranker")


def body(text: str, **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **options}


def test_the_scorer_ranks_what_the_members_say(url: str) -> None:
    assert MODEL in {m["id"] for m in httpx.get(f"{url}/v1/models", timeout=10).json()["data"]}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body("sort 9 1 5", temperature=2.0), timeout=60).json()
    jethro = answer["jethro"]
    assert jethro["strategy"] == "ensemble" and "4 candidates of" in jethro["reason"]
    assert ("ranked first of" in jethro["reason"]) != ("say the same" in jethro["reason"])
    assert "the ranker" not in jethro["reason"], "it neither failed nor was late"
    assert {step["pool"] for step in jethro["steps"]} == {"small", "large"}
    assert answer["usage"]["total_tokens"] == sum(
        step["usage"]["prompt_tokens"] + step["usage"]["completion_tokens"] for step in jethro["steps"]
    )


async def test_the_official_client_streams(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = body("what is 7 + 8?", temperature=0)
        stream = await client.chat.completions.create(**asked, stream=True)
        said = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        whole = await client.chat.completions.create(**asked, n=2)
    assert "".join(said) and len(whole.choices) == 2


async def test_callers_who_leave_leave_no_engine_busy(url: str) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        asked = [
            asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=body("sort 9 1 5", temperature=2.0)))
            for _ in range(8)
        ]
        while not await calls(client, url):
            await asyncio.sleep(0.005)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await until_idle(client, url)
