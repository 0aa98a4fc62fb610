"""The whole application on a real Ray: HAProxy, Gateway, two replicas a pool, the embedded models."""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest

from serve_app.config import load
from serve_app.lab.sample import sample
from tests.integration.serving import serving

pytestmark = pytest.mark.integration

POOLS = {"small": "SmallPool", "large": "LargePool"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tree = load("lab").model_dump(mode="json")
    for name in POOLS:
        tree["pools"][name]["replicas"] = 2
    tree["pools"]["embed"]["resources"]["num_cpus"] = 0  # the others reserve all that two cores have
    with serving(tree, tmp_path_factory.mktemp("serve")) as url:
        yield url


def ask(url: str, text: str, model: str = "jethro", **options: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **options}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def replica_pids(deployment: str) -> list[int]:
    named = f"ray::ServeReplica:jethro:{deployment}"
    return [p.pid for p in psutil.process_iter(["cmdline"]) if named in " ".join(p.info["cmdline"] or ())]


def test_the_first_question_is_answered_and_explained(url: str) -> None:
    answer = ask(url, "what is 40 + 2?")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "42"
    assert answer.headers["x-jethro-pool"] in POOLS
    assert float(answer.headers["x-jethro-cost-usd"]) > 0
    decided = httpx.get(f"{url}/v1/decisions/{answer.headers['x-jethro-decision-id']}", timeout=10)
    assert decided.status_code == 200


def test_both_pools_answer_unseen_queries(url: str) -> None:
    items = sample(n=40, seed=5, split="unseen")
    right = {model: 0 for model in ("jlab-small", "jlab-large")}
    for item in items:
        for model in right:
            answer = ask(url, item.prompt, model=model).json()
            right[model] += answer["choices"][0]["message"]["content"].strip() == item.answer
    assert right["jlab-large"] >= 36 > 32 > right["jlab-small"] > 16


async def test_the_official_client_streams(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model="jlab-large",
            messages=[{"role": "user", "content": "reverse stone"}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [c async for c in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "enots"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0


def test_the_encoder_wakes_for_the_first_call_of_embeddings(url: str) -> None:
    pools = httpx.get(f"{url}/health/ready", timeout=10).json()["pools"]
    assert pools["embed"]["replicas"] == 0 and pools["embed"]["ok"]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=90, max_retries=0) as client:
        texts = ["a cat sat on the mat", "a kitten was sitting on a rug", "the bond market fell"]
        found = client.embeddings.create(model="all-minilm-l6-v2", input=texts)
    cat, kitten, bonds = (np.array(entry.embedding) for entry in found.data)
    assert cat.shape == (384,) and abs(np.linalg.norm(cat) - 1) < 1e-5
    assert cat @ kitten > 0.5 > cat @ bonds
    assert found.usage.prompt_tokens == 8 + 9 + 6
    metrics = httpx.get(f"{url}/metrics", timeout=10).text
    assert re.search(r'jethro_engine_prompt_tokens_total\{model="all-minilm-l6-v2",pool="embed"', metrics)


def test_health_metrics_and_models(url: str) -> None:
    ready = httpx.get(f"{url}/health/ready", timeout=10)
    assert ready.status_code == 200
    assert {p: s["replicas"] for p, s in ready.json()["pools"].items() if p in POOLS} == {"small": 2, "large": 2}
    metrics = httpx.get(f"{url}/metrics", timeout=10).text
    assert re.search(r'jethro_requests_total\{.*gateway="\w+"', metrics)
    assert 'pool="large",replica="http://127.0.0.1:' in metrics
    ids = {m["id"] for m in httpx.get(f"{url}/v1/models", timeout=10).json()["data"]}
    assert {"jethro", "jlab-small", "jlab-large"} <= ids


async def test_a_caller_who_leaves_frees_the_slot(url: str) -> None:
    async with httpx.AsyncClient(timeout=30) as client:
        body = {
            "model": "jlab-large",
            "messages": [{"role": "user", "content": "abc"}],
            "max_tokens": 200,
            "temperature": 2.0,
            "n": 8,
            "stream": True,
        }
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            await anext(response.aiter_bytes())
        async with asyncio.timeout(10):
            while True:
                pools = (await client.get(f"{url}/health/ready")).json()["pools"]
                if pools["large"]["in_flight"] == 0:
                    break
                await asyncio.sleep(0.05)


async def test_killed_replicas_lose_no_request_before_its_first_byte(url: str) -> None:
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=32)) as client:
        gate = asyncio.Semaphore(32)

        async def one(i: int) -> int:
            async with gate:
                body = {"model": "jethro", "messages": [{"role": "user", "content": f"what is {i} + 5?"}]}
                return (await client.post(f"{url}/v1/chat/completions", json=body)).status_code

        asking = [asyncio.create_task(one(i)) for i in range(600)]
        for deployment in POOLS.values():
            await asyncio.sleep(0.5)
            os.kill(replica_pids(deployment)[0], signal.SIGKILL)
        assert set(await asyncio.gather(*asking)) == {200}


def test_endpoint_and_replicas_listen_on_localhost_only(url: str) -> None:
    port = url.rsplit(":", 1)[1]
    sockets = subprocess.run(["ss", "-ltnH", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    assert {line.split()[3] for line in sockets.splitlines()} == {f"127.0.0.1:{port}"}
    replicas = set(re.findall(r'replica="([^"]+)"', httpx.get(f"{url}/metrics", timeout=10).text))
    assert replicas and all(r.startswith("http://127.0.0.1:") for r in replicas)


def test_replicas_come_back(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        pools = httpx.get(f"{url}/health/ready", timeout=10).json()["pools"]
        if all(pools[name]["replicas"] == 2 for name in POOLS):
            return
        time.sleep(0.5)
    pytest.fail(f"replicas did not come back: {pools}")
