"""OpenAI's own client: chat, streams, tools, structured output, completions, embeddings, Responses."""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import BaseModel, Field

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "forecast",
        "description": "The weather in a city on a day.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "day": {"type": "integer"}},
            "required": ["city", "day"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Answer(BaseModel):
    value: int = Field(ge=0, le=999)
    unit: Literal["one", "two"]


@pytest.fixture
def client(url: str, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as made:
        yield made


def told(ask: str) -> Any:
    return [{"role": "user", "content": ask}]


def test_models(client: openai.OpenAI) -> None:
    assert {"jethro", "jlab-large", "double"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("double").id == "double"


def test_chat(client: openai.OpenAI, model: str, ask: str) -> None:
    made = client.chat.completions.create(model=model, messages=told(ask), temperature=0)
    text = made.choices[0].message.content or ""
    assert "42" in text or text == f"You wrote: {ask}"
    assert made.choices[0].finish_reason == "stop" and made.usage and made.usage.total_tokens > 0


async def test_chat_async(url: str, key: str, ask: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        made = await client.chat.completions.create(model="jlab-large", messages=told(ask), temperature=0)
        assert made.choices[0].message.content == "42"


def test_stream(client: openai.OpenAI, model: str, ask: str) -> None:
    whole = client.chat.completions.create(model=model, messages=told(ask), temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=model, messages=told(ask), temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.usage for chunk in chunks if chunk.usage] == [chunks[-1].usage]
    assert whole.usage and chunks[-1].usage and chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_tools(client: openai.OpenAI, weather: Any) -> None:
    messages = told(weather.ASK)
    message = answer(client, messages, weather)
    weather.check(message.content)


def answer(client: openai.OpenAI, messages: Any, weather: Any, **more: Any) -> ChatCompletionMessage:
    """The loop of OpenAI's guide: append the message as it came, then the results of its calls."""
    while True:
        made = client.chat.completions.create(model="double", messages=messages, tools=[TOOL], **more)
        message = made.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            assert made.choices[0].finish_reason == "stop"
            return message
        assert made.choices[0].finish_reason == "tool_calls"
        for call in message.tool_calls:
            assert call.type == "function"
            result = weather.forecast(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def test_tools_with_messages_dumped_whole(client: openai.OpenAI, weather: Any) -> None:
    """As frameworks store a conversation: every field of the message, nulls and additions of the upstream too."""
    messages = told(weather.ASK)
    while True:
        made = client.chat.completions.create(model="double", messages=messages, tools=[TOOL])
        message = made.choices[0].message
        messages.append(message.model_dump())
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = weather.forecast(**json.loads(call.function.arguments))  # type: ignore[union-attr]
            messages.append({"role": "tool", "tool_call_id": call.id, "name": "forecast", "content": result})
    weather.check(message.content)


def test_tools_in_parallel(client: openai.OpenAI, weather: Any) -> None:
    messages = told("Both in parallel.")
    answer(client, messages, weather, parallel_tool_calls=True)
    assert len(weather.calls) == 6, "two calls in the first of five turns"


def test_tools_streamed(client: openai.OpenAI, weather: Any) -> None:
    """By the SDK's own accumulation of a stream, whose message is echoed as it is."""
    messages = told(weather.ASK)
    while True:
        with client.chat.completions.stream(model="double", messages=messages, tools=[TOOL]) as stream:
            message = stream.get_final_completion().choices[0].message
        messages.append(message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = weather.forecast(**call.function.parsed_arguments)  # type: ignore[arg-type]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    weather.check(message.content or "")


@pytest.mark.parametrize("name", ["jlab-large", "double"])
def test_structured(client: openai.OpenAI, name: str, ask: str) -> None:
    messages = told(ask)
    made = client.chat.completions.parse(model=name, messages=messages, response_format=Answer)
    assert isinstance(made.choices[0].message.parsed, Answer)
    messages += [made.choices[0].message, {"role": "user", "content": ask}]
    again = client.chat.completions.parse(model=name, messages=messages, response_format=Answer)
    assert isinstance(again.choices[0].message.parsed, Answer)
    with client.chat.completions.stream(model=name, messages=messages, response_format=Answer) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Answer)


def test_structured_refused(client: openai.OpenAI) -> None:
    messages = told("Please refuse.")
    made = client.chat.completions.parse(model="double", messages=messages, response_format=Answer)
    assert made.choices[0].message.parsed is None
    assert made.choices[0].message.refusal == "I cannot help with that."
    messages += [made.choices[0].message, {"role": "user", "content": "And now?"}]
    again = client.chat.completions.parse(model="double", messages=messages, response_format=Answer)
    assert isinstance(again.choices[0].message.parsed, Answer)


def test_completions(client: openai.OpenAI, ask: str) -> None:
    made = client.completions.create(model="jlab-large", prompt=ask, max_tokens=8)
    assert made.choices[0].text is not None and made.usage
    several = client.completions.create(model="jlab-large", prompt=[ask, "reverse abc"], max_tokens=8)
    assert [choice.index for choice in several.choices] == [0, 1]


def test_embeddings(client: openai.OpenAI) -> None:
    """By the SDK's default, which asks for base64 itself, and by each format."""
    texts = ["the first text", "the second text"]
    made = client.embeddings.create(model="embed", input=texts)
    assert [row.index for row in made.data] == [0, 1] and len(made.data[0].embedding) == 384
    plain = client.embeddings.create(model="embed", input=texts, encoding_format="float")
    assert plain.data[1].embedding == pytest.approx(made.data[1].embedding, abs=1e-6)
    raw: Any = client.embeddings.create(model="embed", input=texts[1], encoding_format="base64").data[0].embedding
    assert struct.unpack("<384f", base64.b64decode(raw)) == pytest.approx(plain.data[1].embedding, abs=1e-6)
    assert made.usage.prompt_tokens == made.usage.total_tokens > 0


def test_errors_are_of_the_clients_own_types(client: openai.OpenAI, ask: str, url: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no-such-model", messages=told(ask))
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="jethro", messages=[])
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()
