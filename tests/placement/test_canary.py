"""A random string in requests of class local is found nowhere afterwards: store, logs, journals, metrics.

The same requests of class any leave it in several of these places, so the search finds what is there.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from serve_app.api.app import build_app
from serve_app.errors import ContextLengthExceeded, UpstreamError
from serve_app.gateway.services import Services, build_services
from serve_app.observability.process_log import log_to_stderr
from serve_app.placement.policy import STRICTEST
from serve_app.streams.base import OnlineCore
from serve_app.streams.registry import LocalLearner, RegistryOptions
from serve_app.types import Query
from serve_app.wire.frames import Answer, Call, Frame
from tests.api.fakes import FakePool, config

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
MODELS = (
    *("jethro", "jethro-cascade", "jethro-cascade-stream", "jethro-cascade-route", "jethro-ensemble"),
    *("router-complexity-0.2", "jlab-small", "jlab-large", "jethro-stream-mood"),
)
STREAM = {"name": "mood", "labels": ["joy", "fear"], "instruction": "Name the feeling.", "levels": ["logistic"]}


@dataclass
class Quoting(FakePool):
    """Says the last message again; `fails` with an error that quotes it, in a way of ours or not; `hangs` for ever."""

    fails: str = ""
    hangs: bool = False
    prompts: list[str] = field(default_factory=list)

    def _note(self, query: Query, call: Call) -> None:
        super()._note(query, call)
        text = query.messages[-1].content
        self.prompts.append(text)
        self.words = (text, "?")
        if self.fails == "ours":
            raise UpstreamError(f"the engine failed at {text!r}", code="engine_failed")
        if self.fails == "too long":
            raise ContextLengthExceeded(f"{text!r} is too long")
        if self.fails == "not ours":
            raise RuntimeError(f"cannot parse {text!r}")

    async def count_tokens(self, query: Query, call: Call) -> int | None:
        self._note(query, call)
        return 7

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame]:
        async for frame in super().stream(query, call):
            yield frame
            if self.hangs:
                await asyncio.sleep(60)

    async def complete(self, query: Query, call: Call) -> Answer:
        found = await super().complete(query, call)
        if self.hangs:
            await asyncio.sleep(60)
        return found


@pytest.fixture(params=[True])
async def made(
    tmp_path: Path, capfd: Any, loggers: Any, request: pytest.FixtureRequest
) -> AsyncGenerator[tuple[Services, dict[str, Quoting]]]:
    """The parameter: whether the operator wants content in the logs and the store."""
    log_to_stderr("debug", content=request.param)
    tree = config(
        store={"path": str(tmp_path / "x.sqlite3"), "flush_s": 0.02, "keep_prompts": request.param},
        streams={"folder": str(tmp_path / "streams"), "poll_s": 0.02},
        ensemble={"rounds": [{"calls": [{"pool": "small"}, {"pool": "large"}]}]},
        placement={"detected": "private"},
    )
    pools = {name: Quoting(name, f"jlab-{name}") for name in ("small", "large")}
    for pool in pools.values():
        pool.capabilities = type(pool.capabilities)(logprobs=True, guided=True, tools=True)
    learner = LocalLearner(RegistryOptions(tmp_path / "streams"), OnlineCore())
    services = build_services(tree, pools, learner=learner)
    await services.start()
    yield services, pools
    await services.aclose()
    await learner.aclose()


async def ask_everything(
    http: httpx.AsyncClient, pools: dict[str, Quoting], canary: str, privacy: str, comment: str
) -> list[int]:
    """Over all strategies: answers, streams, failures, prompts that are too long, and callers who leave."""
    statuses = []
    headers = {"x-jethro-privacy": privacy}
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    for model in MODELS:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": f"my word is {canary}"}]}
        for fails in ("", "ours", "too long", "not ours"):
            for pool in pools.values():
                pool.fails = fails
            for stream in (False, True):
                answer = await http.post(CHAT, json={**body, "stream": stream}, headers=headers)
                statuses.append(answer.status_code)
                if answer.status_code == 200 and (id_ := answer.headers.get("x-jethro-decision-id")):
                    given = {"decision_id": id_, "score": 0.5, "comment": comment}
                    statuses.append((await http.post("/v1/feedback", json=given)).status_code)
                ours = {**body, "max_tokens": 20, "stream": stream, "system": f"system of {canary}"}
                statuses.append((await http.post(MESSAGES, json=ours, headers=headers)).status_code)
            counted = await http.post(f"{MESSAGES}/count_tokens", json=body, headers=headers)
            statuses.append(counted.status_code)
        for pool in pools.values():
            pool.fails, pool.hangs = "", True
        for stream in (False, True):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await http.post(CHAT, json={**body, "stream": stream}, headers=headers)
                raise TimeoutError  # a stream's own level answers at once
        for pool in pools.values():
            pool.hangs = False
        statuses.append((await http.post("/v1/route", json={**body, "tools": [tool]}, headers=headers)).status_code)
        odd = {**body, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": canary}]}]}
        statuses.append((await http.post(CHAT, json=odd, headers=headers)).status_code)
    return statuses


def places_of(canary: str, folder: Path, *texts: str) -> list[str]:
    """Where a string is found: file names, and the numbers of the texts."""
    found = [p.name for p in folder.rglob("*") if p.is_file() and canary.encode() in p.read_bytes()]
    return found + [f"text {i}" for i, text in enumerate(texts) if canary in text]


@pytest.mark.parametrize("privacy", [STRICTEST[0], STRICTEST[-1]])
async def test_a_word_of_a_local_request_is_found_nowhere(made: Any, tmp_path: Path, capfd: Any, privacy: str) -> None:
    services, pools = made
    canary = f"zq{secrets.token_hex(12)}"
    transport = httpx.ASGITransport(build_app(services), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://jethro") as http:
        assert (await http.post("/v1/streams", json=STREAM)).status_code == 200
        statuses = await ask_everything(http, pools, canary, privacy, f"it said {canary}")
        metrics = (await http.get("/metrics")).text
        await asyncio.sleep(0.3)
        keep: list[str] = []
        ids = [orjson.loads(line).get("decision_id") for line in capfd_lines(capfd, keep)]
        shown = [(await http.get(f"/v1/decisions/{id_}")).text for id_ in filter(None, ids)]
    await asyncio.sleep(0.3)
    await services.aclose()
    logs = "".join(keep) + "".join(capfd.readouterr())
    assert {200, 400, 500} <= set(statuses) and 404 not in statuses
    assert any(canary in text for pool in pools.values() for text in pool.prompts)
    found = places_of(canary, tmp_path, logs, metrics, *shown)
    if privacy == "local":
        assert found == []
        assert '"privacy":"local"' in logs and "RuntimeError: (not logged)" in logs
    else:
        assert "text 0" in found and any(name.startswith("x.sqlite3") for name in found)
        assert any("jsonl" in name or "journal" in name or name.endswith(".log") for name in found) or len(found) > 2


@pytest.mark.parametrize("made", [False], indirect=True)
async def test_by_default_a_word_is_found_nowhere_but_where_a_stream_learns_from_it(
    made: Any, tmp_path: Path, capfd: Any
) -> None:
    """Nor in an error's text. A stream's journal keeps texts until it has learned from them: that is what it is for."""
    services, pools = made
    canary = f"zq{secrets.token_hex(12)}"
    transport = httpx.ASGITransport(build_app(services), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://jethro") as http:
        assert (await http.post("/v1/streams", json=STREAM)).status_code == 200
        statuses = await ask_everything(http, pools, canary, STRICTEST[-1], "it was good")
        metrics = (await http.get("/metrics")).text
    await asyncio.sleep(0.3)
    await services.aclose()
    logs = "".join(capfd.readouterr())
    assert {200, 400, 500} <= set(statuses) and 404 not in statuses
    assert places_of(canary, tmp_path, logs, metrics) == places_of(canary, tmp_path / "streams")
    assert '"privacy":"any"' in logs and "RuntimeError: (not logged)" in logs


def capfd_lines(capfd: Any, keep: list[str]) -> list[str]:
    """The JSON lines logged so far; all that was read is kept."""
    read = capfd.readouterr()
    keep += [read.out, read.err]
    return [line for line in read.err.splitlines() if line.startswith("{")]
