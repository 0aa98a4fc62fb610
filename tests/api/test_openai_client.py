"""The official OpenAI client against a real server, over engines that say their query again, a character a token."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from serve_app.engines.local_pool import LocalPool
from serve_app.types import Capabilities, Price
from tests.api.fakes import services
from tests.api.server import serving
from tests.fakes import FakeEngine

pytestmark = pytest.mark.usefixtures("certificates_are_read_once")

KEY = "k1"
ABLE = Capabilities(max_context_tokens=400, guided=True, tools=True)
PLAIN = Capabilities(max_context_tokens=400)
HI = [{"role": "user", "content": "hello"}]
LONG = {"role": "user", "content": "x" * 500}
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}


def make():
    small = LocalPool("small", FakeEngine("lab-small", capabilities=PLAIN), Price(1, 1))
    large = LocalPool("large", FakeEngine("lab-large", capabilities=ABLE), Price(10, 10))
    return services(small=small, large=large, keys={"acme": KEY})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(make) as base:
        yield base + "/v1"


@pytest.fixture
def client(url) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as made:
        yield made


class Sync:
    """The two ways to call the client, and two ways to read, as one: text, finish reasons, the last chunk."""

    def __init__(self, url: str) -> None:
        self._client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)

    def chat(self, **body: Any) -> Any:
        body = {"model": "jethro", "messages": HI, **body}
        with self._client as client:
            answer = client.chat.completions.create(**body)
            return list(answer) if body.get("stream") else answer


class Async:
    def __init__(self, url: str) -> None:
        self._url = url

    def chat(self, **body: Any) -> Any:
        body = {"model": "jethro", "messages": HI, **body}

        async def asked() -> Any:
            async with openai.AsyncOpenAI(base_url=self._url, api_key=KEY, max_retries=0) as client:
                answer = await client.chat.completions.create(**body)
                return [chunk async for chunk in answer] if body.get("stream") else answer

        return asyncio.run(asked())


@pytest.fixture(params=[Sync, Async])
def caller(request, url):
    return request.param(url)


def read(answer: Any) -> tuple[list[str], list[str]]:
    """Text and finish reason of every choice, of an answer or of chunks."""
    if not isinstance(answer, list):
        return [c.message.content for c in answer.choices], [c.finish_reason for c in answer.choices]
    texts: dict[int, str] = {}
    finishes: dict[int, str] = {}
    for choice in (choice for chunk in answer for choice in chunk.choices):
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        if choice.finish_reason:
            assert choice.index not in finishes
            finishes[choice.index] = choice.finish_reason
    return [texts[i] for i in sorted(texts)], [finishes[i] for i in sorted(finishes)]


PARAMETERS: list[tuple[dict[str, Any], tuple[list[str], list[str]]]] = [
    ({}, (["hello"], ["stop"])),
    ({"max_tokens": 2}, (["he"], ["length"])),
    ({"max_completion_tokens": 3}, (["hel"], ["length"])),
    ({"n": 3}, (["hello"] * 3, ["stop"] * 3)),
    ({"stop": "l"}, (["he"], ["stop"])),
    ({"stop": ["x", "lo"]}, (["hel"], ["stop"])),
    ({"temperature": 0, "top_p": 0.5, "seed": 7}, (["hello"], ["stop"])),
    ({"presence_penalty": -1, "frequency_penalty": 1.5}, (["hello"], ["stop"])),
    ({"user": "ann", "metadata": {"a": "b"}}, (["hello"], ["stop"])),
    ({"response_format": {"type": "text"}}, (["hello"], ["stop"])),
    ({"response_format": {"type": "json_object"}}, (["hello"], ["stop"])),
    ({"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False}, (["hello"], ["stop"])),
    ({"store": False, "service_tier": "auto", "modalities": ["text"]}, (["hello"], ["stop"])),
    ({"messages": [{"role": "developer", "content": "x"}, *HI]}, (["hello"], ["stop"])),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "part"}]}]}, (["part"], ["stop"])),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "expected"), PARAMETERS)
def test_parameters(caller, stream, body, expected):
    assert read(caller.chat(**body, stream=stream)) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(caller, stream):
    answer = caller.chat(logprobs=True, top_logprobs=2, stream=stream)
    chunks = answer if stream else [answer]
    content = [t for c in chunks for choice in c.choices if choice.logprobs for t in choice.logprobs.content]
    assert [t.token for t in content] == list("hello")
    assert all(t.logprob == -0.5 and len(t.top_logprobs) == 2 for t in content)


def test_a_stream_with_usage(caller):
    *chunks, last = caller.chat(stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert (last.usage.completion_tokens, last.usage.total_tokens) == (5, 11)
    assert all(c.usage is None for c in chunks)
    assert last.jethro["pool"] == "small"


def test_a_stream_without(caller):
    chunks = caller.chat(stream=True)
    assert all(c.usage is None for c in chunks)
    assert chunks[-1].jethro["cost_usd"] == 11 / 1e6
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1


def test_an_answer_tells_the_decision(caller):
    answer = caller.chat()
    assert answer.usage.total_tokens == 11
    assert answer.model == answer.jethro["model"] == "lab-small"
    assert answer.object == "chat.completion"


def test_headers(client):
    raw = client.chat.completions.with_raw_response.create(
        model="jethro", messages=HI, extra_headers={"x-request-id": "mine"}
    )
    assert raw.request_id == "mine"
    assert raw.headers["x-jethro-pool"] == "small"
    with client.chat.completions.with_streaming_response.create(model="jethro", messages=HI, stream=True) as stream:
        assert stream.headers["x-jethro-pool"] == "small"
        assert len(list(stream.parse())) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_completions(client, stream):
    answer = client.completions.create(
        model="lab-small", prompt="hello", max_tokens=4, logprobs=1, n=2, stream=stream, temperature=0
    )
    chunks = list(answer) if stream else [answer]
    texts = ["".join(c.text for chunk in chunks for c in chunk.choices if c.index == i) for i in (0, 1)]
    assert texts == ["hell", "hell"]
    assert chunks[-1].jethro["pool"] == "small"


def test_models(client):
    assert [m.id for m in client.models.list()] == ["jethro", "lab-small", "lab-large"]
    assert client.models.retrieve("lab-small").owned_by == "jethro"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "error", "code", "param"),
    [
        ({"model": "none"}, openai.NotFoundError, "model_not_found", "model"),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"messages": [LONG]}, openai.BadRequestError, "context_length_exceeded", "messages"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"n": 99}, openai.BadRequestError, "invalid_value", "n"),
        ({"logit_bias": {"1": 1}}, openai.BadRequestError, "unsupported_parameter", "logit_bias"),
        ({"extra_body": {"top_k": 5}}, openai.BadRequestError, "unsupported_parameter", "top_k"),
        ({"extra_body": {"top_a": 5}}, openai.BadRequestError, "unknown_parameter", "top_a"),
        ({"model": "lab-small", "tools": [TOOL]}, openai.BadRequestError, "unsupported_parameter", "tools"),
    ],
)  # fmt: skip
def test_errors(caller, stream, body, error, code, param):
    with pytest.raises(error) as caught:
        caller.chat(**body, stream=stream)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.request_id


def test_a_wrong_key(url):
    with openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
