"""Cascades through the API: what callers see of calls, costs and log-probabilities, and what is recorded."""

import asyncio
import json
from typing import Any

import pytest

from serve_app.cascade.serving.strategy import CascadeStrategy
from serve_app.cascade.serving.streaming import StreamingCascade
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import ModelNotFound, Overloaded
from serve_app.gateway.services import Services
from serve_app.observability.access_log import NoLog
from serve_app.wire.frames import Frame
from tests.api.fakes import Entry, config, services
from tests.api.server import serving
from tests.api.test_disconnect import head, until
from tests.cascade.fakes import STRONG, WEAK, chain, engine_of, pool, pools

CHAT = "/v1/chat/completions"
SURE, UNSURE = "ab, and a long rest", "a?, and a long rest"
READ = len("hello") + 1
MODELS = pytest.mark.parametrize("model", ["jethro-cascade", "jethro-cascade-stream"])
BOTH = pytest.mark.parametrize("stream", [False, True])


class Cascades:
    """Both cascades over the same pools."""

    def __init__(self, both: dict[str, LocalPool]) -> None:
        self.named: dict[str, Any] = {
            "jethro-cascade": CascadeStrategy("cascade", chain(), both),
            "jethro-cascade-stream": StreamingCascade("cascade-stream", chain(probe_tokens=2), both),
        }

    def resolve(self, model: str) -> Any:
        if model not in self.named:
            raise ModelNotFound(model)
        return self.named[model]

    def models(self) -> list[Entry]:
        return [Entry(name) for name in self.named]


def parts(both: dict[str, LocalPool] | None = None, **limits: Any) -> Services:
    over = both or pools(UNSURE)

    def change(made: dict[str, Any]) -> None:
        made.update(pools=over, catalogue=Cascades(over), access_log=NoLog())

    return services(tree=config(limits=limits), change=change)


def ask(model: str, stream: bool, **rest: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **rest}
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body


def bodies(response: Any, stream: bool) -> list[dict[str, Any]]:
    return Frame(response.content).events if stream else [response.json()]


@MODELS
@BOTH
async def test_usage_and_cost_count_every_call_and_the_wasted_are_shown_apart(client, model, stream) -> None:
    made = parts({WEAK: pool(UNSURE, delay_s=0.003), STRONG: pool("strong", STRONG, 100.0)})
    response = await client(made).post(CHAT, json=ask(model, stream))
    last = bodies(response, stream)[-1]
    jethro = last["jethro"]
    written = jethro["steps"][0]["usage"]["completion_tokens"]
    assert response.headers["x-jethro-pool"] == jethro["pool"] == STRONG
    assert written == (2 if model.endswith("stream") else len(UNSURE))
    assert last["usage"]["completion_tokens"] == len("strong") + written
    assert last["usage"]["prompt_tokens"] == 2 * READ
    assert [(s["pool"], s["wasted"]) for s in jethro["steps"]] == [(WEAK, True), (STRONG, False)]
    assert jethro["wasted"]["total_tokens"] == READ + written
    assert jethro["wasted"]["cost_usd"] == pytest.approx((READ + 10 * written) / 1e6)
    assert jethro["cost_usd"] == pytest.approx(jethro["wasted"]["cost_usd"] + 100 * (READ + 10 * len("strong")) / 1e6)
    if not stream:
        assert float(response.headers["x-jethro-cost-usd"]) == pytest.approx(jethro["cost_usd"], rel=1e-5)
        assert response.headers["x-jethro-wasted-tokens"] == str(READ + written)
    metrics = made.recorder.text().decode()
    assert f'jethro_wasted_tokens_total{{pool="small"}} {READ + written}.0' in metrics
    assert 'jethro_escalations_total{pool="small"} 1.0' in metrics and "jethro_fallbacks_total{" not in metrics


@MODELS
@BOTH
async def test_an_accepted_answer_looks_like_the_pools_own(client, model, stream) -> None:
    response = await client(parts(pools(SURE))).post(CHAT, json=ask(model, stream))
    told = bodies(response, stream)
    assert response.headers["x-jethro-pool"] == WEAK and "x-jethro-wasted-tokens" not in response.headers
    assert response.headers["x-jethro-score"] == "1" and response.headers["x-jethro-threshold"] == "0.5"
    assert all(choice["logprobs"] is None for body in told for choice in body["choices"])
    assert told[-1]["usage"]["completion_tokens"] == len(SURE)
    assert "steps" not in told[-1]["jethro"]


@MODELS
@BOTH
async def test_log_probabilities_that_were_asked_for_are_shown(client, model, stream) -> None:
    response = await client(parts(pools(SURE))).post(CHAT, json=ask(model, stream, logprobs=True, top_logprobs=1))
    choices = [choice for body in bodies(response, stream) for choice in body["choices"]]
    entries = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    assert len(entries) == len(SURE) and all(len(entry["top_logprobs"]) == 1 for entry in entries)


@MODELS
@BOTH
async def test_several_choices_come_from_one_model(client, model, stream) -> None:
    response = await client(parts(pools(SURE))).post(CHAT, json=ask(model, stream, n=2))
    told = bodies(response, stream)
    assert {choice["index"] for body in told for choice in body["choices"]} == {0, 1}
    assert {body["model"] for body in told} == {"m-small"}


@MODELS
@BOTH
async def test_a_full_level_is_skipped(client, model, stream) -> None:
    both = pools(SURE) | {WEAK: pool(SURE, fail_after=0, error=Overloaded("full"))}
    made = parts(both)
    response = await client(made).post(CHAT, json=ask(model, stream))
    last = bodies(response, stream)[-1]
    assert response.status_code == 200 and last["jethro"]["pool"] == STRONG
    assert [s["failed"] for s in last["jethro"]["steps"]] == [True, False]
    assert 'jethro_fallbacks_total{pool="small"} 1.0' in made.recorder.text().decode()


@BOTH
async def test_at_the_deadline_the_answer_at_hand_is_given(client, stream) -> None:
    both = pools(UNSURE) | {STRONG: pool("late", STRONG, first_delay_s=5)}
    made = parts(both, request_timeout_s=0.8)
    response = await client(made).post(CHAT, json=ask("jethro-cascade", stream))
    last = bodies(response, stream)[-1]
    assert response.status_code == 200 and last["jethro"]["pool"] == WEAK
    assert "no time for m-large" in last["jethro"]["reason"]


@MODELS
async def test_tools_that_nobody_has_are_refused(client, model) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    response = await client(parts()).post(CHAT, json=ask(model, False, tools=[tool]))
    assert response.status_code == 400 and response.json()["error"]["param"] == "tools"


@MODELS
async def test_route_tells_the_chain_and_asks_nobody(client, model) -> None:
    both = pools()
    response = await client(parts(both)).post("/v1/route", json=ask(model, False))
    body = response.json()
    assert (body["pool"], body["threshold"]) == (WEAK, 0.5) and "then m-large" in body["reason"]
    assert body["expected"]["chain"] == {"quality": 0.9}
    assert engine_of(both[WEAK]).queries == []


@MODELS
async def test_the_decision_that_is_kept_tells_each_step(client, model) -> None:
    made = parts()
    response = await client(made).post(CHAT, json=ask(model, False))
    record = made.store.records[response.headers["x-jethro-decision-id"]]  # type: ignore[attr-defined]
    assert record.decision.features["small:probability"] == 0.2
    assert record.usage.completion_tokens > len("strong") and record.cost_usd > 0


@pytest.mark.slow
@MODELS
@BOTH
@pytest.mark.parametrize("slow", [WEAK, STRONG])
async def test_hanging_up_frees_every_engine(model, stream, slow) -> None:
    both = pools(UNSURE) | {slow: pool("?" * 10_000, slow, first_delay_s=0.01, delay_s=0.01)}
    slow_engine = engine_of(both[slow])
    body = ask(model, stream)
    if slow == WEAK and model.endswith("stream"):
        slow_engine.first_delay_s = 5.0  # otherwise its first tokens are judged, and it is replaced
    made: list[Services] = []

    def served() -> Services:
        made.append(parts(both))
        return made[0]

    with serving(served) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        raw = json.dumps(body).encode()
        writer.write(head(len(raw)) + raw)
        await until(lambda: slow_engine.running)
        writer.close()
        await writer.wait_closed()
        await until(lambda: not any(engine_of(p).running for p in both.values()))
        assert slow_engine.cancelled == 1
        if slow == STRONG:  # what the weak answer took is counted all the same
            lost = f'jethro_wasted_tokens_total{{pool="small"}} {READ + len(UNSURE)}.0'
            await until(lambda: lost in made[0].recorder.text().decode())
