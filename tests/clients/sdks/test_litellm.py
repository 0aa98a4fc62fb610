"""LiteLLM as a library, with the provider `openai` and an own address."""

import json
from typing import Any

import litellm
import pytest
from pydantic import BaseModel, Field

litellm.telemetry = False
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "forecast",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "day": {"type": "integer"}},
            "required": ["city", "day"],
        },
    },
}


class Answer(BaseModel):
    value: int = Field(ge=0, le=999)


@pytest.fixture
def where(url: str, key: str) -> dict[str, Any]:
    return {"api_base": url, "api_key": key, "num_retries": 0}


def told(ask: str) -> list[Any]:
    return [{"role": "user", "content": ask}]


def test_chat(where: dict[str, Any], model: str, ask: str) -> None:
    made: Any = litellm.completion(model=f"openai/{model}", messages=told(ask), **where)
    assert made.choices[0].message.content and made.usage.total_tokens > 0


async def test_chat_async(where: dict[str, Any], ask: str) -> None:
    made: Any = await litellm.acompletion(model="openai/jlab-large", messages=told(ask), temperature=0, **where)
    assert made.choices[0].message.content == "42"


def test_stream(where: dict[str, Any], model: str, ask: str) -> None:
    options = {"include_usage": True}
    chunks: Any = list(
        litellm.completion(model=f"openai/{model}", messages=told(ask), stream=True, stream_options=options, **where)
    )
    whole: Any = litellm.stream_chunk_builder(chunks, messages=told(ask))
    assert whole.choices[0].message.content and whole.usage.completion_tokens > 0


@pytest.mark.parametrize("dumped", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_tools(where: dict[str, Any], weather: Any, stream: bool, dumped: bool) -> None:
    messages = told(weather.ASK)
    while True:
        made: Any = litellm.completion(
            model="openai/double", messages=messages, tools=[TOOL], tool_choice="auto", stream=stream, **where
        )
        message = (litellm.stream_chunk_builder(list(made)) if stream else made).choices[0].message
        messages.append(message.model_dump() if dumped else message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = weather.forecast(**json.loads(call.function.arguments))
            messages.append({"tool_call_id": call.id, "role": "tool", "name": call.function.name, "content": result})
    weather.check(message.content)


@pytest.mark.parametrize("name", ["jlab-large", "double"])
def test_structured(where: dict[str, Any], ask: str, name: str) -> None:
    made: Any = litellm.completion(model=f"openai/{name}", messages=told(ask), response_format=Answer, **where)
    assert Answer.model_validate_json(made.choices[0].message.content)


def test_completions(where: dict[str, Any], ask: str) -> None:
    made: Any = litellm.text_completion(model="text-completion-openai/jlab-large", prompt=ask, max_tokens=8, **where)
    assert isinstance(made.choices[0].text, str)


def test_embeddings(where: dict[str, Any]) -> None:
    made: Any = litellm.embedding(model="openai/embed", input=["one", "two"], **where)
    assert [len(row["embedding"]) for row in made.data] == [384, 384]


def test_responses(where: dict[str, Any], model: str, ask: str) -> None:
    made: Any = litellm.responses(model=f"openai/{model}", input=ask, **where)
    assert made.status == "completed" and made.output[-1].content[0].text


async def test_messages(where: dict[str, Any], ask: str, url: str) -> None:
    made: Any = await litellm.anthropic.messages.acreate(
        model="anthropic/jlab-large", messages=told(ask), max_tokens=64, **where | {"api_base": url.removesuffix("/v1")}
    )
    assert made["content"][0]["text"]
