"""Traffic of every kind at once, so that every metric has samples: strategies, streams, adapters, guards, errors."""

import asyncio
import random
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any

import httpx

from serve_app.config import load
from serve_app.lab.sample import sample

ADAPTERS = ("sort", "reverse", "roman", "units")
STREAM = {
    "name": "parity", "labels": ["even", "odd"], "instruction": "Is the number even or odd?", "levels": ["logistic"],
    "llm_share": 0.5, "horizon": 200, "audit_share": 0.5,
}  # fmt: skip
CONCURRENCY = 12


def tree(folder: Path) -> dict[str, Any]:
    """The lab with everything on that has figures of its own."""
    made = load("lab", env={}).model_dump(mode="json")
    made["streams"] |= {"enabled": True, "folder": str(folder / "streams")}
    made["pools"]["small"]["engine"]["adapters"] = {"max_loaded": 2}
    made["pools"]["small"]["replicas"] = {"min": 1, "max": 2, "policy": "share"}
    made["ensemble"]["rounds"] = [{"calls": [{"pool": "small", "samples": 3}, {"pool": "large"}], "stop_at": 0.0}]
    words = {"name": "words", "kind": "patterns", "patterns": [{"category": "secret", "words": ["swordfish"]}]}
    made["guards"]["chain"] = [words | {"texts": ["input"]}]  # one of answers would hold streams back
    return made


async def drive(url: str, seed: int, scored: int) -> None:
    """One round: `scored` routed queries and a share of everything else. Every request has the status it must have."""
    rng, gate = random.Random(seed), asyncio.Semaphore(CONCURRENCY)
    items = [item.prompt for item in sample(n=scored, seed=seed, split="unseen")]

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def post(path: str, body: dict[str, Any], status: int = 200) -> httpx.Response:
            async with gate:
                answer = await client.post(path, json=body)
            assert answer.status_code == status, f"{path} {body}: {answer.status_code} {answer.text[:300]}"
            return answer

        def chat(text: str, model: str = "jethro", status: int = 200, **options: Any) -> Awaitable[httpx.Response]:
            messages = [{"role": "user", "content": text}]
            options = {"temperature": 0, "max_tokens": 40} | options
            return post("/v1/chat/completions", {"model": model, "messages": messages, **options}, status)

        async def rated(text: str, model: str) -> None:
            answer = await chat(text, model)
            body = {"decision_id": answer.json()["jethro"]["decision_id"], "score": float(rng.random() < 0.8)}
            await post("/v1/feedback", body)

        def some(number: int) -> list[str]:
            return [rng.choice(items) for _ in range(number)]

        calls: list[Awaitable[Any]] = [chat(text) for text in items]
        calls += [chat(text, stream=True) for text in some(12)]
        for model in ("jethro-cascade", "jethro-cascade-stream", "jethro-cascade-route", "jethro-orchestrate"):
            calls += [chat(text, model, stream=i % 2 == 0) for i, text in enumerate(some(12))]
        calls += [chat(text, "jethro-ensemble", temperature=1.5) for text in some(4)]
        calls += [rated(text, model) for model in ("jethro", "jethro-cascade") for text in some(8)]
        calls += [chat(f"{name} 5 3 1", f"jlab-small:{name}") for name in ADAPTERS for _ in range(2)]
        calls += [chat(text, "jlab-large") for text in some(3)]
        calls += [post("/v1/completions", {"model": "jethro", "prompt": text, "max_tokens": 8}) for text in some(3)]
        calls += [post("/v1/route", {"model": "jethro", "messages": [{"role": "user", "content": "1 + 1"}]})]
        calls += [chat("the word is swordfish", status=400), chat("hi", "no-such-model", status=404)]
        calls += [chat("hi", status=400, logprobs="yes")]
        calls += [chat(str(rng.randrange(1000)), "jethro-stream-parity") for _ in range(80)]
        await gathered(calls)


async def gathered(calls: Iterable[Awaitable[Any]]) -> None:
    """All of them, to their ends; then the first failure, if there was one."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
