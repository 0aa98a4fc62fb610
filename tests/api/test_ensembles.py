"""Ensembles through the API: what the official client gets, what is counted, and what a failure looks like."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from serve_app.engines.local_pool import LocalPool
from serve_app.ensemble.base import MemberCalls
from serve_app.ensemble.serving.strategy import Ensemble
from serve_app.errors import Overloaded, UpstreamError
from serve_app.gateway.services import Services
from serve_app.observability.access_log import NoLog
from serve_app.wire.frames import Frame
from tests.api.fakes import Entry, config, services
from tests.api.server import serving
from tests.api.test_disconnect import head, until
from tests.cascade.fakes import engine_of, pool
from tests.ensemble.serving.fakes import assert_nothing_is_open, ensemble, members, plan
from tests.ensemble.serving.test_failures import hanging

CHAT, MODEL, READ = "/v1/chat/completions", "jethro-ensemble", len("hello") + 1
BOTH = pytest.mark.parametrize("stream", [False, True])


class One:
    """A catalogue of the ensemble alone."""

    def __init__(self, strategy: Ensemble) -> None:
        self.strategy = strategy

    def resolve(self, model: str) -> Ensemble:
        return self.strategy

    def models(self) -> list[Entry]:
        return [Entry(MODEL)]


def parts(pools: dict[str, LocalPool], strategy: Ensemble | None = None, **limits: Any) -> Services:
    def change(made: dict[str, Any]) -> None:
        made.update(pools=pools, catalogue=One(strategy or ensemble(pools)), access_log=NoLog())

    return services(tree=config(limits=limits), change=change)


def ask(stream: bool, **rest: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **rest}
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body


def last_of(response: Any, stream: bool) -> dict[str, Any]:
    return Frame(response.content).events[-1] if stream else response.json()


@BOTH
async def test_usage_counts_every_candidate_and_the_wasted_are_shown_apart(client: Any, stream: bool) -> None:
    pools = members(a="four", b="five", c="four")
    made = parts(pools)
    response = await client(made).post(CHAT, json=ask(stream))
    last = last_of(response, stream)
    jethro = last["jethro"]
    assert response.headers["x-jethro-strategy"] == "ensemble" and jethro["pool"] == "c"
    assert last["usage"] == {"prompt_tokens": 3 * READ, "completion_tokens": 12, "total_tokens": 3 * READ + 12}
    assert {(s["pool"], s["wasted"]) for s in jethro["steps"]} == {("a", True), ("b", True), ("c", False)}
    assert jethro["wasted"]["total_tokens"] == 2 * READ + 8
    assert "2 of 3 votes" in jethro["reason"]
    metrics = made.recorder.text().decode()
    assert f'jethro_wasted_tokens_total{{pool="a"}} {READ + 4}.0' in metrics
    assert "jethro_escalations_total{" not in metrics and "jethro_fallbacks_total{" not in metrics
    record = made.store.records[response.headers["x-jethro-decision-id"]]  # type: ignore[attr-defined]
    assert record.decision.features == {"c:votes": 2, "a:votes": 2, "b:votes": 1}


@BOTH
async def test_one_call_of_several_samples_shows_its_own_usage(client: Any, stream: bool) -> None:
    pools = members(a="four")
    strategy = ensemble(pools, plan((MemberCalls("a", 3),)))
    last = last_of(await client(parts(pools, strategy)).post(CHAT, json=ask(stream)), stream)
    assert last["usage"]["completion_tokens"] == 12 and last["usage"]["prompt_tokens"] == READ
    assert [choice["index"] for choice in last.get("choices", [])] in ([0], [])


@BOTH
@pytest.mark.parametrize(
    ("errors", "status"), [((UpstreamError("x"), UpstreamError("y")), 502), ((Overloaded("x"), Overloaded("y")), 429)]
)
async def test_all_members_failing_is_an_error_object(client: Any, errors: Any, status: int, stream: bool) -> None:
    pools = {n: pool("x", n, fail_after=0, error=e) for n, e in zip("ab", errors, strict=True)}
    made = parts(pools)
    response = await client(made).post(CHAT, json=ask(stream))
    assert response.status_code == status and set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert 'jethro_wasted_tokens_total{pool="a"} 0.0' in made.recorder.text().decode()


@BOTH
async def test_all_members_hanging_is_a_timeout(client: Any, stream: bool) -> None:
    pools = members(a=hanging("a"), b=hanging("b"))
    response = await client(parts(pools, request_timeout_s=0.3)).post(CHAT, json=ask(stream))
    assert response.status_code == 504 and response.json()["error"]["code"] == "deadline_exceeded"
    assert_nothing_is_open(pools)


@BOTH
async def test_one_that_hangs_costs_no_answer(client: Any, stream: bool) -> None:
    pools = members(a="four", b=hanging("b"), c=hanging("c"))
    response = await client(parts(pools, request_timeout_s=1.0)).post(CHAT, json=ask(stream))
    assert response.status_code == 200 and "b was late" in last_of(response, stream)["jethro"]["reason"]


@BOTH
@pytest.mark.parametrize("body", [{"messages": []}, {"n": 99}, {"temperature": 9}, {"tools": 7}])
async def test_bad_input_calls_no_member(client: Any, body: dict[str, Any], stream: bool) -> None:
    pools = members(a="four", b="five")
    response = await client(parts(pools)).post(CHAT, json=ask(stream, **body))
    assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"
    assert not any(engine_of(p).queries for p in pools.values())


@pytest.fixture
def url() -> Any:
    pools = members(a="four", b="five", c=pool("four", "c", delay_s=0.002))
    with serving(lambda: parts(pools)) as address:
        yield address


@pytest.mark.slow
async def test_the_official_client_gets_answers_and_streams(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as official:
        asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
        whole = await official.chat.completions.create(**asked)
        assert whole.choices[0].message.content == "four" and whole.usage is not None
        assert whole.model_extra is not None and whole.model_extra["jethro"]["strategy"] == "ensemble"
        stream: AsyncIterator[Any] = await official.chat.completions.create(**asked, stream=True)
        said = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert "".join(said) == "four"
        several = await official.chat.completions.create(**asked, n=2)
        assert [choice.index for choice in several.choices] == [0, 1]


@pytest.mark.slow
@BOTH
async def test_hanging_up_frees_every_engine(stream: bool) -> None:
    pools = {name: pool("y" * 10_000, name, first_delay_s=0.01, delay_s=0.01) for name in "abc"}
    made: list[Services] = []

    def served() -> Services:
        made.append(parts(pools))
        return made[0]

    with serving(served) as address:
        host, port = address.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        raw = json.dumps(ask(stream)).encode()
        writer.write(head(len(raw)) + raw)
        await until(lambda: all(engine_of(p).running for p in pools.values()))
        writer.close()
        await writer.wait_closed()
        await until(lambda: not any(engine_of(p).running for p in pools.values()))
        assert [engine_of(p).cancelled for p in pools.values()] == [1, 1, 1]
