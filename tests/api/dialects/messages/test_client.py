"""Anthropic's own client against a real server."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anthropic
import httpx
import pytest

from serve_app.api.app import build_app
from serve_app.engines.local_pool import LocalPool
from serve_app.errors import (
    DeadlineExceeded,
    JethroError,
    Overloaded,
    PlacementForbidden,
    PoolUnavailable,
    UpstreamError,
)
from serve_app.types import Capabilities, Price, Query
from tests.api.dialects.messages.doubles import ToolPool
from tests.api.fakes import FakePool, config, services
from tests.api.server import serving
from tests.fakes import FakeEngine
from tests.guards.fakes import guards

pytestmark = pytest.mark.usefixtures("certificates_are_read_once")

HI: Any = [{"role": "user", "content": "hello"}]
ASK: dict[str, Any] = {"model": "jethro", "max_tokens": 50, "messages": HI}
TOOLS: Any = [
    {"name": name, "description": name, "input_schema": {"type": "object", "properties": {"turn": {}, "path": {}}}}
    for name in ("read_file", "list_files")
]
LONG = Capabilities(max_context_tokens=100_000)
ABLE = Capabilities(max_context_tokens=400, guided=True, tools=True)


def client(url: str, key: str = "k1", **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, **options)


def echoing() -> Any:
    small = LocalPool("small", FakeEngine("lab-small", capabilities=ABLE), Price(1, 1))
    large = LocalPool("large", FakeEngine("lab-large", capabilities=ABLE), Price(10, 10))
    return services(small=small, large=large, keys={"acme": "k1"})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(echoing) as base:
        yield base


@pytest.fixture(params=["whole", "streamed"])
def ask(request: pytest.FixtureRequest) -> Any:
    """The two ways to get a message."""

    def asked(made: anthropic.Anthropic, **fields: Any) -> Any:
        fields = {**ASK, **fields}
        with made:
            if request.param == "whole":
                return made.messages.create(**fields)
            with made.messages.stream(**fields) as stream:
                text = "".join(stream.text_stream)
                message = stream.get_final_message()
                assert text == "".join(block.text for block in message.content if block.type == "text")
                return message

    return asked


def test_a_message(url: str, ask: Any) -> None:
    message = ask(client(url), system="be brief")
    assert message.id.startswith("msg_") and (message.type, message.role) == ("message", "assistant")
    assert [block.model_dump(include={"type", "text"}) for block in message.content] == [
        {"type": "text", "text": "hello"}
    ]
    assert (message.model, message.stop_reason, message.stop_sequence) == ("lab-small", "end_turn", None)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (15, 5)


def test_the_decision_comes_in_headers_and_as_a_field(url: str) -> None:
    with client(url) as made:
        raw = made.messages.with_raw_response.create(**ASK)
        message = raw.parse()
        assert message.jethro["decision_id"] == raw.headers["x-jethro-decision-id"]  # type: ignore[attr-defined]
        assert message.id == f"msg_{message.jethro['decision_id']}"  # type: ignore[attr-defined]
        assert message._request_id == raw.headers["request-id"] == raw.headers["x-request-id"]
        assert raw.headers["x-jethro-pool"] == "small" and "x-jethro-cost-usd" in raw.headers
        with made.messages.stream(**ASK) as stream:
            deltas = [event for event in stream if event.type == "message_delta"]
            assert stream.request_id
        assert [event.jethro["pool"] for event in deltas] == ["small"]  # type: ignore[attr-defined]


def test_a_limit_and_a_stop_sequence(url: str, ask: Any) -> None:
    message = ask(client(url), max_tokens=2)
    assert (message.content[0].text, message.stop_reason) == ("he", "max_tokens")
    message = ask(client(url), stop_sequences=["never", "lo"])
    assert (message.content[0].text, message.stop_reason, message.stop_sequence) == ("hel", "stop_sequence", "lo")


async def test_the_asynchronous_client(url: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="k1", max_retries=0) as made:
        whole = await made.messages.create(**ASK)
        async with made.messages.stream(**ASK) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_message()
    assert whole.content[0].text == streamed.content[0].text == "hello"  # type: ignore[union-attr]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"


def test_a_key_as_a_bearer_token(url: str) -> None:
    with anthropic.Anthropic(base_url=url, auth_token="k1", api_key=None, max_retries=0) as made:
        assert made.messages.create(**ASK).stop_reason == "end_turn"
    with httpx.Client(base_url=url) as plain:
        assert plain.get("/v1/models", headers={"x-api-key": "k1"}).status_code == 200
        assert plain.get("/v1/models", headers={"x-api-key": "k2"}).status_code == 401


def test_a_tool_loop_of_five_turns(ask: Any) -> None:
    pool = ToolPool()
    messages = list(HI)
    with serving(lambda: services(small=pool)) as base:
        for turn in range(5):
            message = ask(client(base), model="lab-small", messages=messages, tools=TOOLS)
            assert message.stop_reason == "tool_use"
            text, *calls = message.content
            assert text.text == f"turn {turn}" and [call.name for call in calls] == ["read_file", "list_files"]
            assert all(call.input == {"turn": turn, "path": "ä/b"} for call in calls)
            results = [
                {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": f"r{turn}"}]}
                for call in calls
            ]
            # as a parameter, as a dictionary, and as the whole message: what an answer held is accepted back
            echoes = [message.to_param(), {"role": "assistant", "content": message.content}, message.model_dump()]
            messages += [echoes[turn % 3], {"role": "user", "content": results}]
        last = ask(client(base), model="lab-small", messages=messages, tools=TOOLS)
    assert (last.content[0].text, last.stop_reason) == ("done: r4", "end_turn")
    roles = [message.role for message in pool.queries[-1].messages]
    assert roles == ["user", *["assistant", "tool", "tool"] * 5]
    assert pool.queries[-1].messages[1].extra["tool_calls"][0]["id"] == "call_0_0"


@pytest.mark.parametrize(
    ("error", "kind", "type_"),
    [
        (Overloaded("full", retry_after_s=3), anthropic.RateLimitError, "rate_limit_error"),
        (PoolUnavailable("away"), anthropic.InternalServerError, "overloaded_error"),
        (UpstreamError("broke"), anthropic.InternalServerError, "api_error"),
        (DeadlineExceeded("late"), anthropic.InternalServerError, "timeout_error"),
        (PlacementForbidden("no"), anthropic.PermissionDeniedError, "permission_error"),
        (ValueError("a secret"), anthropic.InternalServerError, "api_error"),
    ],
)
def test_errors_of_pools(ask: Any, error: Exception, kind: type[anthropic.APIStatusError], type_: str) -> None:
    with (
        serving(
            lambda: services(small=FakePool(error=error), large=FakePool("large", "lab-large", error=error))
        ) as base,
        pytest.raises(kind) as caught,
    ):
        ask(client(base))
    assert caught.value.type == type_ and caught.value.request_id
    assert caught.value.status_code == (error.status if isinstance(error, JethroError) else 500)
    assert "secret" not in str(caught.value)
    body: Any = caught.value.body
    assert body["type"] == "error" and body["request_id"] == caught.value.request_id


@pytest.mark.parametrize(
    ("fields", "kind", "type_"),
    [
        ({"extra_body": {"temperature": 3}}, anthropic.BadRequestError, "invalid_request_error"),
        ({"model": "claude-none"}, anthropic.NotFoundError, "not_found_error"),
        ({"messages": [{"role": "user", "content": "x" * 500}]}, anthropic.BadRequestError, "invalid_request_error"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, anthropic.BadRequestError, None),
    ],
)
def test_errors_of_callers(
    url: str, ask: Any, fields: dict[str, Any], kind: type[anthropic.APIStatusError], type_: str | None
) -> None:
    with pytest.raises(kind) as caught:
        ask(client(url), **fields)
    assert caught.value.type == (type_ or "invalid_request_error") and caught.value.request_id


def test_a_body_over_the_limit(ask: Any) -> None:
    tree = config(limits={"body_bytes": 2000})
    with serving(lambda: services(tree=tree)) as base, pytest.raises(anthropic.APIStatusError) as caught:
        ask(client(base), messages=[{"role": "user", "content": "x" * 3000}])
    assert (caught.value.status_code, caught.value.type) == (413, "request_too_large")


def test_errors_of_keys_and_routes(url: str) -> None:
    with pytest.raises(anthropic.AuthenticationError) as caught:
        client(url, "k2").messages.create(**ASK)
    assert caught.value.type == "authentication_error" and caught.value.request_id
    with httpx.Client(base_url=url, headers={"x-api-key": "k1"}) as plain:
        wrong = plain.get("/v1/messages")
        unknown = plain.post("/v1/messages/batches", json={})
        bad = plain.post("/v1/messages?beta=true", content=b"{", headers={"content-type": "application/json"})
        untyped = plain.post("/v1/messages", content=b"{}")
    for response, status, type_ in (
        (wrong, 405, "invalid_request_error"),
        (unknown, 404, "not_found_error"),
        (bad, 400, "invalid_request_error"),
        (untyped, 400, "invalid_request_error"),
    ):
        body = response.json()
        assert (response.status_code, body["type"], body["error"]["type"]) == (status, "error", type_)
        assert body["request_id"] == response.headers["request-id"]


def test_a_stream_that_breaks_ends_with_an_error_event() -> None:
    broken = FakePool(error=UpstreamError("the replica died"), fail_after=2)
    with serving(lambda: services(small=broken)) as base, client(base) as made:
        said = []
        with pytest.raises(anthropic.APIStatusError) as caught, made.messages.stream(**ASK) as stream:
            said += stream.text_stream
    assert said == ["a", "b"]
    assert caught.value.type == "api_error" and caught.value.api_message == "the replica died"


def test_what_guards_stop_is_a_refusal(ask: Any) -> None:
    words = {"name": "words", "kind": "patterns", "patterns": [{"category": "code", "words": ["owl"]}]}
    made = guards(words, refusal="answer", message="Not here.")
    with serving(lambda: replace(services(), guards=made)) as base:
        message = ask(client(base), messages=[{"role": "user", "content": "the owl"}])
    assert (message.content[0].text, message.stop_reason) == ("Not here.", "refusal")
    with serving(lambda: replace(services(small=FakePool(words=("the ", "o", "wl"))), guards=made)) as base:
        message = ask(client(base))
    assert message.stop_reason == "refusal" and "owl" not in str(message.content)
    strict = guards(words, message="Not here.")
    with (
        serving(lambda: replace(services(), guards=strict)) as base,
        pytest.raises(anthropic.BadRequestError) as caught,
    ):
        ask(client(base), messages=[{"role": "user", "content": "the owl"}])
    assert caught.value.error_code == "content_filter"


def _words(query: Query, index: int) -> list[str]:
    return ["word "] * 10_000


def test_a_caller_that_leaves_stops_the_model() -> None:
    engine = FakeEngine("lab-small", script=_words, delay_s=0.005, capabilities=LONG)
    pool = LocalPool("small", engine)
    with serving(lambda: services(small=pool)) as base:  # type: ignore[arg-type]
        with client(base) as made, made.messages.stream(**{**ASK, "max_tokens": 9999}) as stream:
            next(iter(stream.text_stream))
        deadline = time.monotonic() + 5
        while not engine.cancelled:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert engine.running == 0


@pytest.mark.parametrize("text", ["hello", "long " * 40])
def test_the_same_query_has_the_same_decision_text_usage_and_cost_as_on_chat(url: str, ask: Any, text: str) -> None:
    turns = [{"role": "user", "content": text}]
    chat = httpx.post(
        f"{url}/v1/chat/completions",
        json={"model": "jethro", "max_tokens": 50, "messages": [{"role": "system", "content": "s"}, *turns]},
        headers={"authorization": "Bearer k1"},
    ).json()
    raw = httpx.post(
        f"{url}/v1/messages",
        json={**ASK, "system": "s", "messages": turns},
        headers={"x-api-key": "k1", "anthropic-version": "2023-06-01"},
    ).json()
    message = ask(client(url), system="s", messages=turns)
    for found in (raw["content"][0]["text"], message.content[0].text):
        assert found == chat["choices"][0]["message"]["content"]
    for usage in (anthropic.types.Usage.model_validate(raw["usage"]), message.usage):
        assert usage.input_tokens == chat["usage"]["prompt_tokens"]
        assert usage.output_tokens == chat["usage"]["completion_tokens"]
    differ = ("decision_id", "decision_ms")
    ours, theirs = ({k: v for k, v in each["jethro"].items() if k not in differ} for each in (raw, chat))
    assert ours == theirs and (ours["pool"] == "large") == (len(text) > 100)


async def test_requests_are_counted_as_messages() -> None:
    made = services(tree=config())
    transport = httpx.ASGITransport(build_app(made))
    async with httpx.AsyncClient(transport=transport, base_url="http://jethro") as one:
        assert (await one.post("/v1/messages", json=ASK)).status_code == 200
        assert 'endpoint="messages"' in (await one.get("/metrics")).text
