"""Whatever is sent, the answer is never a 5xx and always an error object or an answer."""

import asyncio
import json

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.api.app import build_app
from tests.api.fakes import services

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
BODIES = {
    "/v1/chat/completions": {
        "model": "jethro",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "4", "tool_call_id": "c"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
        "temperature": 0.5,
        "n": 2,
        "stop": ["x"],
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
        "metadata": {"a": "b"},
    },
    "/v1/completions": {"model": "lab-small", "prompt": "hi", "max_tokens": 5, "logprobs": 1, "stop": "x"},
    "/v1/route": {"model": "jethro", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/feedback": {"decision_id": "x", "score": 0.5, "comment": "fine"},
}  # fmt: skip

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["user", "function"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every path into a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@st.composite
def mutated(draw):
    """A good body with one to three places replaced, removed or grown."""
    path = draw(st.sampled_from(sorted(BODIES)))
    body = json.loads(json.dumps(BODIES[path]))
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([p for p in places(body) if p] or [("model",)]))
        at = body
        for key in parents:
            at = at[key]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "replace" or not isinstance(at, dict):
            at[last] = draw(values)
        elif change == "remove":
            at.pop(last, None)
        else:
            at[draw(st.text(max_size=6))] = draw(values)
    return path, json.dumps(body).encode()


def ask(path: str, body: bytes) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(build_app(services()))
        async with httpx.AsyncClient(transport=transport, base_url="http://jethro") as http:
            return await http.post(path, content=body, headers={"content-type": "application/json"})

    return asyncio.run(asked())


def check(response: httpx.Response) -> None:
    assert response.status_code in (200, 400, 404, 413), response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_good_bodies_gone_wrong(asked):
    check(ask(*asked))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(BODIES)), st.binary(max_size=40))
def test_any_bytes(path, body):
    check(ask(path, body))


def test_the_bodies_that_are_mutated_are_good():
    for path, body in BODIES.items():
        assert ask(path, json.dumps(body).encode()).status_code == (404 if path == "/v1/feedback" else 200)
