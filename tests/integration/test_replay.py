"""A prediction from the log of the real application against what then happens, after the threshold is changed."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.config import load
from serve_app.lab.sample import sample
from serve_app.lab.tasks.base import Item, grade
from tests.integration.serving import serving

pytestmark = pytest.mark.integration

KEY = "the-operators-key-of-this-test"
QUERIES = 500


@dataclass
class Live:
    url: str
    folder: Path

    def replay(self, threshold: float, *options: str) -> dict[str, Any]:
        """As an operator would, with the endpoint's own config."""
        arguments = ["replay", "--threshold", str(threshold), "--next", str(QUERIES), "--json", *options]
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.folder / "config.yaml")])
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Two Gateways; the operator's key is in the environment that `jethro serve` starts with."""
    tree = load("lab").model_dump(mode="json")
    folder = tmp_path_factory.mktemp("serve")
    tree["server"]["admin_key_env"] = "TEST_OPERATOR_KEY"
    tree["gateway"] |= {"replicas": 2, "num_cpus": 0.1}
    tree["streams"]["enabled"] = False
    tree["routing"]["registry"] = str(folder / "routers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_OPERATOR_KEY", KEY)
        with serving(tree, folder) as url:
            yield Live(url, folder)
    assert KEY not in (folder / "serve.log").read_text()


async def run_traffic(url: str, items: list[Item]) -> dict[str, float]:
    """Asks each, rates each answer by the lab's own grading; returns share, cost and quality."""
    work, seen = iter(items), []

    async def worker(client: httpx.AsyncClient) -> None:
        for item in work:
            body = {"model": "jethro", "messages": [{"role": "user", "content": item.prompt}], "temperature": 0}
            response = await client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            answer = response.json()
            score = grade(item.answer, answer["choices"][0]["message"]["content"])
            seen.append((answer["jethro"]["pool"] == "large", answer["jethro"]["cost_usd"], score))
            given = {"decision_id": answer["jethro"]["decision_id"], "score": score}
            assert (await client.post("/v1/feedback", json=given)).status_code == 200

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await asyncio.gather(*(worker(client) for _ in range(6)))
    share, cost, quality = (sum(column) / len(seen) for column in zip(*seen, strict=True))
    return {"share": share, "cost_usd": cost, "quality": quality}


def set_threshold(live: Live, threshold: float) -> None:
    """Through the operator's route, until both Gateways decide by it."""
    path = f"{live.url}/v1/admin/routers/complexity/threshold"
    response = httpx.post(path, json={"threshold": threshold}, headers={"authorization": f"Bearer {KEY}"}, timeout=60)
    assert response.status_code == 200, response.text
    agreed, deadline = 0, time.monotonic() + 60
    while agreed < 12:  # HAProxy sends them to either
        body = {"model": "jethro", "messages": [{"role": "user", "content": "what is 1 + 1?"}]}
        found = httpx.post(f"{live.url}/v1/route", json=body, timeout=60).json()["threshold"]
        agreed = agreed + 1 if found == threshold else 0
        assert time.monotonic() < deadline, found


def test_the_operators_key_is_in_no_environment_of_the_endpoints_processes(live: Live) -> None:
    """Its own process, Ray's, and those of Gateways and pools: all that this test has started."""
    seen = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command, found = " ".join(process.cmdline()), process.environ()
            if "serve_app.cli.main" in command:
                continue  # the kernel shows what it was started with, whatever it has removed since
            seen += "ServeReplica" in command
            assert KEY not in found.values(), command
    assert seen >= 4


def test_a_prediction_holds_when_its_threshold_is_set(live: Live) -> None:
    logged = asyncio.run(run_traffic(live.url, sample(n=QUERIES, seed=11, split="unseen")))
    own = live.replay(load_threshold(live))
    assert own["decisions"] == QUERIES and own["moved"]["to_weak"] == own["moved"]["to_strong"] == 0
    assert own["figures"]["share"]["served"]["value"] == pytest.approx(logged["share"])
    assert own["figures"]["cost_usd"]["served"]["value"] == pytest.approx(logged["cost_usd"])
    assert own["ratings"]["kept"]["mean"]["value"] == pytest.approx(logged["quality"])
    predicted = {threshold: live.replay(threshold)["figures"] for threshold in (0.45, 0.01)}
    for seed, (threshold, figures) in enumerate(predicted.items(), start=12):
        set_threshold(live, threshold)
        fresh = asyncio.run(run_traffic(live.url, sample(n=QUERIES, seed=seed, split="unseen")))
        for name, value in fresh.items():
            stated = figures[name]["upcoming"]
            assert stated["low"] <= value <= stated["high"], (threshold, name, value, figures[name])
            moved = figures[name]["served"]["value"]
            assert not stated["low"] <= moved <= stated["high"] or name == "quality", "a prediction that says nothing"
    undone = httpx.post(
        f"{live.url}/v1/admin/routers/complexity/undo", headers={"authorization": f"Bearer {KEY}"}, timeout=60
    )
    assert undone.json()["threshold"] == 0.45


def test_the_cascade_is_replayed_as_it_was_served(live: Live) -> None:
    """The chain that ships for the embedded models; what it logs is what a replay takes it for."""
    large = 0
    for item in sample(n=60, seed=21, split="unseen"):
        body = {"model": "jethro-cascade", "messages": [{"role": "user", "content": item.prompt}], "temperature": 0}
        answer = httpx.post(f"{live.url}/v1/chat/completions", json=body, timeout=120).json()
        large += answer["jethro"]["pool"] == "large"
    time.sleep(2)  # until the Gateways have written their queues
    same = live.replay(live.replay(0.5, "--cascade")["threshold_in_force"], "--cascade")
    assert same["decisions"] + same["left_out"].get("whose answer of small was not checked", 0) == 60
    assert same["moved"]["to_weak"] == same["moved"]["to_strong"] == 0
    assert same["decisions"] * same["figures"]["share"]["served"]["value"] == pytest.approx(
        large, abs=60 - same["decisions"]
    )
    never, always = (live.replay(threshold, "--cascade")["figures"] for threshold in (0.0, 1.0))
    assert never["share"]["predicted"]["value"] == 0.0 and always["share"]["predicted"]["value"] > 0.9
    served = same["figures"]["cost_usd"]["served"]["value"]
    assert never["cost_usd"]["predicted"]["value"] < served < always["cost_usd"]["predicted"]["value"]


def load_threshold(live: Live) -> float:
    found: float = httpx.get(f"{live.url}/v1/admin/routers/complexity/curve", timeout=60).json()["threshold"]
    return found
