"""On a real Ray: a request's trace across its processes, and a random string of requests that is kept nowhere.

Both with the settings that a config has by default, but for the traces themselves, which are all exported.
"""

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.collector import Collector, ReceivedSpan
from serve_app.config import load
from serve_app.front.settings import FOLDER
from tests.integration.serving import serving
from tests.integration.test_ensembles import ranker
from tests.integration.test_privacy import CHAT, STREAM, files_with, session_folders

pytestmark = pytest.mark.integration

SERVER, CLIENT = 2, 3
POST = f"POST {CHAT}"


@dataclass
class Asked:
    """What a test asked and what came of it."""

    word: str
    key: str
    folder: Path
    collector: Collector
    sessions: list[Path] = field(default_factory=list)
    answered: dict[tuple[str, bool], str] = field(default_factory=dict)
    """Decision ids by model and whether it was streamed."""
    easy: dict[tuple[str, bool], str] = field(default_factory=dict)
    """The same for a question that the small model may answer."""
    statuses: list[int] = field(default_factory=list)
    metrics: str = ""
    environments: list[dict[str, str]] = field(default_factory=list)

    def of(self, decision_id: str) -> list[ReceivedSpan]:
        """The spans of the trace of a request, once all have come: the processes export on their own."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            spans = list(self.collector.spans)
            for root in spans:
                if root.parent_id == "" and root.attributes.get("jethro.decision_id") == decision_id:
                    found = [span for span in spans if span.trace_id == root.trace_id]
                    if whole(found):
                        return found
            time.sleep(0.2)
        raise AssertionError(f"no whole trace of {decision_id}: {[s for s in spans if s.parent_id == '']}")


def whole(spans: list[ReceivedSpan]) -> bool:
    """Whether both sides of every call are there: a server span and an engine's under each client span."""
    below = {span.parent_id for span in spans}
    return all(span.span_id in below for span in spans if span.kind == CLIENT) and all(
        span.span_id in below for span in spans if span.kind == SERVER
    )


def bodies(word: str) -> Iterator[dict[str, Any]]:
    """Requests that carry the word wherever a caller may write."""
    tool = {"type": "function", "function": {"name": f"f_{word}", "description": word, "parameters": {"title": word}}}
    schema = {"type": "object", "properties": {word: {"type": "string"}}, "required": [word]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    user = {"role": "user", "content": f"reverse {word}"}
    yield {"messages": [{"role": "system", "content": word}, user]}
    yield {"messages": [user], "tools": [tool], "max_tokens": 8}
    yield {"messages": [user], "response_format": form, "max_tokens": 8}
    yield {"messages": [user], "stop": [word[:10]]}
    yield {"messages": [{"role": "user", "content": word * 400}]}  # too long
    yield {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": word}]}]}
    yield {"messages": [user], "response_format": {"type": word}}


def ask_all(http: httpx.Client, asked: Asked) -> None:
    word = asked.word
    models = [m["id"] for m in http.get("/v1/models", timeout=30).json()["data"] if m["type"] == "chat"]
    for model in [*models, "jethro-stream-mood"]:
        for stream in (False, True):
            said = [{"role": "user", "content": f"reverse {word}"}]
            response = http.post(CHAT, json={"model": model, "messages": said, "stream": stream}, timeout=120)
            asked.statuses.append(response.status_code)
            if response.status_code == 200:
                asked.answered[model, stream] = response.headers["x-jethro-decision-id"]
            simple = [{"role": "user", "content": "what is 40 + 2?"}]
            response = http.post(CHAT, json={"model": model, "messages": simple, "stream": stream}, timeout=120)
            asked.easy[model, stream] = response.headers["x-jethro-decision-id"]
        body = {"model": model, "stream": True, "messages": said}
        with http.stream("POST", CHAT, json=body, timeout=60) as leaving:
            next(leaving.iter_raw(), b"")
    for model in ("jethro", "jethro-cascade", "jethro-ensemble", "jethro-orchestrate"):
        for body in bodies(word):
            asked.statuses.append(http.post(CHAT, json={"model": model, **body}, timeout=120).status_code)
    prompt = {"model": "jlab-small", "prompt": word, "max_tokens": 8}
    asked.statuses.append(http.post("/v1/completions", json=prompt, timeout=60).status_code)
    asked.statuses.append(http.post("/v1/route", json={"model": "jethro", "messages": said}, timeout=60).status_code)
    given = {"decision_id": asked.answered["jethro", False], "score": 1.0}
    asked.statuses.append(http.post("/v1/feedback", json=given, timeout=30).status_code)
    asked.statuses.append(http.post(CHAT, content=f'{{"broken": "{word}"', timeout=30).status_code)


def environments(sessions: list[Path]) -> list[dict[str, str]]:
    """Of every process of the endpoint but the one that was started with the key."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if Path(environment.get(FOLDER, "/")) in sessions:
            found.append(environment)
    return found


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("serve")
    tree = load("lab").model_dump(mode="json")
    tree["streams"]["folder"] = str(folder / "streams")
    tree["ensemble"]["rounds"] = [{"calls": [{"pool": "small", "samples": 3}, {"pool": "large"}], "stop_at": 0.0}]
    tree["ensemble"] |= {"ranker": ranker(folder), "ranker_timeout_ms": 20_000}
    tree["scorer"] |= {"replicas": 1}
    tree["scorer"]["resources"]["num_cpus"] = 0.1
    tree["log"] |= {"level": "debug", "traces": {"enabled": True, "sample": 1.0}}
    before = set(session_folders())
    with Collector() as collector, pytest.MonkeyPatch.context() as changed:
        made = Asked(f"zq{secrets.token_hex(9)}", f"k{secrets.token_hex(9)}", folder, collector)
        changed.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        changed.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{made.key}")
        changed.setenv("OTEL_BSP_SCHEDULE_DELAY", "300")
        with serving(tree, folder) as url, httpx.Client(base_url=url) as http:
            assert http.post("/v1/streams", json=STREAM, timeout=60).status_code == 200
            ask_all(http, made)
            made.metrics = http.get("/metrics", timeout=30).text
            made.sessions = sorted(set(session_folders()) - before)
            made.environments = environments(made.sessions)
            time.sleep(2)  # what is written late: the store's batch, the log's
            yield made


def test_every_strategy_answered(asked: Asked) -> None:
    assert {200, 400} <= set(asked.statuses) and not {500, 502} & set(asked.statuses), asked.statuses
    models = {model for model, _ in asked.answered}
    assert {"jethro", "jethro-cascade", "jethro-cascade-stream", "jethro-ensemble", "jethro-orchestrate"} <= models
    assert {"jlab-small", "jlab-large", "jethro-stream-mood"} <= models
    assert all((model, stream) in asked.answered for model in models for stream in (False, True))


def test_every_trace_is_one_tree_across_processes(asked: Asked) -> None:
    for (model, stream), decision_id in [*asked.answered.items(), *asked.easy.items()]:
        spans = asked.of(decision_id)
        by_id = {span.span_id: span for span in spans}
        (root,) = [span for span in spans if not span.parent_id]
        assert (root.name, root.kind) == (POST, SERVER) and not root.failed, (model, stream)
        assert all(span.parent_id in by_id for span in spans if span is not root), (model, stream)
        assert root.attributes["gen_ai.request.model"] == model
        assert any(span.name == "decide" and span.parent_id == root.span_id for span in spans), (model, stream)
        for call in (span for span in spans if span.kind == CLIENT):
            (served,) = [span for span in spans if span.parent_id == call.span_id]
            (engine,) = [span for span in spans if span.parent_id == served.span_id]
            assert call.instance == root.instance and call.name == f"chat {call.attributes['gen_ai.request.model']}"
            assert served.kind == SERVER and served.instance == engine.instance != root.instance
            assert engine.name.partition(":")[0] == call.name.replace("chat", "generate")  # with its adapter
            assert served.attributes["jethro.decision_id"] == decision_id
    seen = {span.instance for span in asked.collector.spans}
    assert len(seen) >= 3, seen  # the Gateway and a replica of each pool


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("jethro-cascade", {"decide", "assess"}),
        ("jethro-cascade-stream", {"decide", "assess"}),
        ("jethro-ensemble", {"decide", "choose"}),
        ("jethro-orchestrate", {"decide", "assess"}),
    ],
)
def test_a_strategy_shows_what_it_did_between_its_calls(asked: Asked, model: str, names: set[str]) -> None:
    for stream in (False, True):
        assert names <= {span.name for span in asked.of(asked.easy[model, stream])}


def test_who_left_in_the_middle_is_shown_so(asked: Asked) -> None:
    left = [span for span in asked.collector.spans if span.attributes.get("jethro.status") == "cancelled"]
    assert all(span.attributes["http.response.status_code"] == 499 and not span.failed for span in left)


def test_the_word_is_in_no_trace_metric_log_or_store(asked: Asked) -> None:
    assert len(asked.collector.spans) > 100
    assert not any(asked.word.encode() in body for body in asked.collector.bodies)
    assert asked.word not in asked.metrics
    found = files_with(asked.word, asked.folder, *asked.sessions, Path("var"))
    # a stream's journal keeps the texts that its models are to learn from, until they have
    assert [name for name in found if not Path(name).is_relative_to(asked.folder / "streams")] == []


def test_a_log_line_of_a_request_names_its_decision_and_trace(asked: Asked) -> None:
    lines = [
        json.loads(line)
        for session in asked.sessions
        for path in session.rglob("*.err")
        for line in path.read_text(errors="replace").splitlines()
        if line.startswith('{"event":"request"')
    ]
    decision_id = asked.answered["jethro", False]
    (line,) = [one for one in lines if one["decision_id"] == decision_id and one["endpoint"] == "chat"]
    (root,) = [span for span in asked.of(decision_id) if not span.parent_id]
    assert line["trace_id"] == root.trace_id and line["request_id"] == root.attributes["jethro.request_id"]


def test_the_collectors_key_reaches_the_collector_and_no_process_file_or_log(asked: Asked) -> None:
    assert {headers["authorization"] for headers in asked.collector.headers} == {f"Bearer {asked.key}"}
    assert len(asked.environments) > 3
    assert not any(asked.key in value for environment in asked.environments for value in environment.values())
    found = files_with(asked.key, asked.folder, *asked.sessions)
    assert [Path(name).name for name in found] == ["secrets.json"]
