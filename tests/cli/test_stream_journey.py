"""A stream through the commands: what an offline replay evaluated is what is served, on the same queries.

The LLM is the strong model double; the endpoint's services and the Learner are in this process, the commands call them
over HTTP.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.config.load import load
from serve_app.gateway.services import Services, build_services
from serve_app.pools.factory import build_pool
from serve_app.streams.base import OnlineCore
from serve_app.streams.registry import LocalLearner, RegistryOptions
from tests.api.server import serving
from tests.cli.model_doubles import (
    STRONG,
    TOPICS,
    ModelDoubles,
    answering,
    config,
    label_of,
    reviews,
    write_config,
    write_prompts,
)

LABELS = ",".join(TOPICS)
QUERIES = 300
BUDGET = ("--llm-share", "0.3", "--horizon", str(QUERIES))


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelDoubles]:
    for name in ("JETHRO_API_KEY", "JETHRO_URL", "JETHRO_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    with answering(ModelDoubles()) as found:
        yield found


@pytest.fixture
def url(doubles: ModelDoubles, tmp_path: Path) -> Iterator[str]:
    streams = {"enabled": True, "folder": str(tmp_path / "streams"), "poll_s": 0.02}
    write_config(tmp_path / "my.yaml", config(doubles, tmp_path / "routers", streams=streams))
    settings = load(str(tmp_path / "my.yaml"), env={})
    learner = LocalLearner(RegistryOptions(tmp_path / "streams"), OnlineCore())

    def services() -> Services:
        pools = {n: build_pool(n, p, cluster_secret="", timeout_s=30.0) for n, p in settings.pools.items()}
        return build_services(settings, pools, learner=learner)

    try:
        with serving(services) as base:
            yield base
    finally:
        asyncio.run(learner.aclose())


def done(*words: str) -> str:
    found = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert found.exit_code == 0, found.stderr
    return found.stdout


def test_a_stream_serves_what_was_evaluated(url: str, doubles: ModelDoubles, tmp_path: Path) -> None:
    rows = [{**row, "llm": label_of(STRONG, row["text"])} for row in reviews(QUERIES, seed=1)]
    file = write_prompts(tmp_path / "reviews.jsonl", rows)
    offline = ("--offline", "--expert", "llm", "--labels", LABELS)
    evaluated = json.loads(done("stream", "replay", file, "--label", "label", *offline, *BUDGET, "--json"))
    assert doubles.calls == [], "an offline replay calls no model"

    task = ("--labels", LABELS, "--instruction", "Name the topic of the review.")
    done("stream", "create", "topics", *task, *BUDGET, "--url", url)
    given = ("--stream", "topics", "--label", "label", "--concurrency", "1", "--url", url)
    served = json.loads(done("stream", "replay", file, *given, "--json"))

    assert (served["queries"], served["failed"], served["unparsed"]) == (QUERIES, 0, 0)
    low, high = evaluated["accuracy_interval"]
    assert low <= served["accuracy"] <= high
    low, high = evaluated["share_interval"]["llm"]
    assert low <= served["share"]["llm"] <= high
    assert doubles.calls.count(STRONG) == round(served["share"]["llm"] * QUERIES)
    assert served["share"]["encoder"] > 0.5, "most queries are answered by a small level"
    assert evaluated["accuracy"] > 0.85, "a stream that learned nothing would have a third"
