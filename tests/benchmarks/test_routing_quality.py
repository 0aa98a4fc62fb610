import json
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.routing_quality.__main__ import arguments, ask, write
from benchmarks.routing_quality.ask import Endpoint, Reply, ask_all
from benchmarks.routing_quality.figures import Answers, clusters_of, figures, scores
from benchmarks.stamp import environment
from serve_app.lab.sample import sample


def reply(quality: float, pool: str, score: float | None = None) -> Reply:
    return Reply("x", quality, pool, 1e-3 if pool == "large" else 1e-4, score, 0.5)


def by_hand() -> Answers:
    """Weak is right on the first half; the router sends the last 6 of 10 to large; random sends every other."""
    weak = [reply(float(i < 5), "small") for i in range(10)]
    strong = [reply(float(i != 0), "large") for i in range(10)]
    routed = [reply(1.0, "large" if i >= 4 else "small", i / 10) for i in range(10)]
    random = [(strong if i % 2 else weak)[i] for i in range(10)]
    return Answers([f"q{i}" for i in range(10)], weak, strong, routed, random)


def test_figures_by_hand() -> None:
    found = figures(by_hand(), seed=0)
    points = found["points"]
    assert points["always small"]["quality"] == 0.5 and points["always small"]["strong_share"] == 0.0
    assert points["always large"]["quality_drop"] == 0.0 and points["always large"]["cost_of_always_large"] == 1.0
    assert points["router"]["strong_share"] == 0.6
    assert points["router"]["quality_drop"] == pytest.approx((0.9 - 1.0) / 0.9)
    assert points["router"]["cost_usd_per_1000"] == pytest.approx(0.6 * 1.0 + 0.4 * 0.1)
    assert points["random"]["quality"] == pytest.approx(0.8)
    assert points["random"]["expected_drop_at_router_share"] == pytest.approx((0.9 - (0.5 + 0.6 * 0.4)) / 0.9)
    low, high = points["random"]["quality_drop_interval_95"]
    assert low <= points["random"]["quality_drop"] <= high and low < high
    assert found["drop_ratio_random_to_router"] is None
    assert found["oracle_share_without_drop"] == 0.5 and found["auc"] == 1.0


def test_interval_counts_distinct_queries() -> None:
    clusters = clusters_of(["a", "b", "a"])
    assert [rows.tolist() for rows in clusters] == [[0, 2], [1]]
    whole = by_hand()
    same = Answers(["q"] * 10, whole.weak, whole.strong, whole.routed, whole.random)
    low, high = figures(same, 0)["points"]["random"]["quality_drop_interval_95"]
    assert low == high


def test_a_model_without_a_router_is_refused() -> None:
    with pytest.raises(ValueError, match="no scores"):
        scores([reply(1.0, "small")])


def test_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"environment": environment(), "seed": 0, **figures(by_hand(), 0)}
    write(tmp_path, by_hand(), found)
    assert json.loads((tmp_path / "routing_quality.json").read_text("utf-8"))["points"]["router"]["quality"] == 1.0
    assert (tmp_path / "routing_quality.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "routing_quality.md").read_text("utf-8")
    assert "| router" in table and "always large" in table and "seed 0" in table
    assert table.strip() in capsys.readouterr().out


@pytest.fixture
async def server() -> TestServer:
    """Large answers right, small answers wrong, the router sends what is longer than 20 characters to large."""
    from serve_app.routing.kinds.random import RandomRouter
    from serve_app.types import Message, Query

    answers = {item.prompt: item.answer for item in sample(200, 0, "unseen")}

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        prompt, model = body["messages"][0]["content"], body["model"]
        headers = {}
        if model == "jethro":
            strong = len(prompt) > 20
            headers = {"x-jethro-score": str(min(1.0, len(prompt) / 100)), "x-jethro-threshold": "0.2"}
        elif model.startswith("router-random-"):
            score = RandomRouter(0).score([Query((Message("user", prompt),))])[0]
            strong = bool(score >= float(model.removeprefix("router-random-")))
        elif model == "broken":
            return web.json_response({"error": {"message": "out of order"}}, status=503)
        else:
            strong = model == "jlab-large"
        headers |= {"x-jethro-pool": "large" if strong else "small", "x-jethro-cost-usd": "1e-6"}
        content = answers[prompt] if strong else "no"
        return web.json_response({"choices": [{"message": {"content": content}}]}, headers=headers)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    test_server = TestServer(app)
    await test_server.start_server()
    yield test_server
    await test_server.close()


@pytest.mark.slow
async def test_asks_pools_router_and_random_at_the_same_share(server: TestServer) -> None:
    items = sample(200, 0, "unseen")[:100]
    answers = await ask(Endpoint(str(server.make_url("")).rstrip("/"), concurrency=8), arguments(["--n", "100"]), items)
    points = figures(answers, 0)["points"]
    assert points["always large"]["quality"] == 1.0 and points["always small"]["quality"] == 0.0
    assert (
        points["router"]["quality"] == points["router"]["strong_share"] == np.mean([len(i.prompt) > 20 for i in items])
    )
    assert points["random"]["strong_share"] == pytest.approx(points["router"]["strong_share"], abs=0.15)


async def test_a_failed_request_stops_the_run_with_the_servers_words(server: TestServer) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await ask_all(
            Endpoint(str(server.make_url("")).rstrip("/")), "broken", sample(3, 0, "unseen"), lambda done: None
        )
    assert "out of order" in str(raised.value.exceptions[0])
