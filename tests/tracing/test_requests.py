"""One request's trace has every span with the right parents, on both sides of every call, for every strategy."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.placement.worlds import STREAM
from tests.tracing.world import MODELS, Seen, World, world

BOTH = pytest.mark.parametrize("stream", [False, True])
POST = "POST /v1/chat/completions"


def called(name: str) -> Any:
    """The outline of a call to a pool that answers."""
    return (f"chat m-{name}", [(POST, [f"generate m-{name}"])])


ONE, SMALL, LARGE = "decide", called("small"), called("large")
CHECKED = [SMALL, "assess"]
EXPECTED = {
    "route": [ONE, SMALL],
    "route-all": [ONE, called("remote")],
    "cascade": [ONE, *CHECKED, LARGE, "assess"],
    "cascade-stream": [ONE, SMALL, "assess", LARGE],
    "cascade-route": [ONE, *CHECKED, LARGE, "assess"],
    "best-of": [ONE, ONE, SMALL, "choose"],
    "orchestrate": [ONE, SMALL, "assess"],
    "direct-small": [ONE, SMALL],
    STREAM: [ONE, LARGE],
}
"""Spans under the request's own, where the order is fixed."""


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as found:
        yield found


@BOTH
@pytest.mark.parametrize("model", MODELS)
async def test_every_span_has_its_parent_across_processes(made: World, model: str, stream: bool) -> None:
    response = await made.ask(model, stream=stream)
    assert response.status_code == 200, response.text
    root = await made.root()
    assert root.name == POST and root.span.parent is None and not root.failed
    id_ = response.headers["x-jethro-decision-id"]
    calls = [one for one in root.below if one.kind == "client"]
    assert calls
    for call in calls:
        pool = call["jethro.pool"]
        assert call.side == "gateway" and call["jethro.decision_id"] == id_
        (served,) = call.children
        assert (served.side, served.kind, served.name) == (pool, "server", POST)
        assert served["jethro.decision_id"] == id_
        assert served["jethro.request_id"] == response.headers["x-request-id"] == root["jethro.request_id"]
        (engine,) = served.children
        assert (engine.side, engine.kind, engine.name) == (pool, "internal", f"generate m-{pool}")
    assert {one.side for one in root.below if one.kind == "internal"} - set(made.replicas) == {"gateway"}
    if model in EXPECTED:
        assert sorted(map(str, (c.outline for c in root.children))) == sorted(map(str, EXPECTED[model]))
    assert root["jethro.decision_id"] == id_ and root["jethro.strategy"] == response.headers["x-jethro-strategy"]
    assert root["jethro.pool"] == response.headers["x-jethro-pool"]
    assert root["http.response.status_code"] == 200 and root["jethro.status"] == "completed"


@BOTH
async def test_a_call_carries_the_conventions_attributes(made: World, stream: bool) -> None:
    await made.ask("route", stream=stream, temperature=0.5, max_tokens=20, seed=3)
    root = await made.root()
    (call,) = [one for one in root.below if one.kind == "client"]
    assert {name: call[name] for name in call.span.attributes or {} if name.startswith("gen_ai.request")} == {
        "gen_ai.request.model": "m-small",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stream": stream,
    }
    assert (call["gen_ai.operation.name"], call["gen_ai.provider.name"]) == ("chat", "jethro")
    assert call["gen_ai.response.model"] == "m-small" and call["gen_ai.response.id"].startswith("chatcmpl-")
    assert call["gen_ai.response.finish_reasons"] == ("stop",)
    assert (call["gen_ai.usage.input_tokens"], call["gen_ai.usage.output_tokens"]) == (7, 7)
    assert call["gen_ai.response.time_to_first_chunk"] > 0
    assert made.replicas["small"].address == f"http://{call['server.address']}:{call['server.port']}/v1"
    (engine,) = call.named("generate m-small")
    assert (engine["gen_ai.usage.input_tokens"], engine["gen_ai.usage.output_tokens"]) == (7, 7)
    assert engine["gen_ai.response.finish_reasons"] == ("stop",)
    (decide,) = root.named("decide")
    assert decide["jethro.score"] == root["jethro.score"] == pytest.approx(0.06)
    assert decide["jethro.threshold"] == 0.5 and decide["jethro.router"] == "length"
    assert root["gen_ai.usage.input_tokens"] == 7 and root["jethro.cost_usd"] > 0


async def test_a_samples_call_is_of_the_same_decision(made: World) -> None:
    response = await made.ask("best-of")
    root = await made.root()
    calls = [one for one in root.below if one.kind == "client"]
    assert [one["gen_ai.request.choice.count"] for one in calls] == [2]
    assert {one["jethro.decision_id"] for one in calls} == {response.headers["x-jethro-decision-id"]}


async def test_a_decision_alone_is_traced(made: World) -> None:
    body = {"model": "route", "messages": [{"role": "user", "content": "hi"}]}
    response = await made.http.post("/v1/route", json=body)
    root = await made.root()
    assert root.outline == ("POST /v1/route", ["decide"])
    assert root.children[0]["jethro.decision_id"] == response.json()["decision_id"]
    assert root["http.response.status_code"] == 200


def shown(found: list[Seen]) -> str:
    """All that spans say, as text."""
    return "\n".join(
        f"{one.name} {dict(one.span.attributes or {})} {[(e.name, dict(e.attributes or {})) for e in one.span.events]} "
        f"{one.span.status.description}"
        for root in found
        for one in (root, *root.below)
    )


@BOTH
@pytest.mark.parametrize("model", MODELS)
async def test_nothing_that_was_written_is_on_a_span(made: World, model: str, stream: bool) -> None:
    tool = {"type": "function", "function": {"name": "canary_tool", "description": "canary"}}
    asked = [{"role": "system", "content": "canary"}, {"role": "user", "content": "canary joy"}]
    messages = asked[1:] if model == STREAM else asked
    more: dict[str, Any] = {} if model == STREAM else {"stop": ["canary"], "tools": [tool]}
    await made.ask(model, stream=stream, messages=messages, user="canary", **more)
    found = await made.roots()
    assert len(found) == 1 and len(found[0].below) >= 3
    said = shown(found)
    assert "canary" not in said and "two" not in said and '"joy"' not in said


@BOTH
async def test_messages_and_answers_are_shown_where_content_is_switched_on(tmp_path: Path, stream: bool) -> None:
    async with world(tmp_path, content=True) as made:
        await made.ask("route", stream=stream)
        root = await made.root()
        (call,) = [one for one in root.below if one.kind == "client"]
        assert '"content":"hi joy"' in call["gen_ai.input.messages"]
        assert '"content":"hm? two"' in call["gen_ai.output.messages"]
        assert shown([root]).count("hi joy") == 1


@BOTH
async def test_a_request_of_which_nothing_is_kept_shows_none_even_so(tmp_path: Path, stream: bool) -> None:
    async with world(tmp_path, content=True) as made:
        from serve_app.placement.policy import PlacementPolicy
        from tests.placement.worlds import NAMES, tree

        object.__setattr__(made.services, "placement", PlacementPolicy(tree(dict.fromkeys(NAMES, "local")), None))
        response = await made.ask("route", stream=stream, headers={"x-jethro-privacy": "local"})
        assert response.status_code == 200
        root = await made.root()
        assert root["jethro.privacy"] == "local" and root.named("place")
        assert "hi joy" not in shown([root]) and "two" not in shown([root])
