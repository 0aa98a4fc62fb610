"""What the tests of the journey share: commands on two model doubles, and an endpoint's services in this process."""

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from typer.testing import CliRunner, Result

from serve_app.api.app import build_app
from serve_app.cli.main import app
from serve_app.config import Config
from serve_app.config.load import load
from serve_app.errors import ConfigError
from serve_app.gateway.services import build_services
from serve_app.pools.factory import build_pool
from serve_app.routing.registry import Registry
from tests.cli.model_doubles import ModelDoubles, config, write_config, write_prompts

METRIC = "number"


@dataclass
class Journey:
    """A folder with the config `my.yaml`, a registry, and what the commands have made of them."""

    folder: Path
    doubles: ModelDoubles

    def at(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def registry(self) -> Registry:
        return Registry(self.folder / "routers")

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(app, list(words), catch_exceptions=False)

    def done(self, *words: str) -> Result:
        found = self.run(*words)
        assert found.exit_code == 0, found.stderr
        return found

    def collect(self, out: str, source: str, *words: str) -> Result:
        chain = ("--config", self.at("my.yaml"), "--chain", "small,large", "--metric", METRIC)
        return self.run("cascade", "collect", "--prompts", self.at(source), *chain, "--out", self.at(out), *words)

    def fit(self, out: str, *words: str, data: str = "learn.jsonl") -> Result:
        given = ("--data", self.at(data), "--registry", self.at("routers"), "--out", self.at(out))
        return self.run("cascade", "fit", *given, *words)

    def evaluate(self, folder: str, data: str = "measure.jsonl", *words: str) -> Result:
        given = ("--data", self.at(data), "--registry", self.at("routers"))
        return self.run("cascade", "evaluate", self.at(folder), *given, *words)

    def config(self, **cascade: Any) -> Config:
        write_config(self.folder / "served.yaml", config(self.doubles, self.folder / "routers", cascade=cascade))
        return load(self.at("served.yaml"), env={})


def trained(journey: Journey, name: str, rows: list[dict[str, Any]]) -> None:
    """A router of the registry, trained on both models' answers to these prompts."""
    data = journey.at(f"{name}-{len(rows)}.parquet")
    source = write_prompts(journey.folder / f"{name}-{len(rows)}-prompts.jsonl", rows)
    given = ("--config", journey.at("my.yaml"), "-n", "1", "--temperature", "0", "--metric", METRIC, "--out", data)
    journey.done("data", "collect", "--prompts", source, *given)
    more = ("--name", name, "--folds", "2", "--target", "strong-share=0.5", "--registry", journey.at("routers"))
    journey.done("router", "train", "complexity", "--data", data, *more)


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


@dataclass
class Served:
    """What an endpoint did with queries."""

    quality: float
    share: float
    """Of the queries that the large model answered."""
    priors: list[float | None]
    """Of the first queries."""


def serve(settings: Config, model: str, items: list[dict[str, Any]], stream: bool = False) -> Served:
    """Every query to a model name of the endpoint, in this process."""

    async def answered() -> tuple[list[tuple[str, dict[str, Any]]], list[float | None]]:
        pools = {n: build_pool(n, p, cluster_secret="", timeout_s=30.0) for n, p in settings.pools.items()}
        try:
            services = await asyncio.to_thread(build_services, settings, pools)
        except ConfigError:
            for pool in pools.values():
                await pool.aclose()
            raise
        await services.start()
        try:
            transport = httpx.ASGITransport(build_app(services), raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://jethro") as client:
                answers = [await ask(client, item["prompt"]) for item in items]
                return answers, [await prior(client, item["prompt"]) for item in items[:20]]
        finally:
            await services.aclose()

    async def ask(client: httpx.AsyncClient, prompt: str) -> tuple[str, dict[str, Any]]:
        body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": prompt}], "stream": stream}
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        if not stream:
            found = response.json()
            return found["choices"][0]["message"]["content"], found["jethro"]
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        parts = [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]
        return "".join(parts), next(event["jethro"] for event in events if "jethro" in event)

    async def prior(client: httpx.AsyncClient, prompt: str) -> float | None:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        decision = (await client.post("/v1/route", json=body)).json()
        return (decision.get("features") or {}).get("prior")

    found, priors = asyncio.run(answered())
    right = [text == item["reference"] for (text, _), item in zip(found, items, strict=True)]
    large = [jethro["pool"] == "large" for _, jethro in found]
    return Served(sum(right) / len(right), sum(large) / len(large), priors)


def interval(text: str, pattern: str, unit: float = 1.0) -> tuple[float, float]:
    """The interval that follows a figure, [low, high], with what rounding took away."""
    match = re.search(pattern + r"[^\[]*\[([-0-9.]+), ([-0-9.]+)\]", text)
    assert match is not None, text
    last = unit * 10.0 ** -len(match[1].partition(".")[2]) if "." in match[1] else unit
    return float(match[1]) * unit - last, float(match[2]) * unit + last
