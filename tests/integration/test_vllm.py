"""Real vLLM behind the same application: both embedded models, Ray Serve, HAProxy, the official client."""

import importlib.util
from collections.abc import Iterator
from time import monotonic, sleep

import httpx
import openai
import pytest

from serve_app.config import load
from serve_app.lab.sample import sample
from tests.integration.serving import serving

pytestmark = [
    pytest.mark.integration,
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make vllm)"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tree = load("lab-vllm").model_dump(mode="json")
    with serving(tree, tmp_path_factory.mktemp("vllm")) as url:
        yield url


def test_both_models_answer_and_the_router_chooses(url: str) -> None:
    right = {"jlab-small": 0, "jlab-large": 0, "jethro": 0}
    pools = set()
    for item in sample(n=40, seed=5, split="unseen"):
        for model in right:
            body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": item.prompt}]}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            right[model] += answer.json()["choices"][0]["message"]["content"].strip() == item.answer
            if model == "jethro":
                pools.add(answer.headers["x-jethro-pool"])
    assert right["jlab-large"] >= 36 and right["jethro"] >= 34 and 16 < right["jlab-small"] < 32
    assert pools == {"small", "large"}


async def test_streams_and_guided_answers(url: str) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    asked = [{"role": "user", "content": "sort 9 3 5 1"}]
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(model="jlab-large", messages=asked, temperature=0, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream if c.choices]) == "1 3 5 9"
        guided = await client.chat.completions.create(
            model="jlab-large",
            messages=asked,
            max_tokens=64,
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
        )
    assert guided.choices[0].message.content in ('{"n":1}', '{"n":2}', '{"n": 1}', '{"n": 2}')


def test_vllms_own_metrics_are_told_by_replica(url: str) -> None:
    # a scrape tells what answers at that moment: as Prometheus would, ask again
    wanted, until = {"small", "large"}, monotonic() + 60
    while True:
        metrics = httpx.get(f"{url}/metrics", timeout=30).text
        own = [line for line in metrics.splitlines() if line.startswith("vllm:")]
        told = {pool for pool in wanted if any(f'pool="{pool}"' in line for line in own)}
        if told == wanted or monotonic() > until:
            break
        sleep(1)
    assert told == wanted, metrics[-3000:]
