"""Anthropic's own client over Messages, and its keys in x-api-key."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

TOOL: Any = {
    "name": "forecast",
    "description": "The weather in a city on a day.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "day": {"type": "integer"}},
        "required": ["city", "day"],
    },
}


@pytest.fixture
def client(url: str, key: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key=key, max_retries=0) as made:
        yield made


def told(ask: str) -> Any:
    return [{"role": "user", "content": ask}]


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_messages(client: anthropic.Anthropic, model: str, ask: str) -> None:
    made = client.messages.create(model=model, max_tokens=64, messages=told(ask))
    assert text_of(made) and made.stop_reason == "end_turn" and made.usage.output_tokens > 0


def test_messages_stream(client: anthropic.Anthropic, model: str, ask: str) -> None:
    with client.messages.stream(model=model, max_tokens=64, messages=told(ask)) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text and text == text_of(final) and final.stop_reason == "end_turn" and final.usage.output_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_messages_tools(client: anthropic.Anthropic, weather: Any, streamed: bool) -> None:
    messages = told(weather.ASK)
    while True:
        if streamed:
            with client.messages.stream(model="double", max_tokens=256, messages=messages, tools=[TOOL]) as stream:
                made: Any = stream.get_final_message()
        else:
            made = client.messages.create(model="double", max_tokens=256, messages=messages, tools=[TOOL])
        messages.append({"role": "assistant", "content": made.content})
        if made.stop_reason != "tool_use":
            break
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": weather.forecast(**block.input)}
            for block in made.content
            if block.type == "tool_use"
        ]
        messages.append({"role": "user", "content": results})
    weather.check(text_of(made))


def test_messages_tools_by_the_runner(client: anthropic.Anthropic, weather: Any) -> None:
    """The SDK's own loop of tools."""

    @anthropic.beta_tool
    def forecast(city: str, day: int) -> str:
        """The weather in a city on a day.

        Args:
            city: The city's name.
            day: Days from now.
        """
        result: str = weather.forecast(city, day)
        return result

    runner = client.beta.messages.tool_runner(
        model="double", max_tokens=256, tools=[forecast], messages=told(weather.ASK)
    )
    weather.check(text_of(runner.until_done()))


def test_messages_counted(client: anthropic.Anthropic, ask: str) -> None:
    counted = client.messages.count_tokens(model="jlab-large", messages=told(ask)).input_tokens
    made = client.messages.create(model="jlab-large", max_tokens=64, messages=told(ask))
    assert counted == made.usage.input_tokens


def test_models(client: anthropic.Anthropic) -> None:
    assert "jethro" in {model.id for model in client.models.list()}


def test_errors_are_of_the_clients_own_types(client: anthropic.Anthropic, ask: str, url: str) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="no-such-model", max_tokens=64, messages=told(ask))
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="jethro", max_tokens=64, messages=[])
    wrong = anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        wrong.messages.create(model="jethro", max_tokens=64, messages=told(ask))
