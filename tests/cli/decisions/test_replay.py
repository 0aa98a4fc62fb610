"""`jethro replay`, on a log in a file and over HTTP, with the router that ships and with one of the registry."""

import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.gateway.services import build_services
from serve_app.routing.registry import Registry, load_router
from serve_app.store.base import Feedback, RequestRecord
from serve_app.store.database import Database
from serve_app.types import Decision, Step, Usage
from tests.api.admin.conftest import ADMIN, tree
from tests.api.fakes import FakePool
from tests.api.server import serving

SHIPPED = load_router("complexity")
COUNT = 400


def logged(i: int, prompt: str | None = None, created_s: float = 0.0) -> RequestRecord:
    """A decision of the shipped router on one of its calibration queries."""
    data = SHIPPED.calibration
    assert data is not None
    score, threshold = float(data.scores[i]), SHIPPED.threshold
    strong = score >= threshold
    name = "large" if strong else "small"
    tokens = (data.strong_tokens if strong else data.weak_tokens)[i]
    decision = Decision(
        f"d{i:05}",
        "route",
        name,
        f"jlab-{name}",
        "reason",
        score,
        threshold,
        "complexity",
        f"{SHIPPED.version}@{threshold:.6g}",
    )
    usage = Usage(int(tokens[0]), int(tokens[1]))
    step = Step(name, "chosen", usage, usage.total_tokens * (1e-6 if strong else 1e-7))
    return RequestRecord(f"r{i}", "chat", created_s, decision=decision, steps=(step,), latency_ms=5.0, prompt=prompt)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path, now_s = tmp_path / "log.sqlite3", time.time()
    data = SHIPPED.calibration
    assert data is not None
    with closing(Database(str(path))) as database:
        database.write([logged(i, created_s=now_s - 3000 + i) for i in range(COUNT)])
        quality = np.where(data.scores >= SHIPPED.threshold, data.strong_quality, data.weak_quality)
        database.add_feedback([(Feedback(f"d{i:05}", float(quality[i])), now_s) for i in range(0, COUNT, 2)])
    return path


@pytest.fixture
def replayed(run, log, tmp_path):
    settings = ["--set", f"store.path={log}", "--set", f"routing.registry={tmp_path / 'routers'}"]

    def replayed(*arguments: str) -> dict:
        result = run("replay", *arguments, "--json", *settings)
        assert result.exit_code == 0, result.stderr
        found: dict = json.loads(result.stdout)
        return found

    return replayed


def test_the_threshold_in_force_is_what_was_served(replayed):
    found = replayed()
    assert found["threshold"] == found["threshold_in_force"] == SHIPPED.threshold
    assert found["decisions"] == COUNT and found["moved"] == {"to_weak": 0, "to_strong": 0, "forced": 0}
    for figure in found["figures"].values():
        assert figure["served"] == figure["predicted"] and figure["change"] == {"value": 0, "low": 0, "high": 0}


def test_another_threshold_moves_what_its_score_says(replayed):
    data = SHIPPED.calibration
    found = replayed("--threshold", "0.5", "--next", "100")
    assert found["figures"]["share"]["predicted"]["value"] == pytest.approx(np.mean(data.scores[:COUNT] >= 0.5))
    assert found["figures"]["cost_usd"]["change"]["high"] < 0 and found["figures"]["quality"]["change"]["high"] < 0
    served = found["figures"]["quality"]["served"]
    kept, moved = found["ratings"]["kept"], found["ratings"]["moved"]
    assert kept["count"] + moved["count"] == COUNT / 2
    assert served["low"] < 0.99 and found["next"] == 100 and found["left_out"] == {}


def test_a_threshold_that_an_operator_has_set_is_the_one_in_force(replayed, tmp_path):
    Registry(tmp_path / "routers").use("complexity", threshold=0.7)
    found = replayed()
    assert found["threshold_in_force"] == found["threshold"] == 0.7 and found["moved"]["to_weak"] > 0


def test_another_router_needs_prompts_and_says_how_many_had_none(replayed, log):
    now_s = time.time()
    with closing(Database(str(log))) as database:
        database.write([replace(logged(i, f"question {i}"), created_s=now_s) for i in range(COUNT, COUNT + 50)])
    found = replayed("--router", "random", "--threshold", "0.5")
    assert found["decisions"] == 50 and list(found["left_out"].values()) == [COUNT]
    assert "store.keep_prompts" in next(iter(found["left_out"]))
    assert "no calibration data" in found["unknown"]["quality"] and found["threshold_in_force"] is None
    assert 0.2 < found["figures"]["share"]["predicted"]["value"] < 0.8


def test_prompts_come_over_http_too(run, log, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_ADMIN_KEY", ADMIN)
    now_s = time.time()
    with closing(Database(str(log))) as database:
        database.write([logged(i, f"question {i}", now_s) for i in range(COUNT, COUNT + 20)])
    pools = {"small": FakePool(), "large": FakePool("large")}
    with serving(lambda: build_services(tree(tmp_path), pools)) as url:
        command = ["replay", "--router", "random", "--threshold", "0", "--json", "--url", url]
        result = run(*command, JETHRO_ADMIN_KEY=ADMIN)
    found = json.loads(result.stdout)
    assert (found["decisions"], found["figures"]["share"]["predicted"]["value"]) == (20, 1.0)


def test_a_version_that_is_pinned_is_the_one_in_force(run, log):
    pinned = ["--set", f"routing.router=complexity@{SHIPPED.version}", "--set", f"store.path={log}", "--json"]
    for router in ([], ["--router", "complexity"], ["--router", f"complexity@{SHIPPED.version}"]):
        found = json.loads(run("replay", *router, *pinned).stdout)
        assert found["threshold_in_force"] == SHIPPED.threshold and found["decisions"] == COUNT


def test_a_cascade_is_replayed_by_its_confidences(run, log):
    now_s = time.time()
    with closing(Database(str(log))) as database:
        for i in range(30):
            up, confidence = i % 3 == 0, (i % 3) / 3 + 0.1
            name, tokens = ("large", 50) if up else ("small", 20)
            decision = Decision(f"c{i}", "cascade", name, name, "why", confidence, 0.3, None, "chain-1")
            step = Step(name, "chosen", Usage(10, tokens), 1e-5 * (5 if up else 1))
            database.write(
                [RequestRecord(f"q{i}", "chat", now_s + i, decision=decision, steps=(step,), latency_ms=1.0)]
            )
    options = ["--cascade", "--threshold", "0.6", "--set", f"store.path={log}"]
    found = json.loads(run("replay", *options, "--json").stdout)
    assert (found["kind"], found["version"], found["threshold_in_force"]) == ("cascade", "chain-1", 0.3)
    assert found["decisions"] == 30 and found["moved"] == {"to_weak": 0, "to_strong": 10, "forced": 0}
    assert list(found["left_out"].values()) == [COUNT] and "quality" in found["unknown"]
    assert "cascade cascade (chain-1)" in run("replay", *options).stdout


def test_the_text_says_what_it_did_and_how(run, log):
    result = run("replay", "--threshold", "0.3", "--since", "2h", "--set", f"store.path={log}")
    assert result.exit_code == 0, result.stderr
    for part in ("as served", "predicted", "calls of large", "would move", "Ratings", "bootstrap", "Wilson", "ratio"):
        assert part in result.stdout, result.stdout
    empty = run("replay", "--until", "9h", "--set", f"store.path={log}")
    assert (empty.exit_code, "no decision could be replayed" in empty.stdout) == (0, True)


def test_over_http_it_is_the_same(run, replayed, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_ADMIN_KEY", ADMIN)
    pools = {"small": FakePool(), "large": FakePool("large")}
    with serving(lambda: build_services(tree(tmp_path), pools)) as url:
        result = run("replay", "--threshold", "0.2", "--json", "--url", url, JETHRO_ADMIN_KEY=ADMIN)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == replayed("--threshold", "0.2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "nan"], "give a number from 0"),
        (["--threshold", "1.5"], "give a number from 0"),
        (["--router", "none"], "no router 'none'"),
        (["--router", "jethro-cascade"], "decide by answers that the log does not hold"),
        (["--since", "whenever"], "--since"),
        (["--cascade", "--threshold", "0.5"], "no decision of the cascade"),
        (["--cascade"], "--threshold"),
        (["--cascade", "--router", "mf"], "keep one"),
        (["--next", "0"], "greater than or equal to 1"),
        (["--set", "store.path=nowhere.sqlite3"], "no such file"),
    ],
)
def test_mistakes_are_said(run, log, arguments, message):
    result = run("replay", "--set", f"store.path={log}", *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
