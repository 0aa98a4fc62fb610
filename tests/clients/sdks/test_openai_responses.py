"""OpenAI's own client over Responses: text, events, tools, structured output, what is stored."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

TOOL: Any = {
    "type": "function",
    "name": "forecast",
    "description": "The weather in a city on a day.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "day": {"type": "integer"}},
        "required": ["city", "day"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Answer(BaseModel):
    value: int = Field(ge=0, le=999)
    unit: Literal["one", "two"]


@pytest.fixture
def client(url: str, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as made:
        yield made


def test_responses(client: openai.OpenAI, model: str, ask: str) -> None:
    made = client.responses.create(model=model, input=ask, instructions="Be brief.", temperature=0)
    assert made.status == "completed" and made.output_text and made.usage and made.usage.total_tokens > 0


def test_responses_stream(client: openai.OpenAI, model: str, ask: str) -> None:
    events = list(client.responses.create(model=model, input=ask, temperature=0, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text


def test_responses_tools(client: openai.OpenAI, weather: Any) -> None:
    """The loop of OpenAI's guide: the output's items are the next input's."""
    items: Any = [{"role": "user", "content": weather.ASK}]
    while True:
        made = client.responses.create(model="double", input=items, tools=[TOOL])
        items += made.output
        calls = [item for item in made.output if item.type == "function_call"]
        if not calls:
            break
        for call in calls:
            result = weather.forecast(**json.loads(call.arguments))
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    weather.check(made.output_text)


def test_responses_tools_by_the_previous_response(client: openai.OpenAI, weather: Any) -> None:
    made = client.responses.create(model="double", input=weather.ASK, tools=[TOOL])
    while calls := [item for item in made.output if item.type == "function_call"]:
        results: Any = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": weather.forecast(**json.loads(call.arguments)),
            }
            for call in calls
        ]
        made = client.responses.create(model="double", previous_response_id=made.id, input=results, tools=[TOOL])
    weather.check(made.output_text)


def test_responses_tools_streamed(client: openai.OpenAI, weather: Any) -> None:
    items: Any = [{"role": "user", "content": weather.ASK}]
    while True:
        with client.responses.stream(model="double", input=items, tools=[TOOL]) as stream:
            for _ in stream:
                pass
            made = stream.get_final_response()
        items += made.output
        calls = [item for item in made.output if item.type == "function_call"]
        if not calls:
            break
        for call in calls:
            result = weather.forecast(**json.loads(call.arguments))
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    weather.check(made.output_text)


@pytest.mark.parametrize("name", ["jlab-large", "double"])
def test_responses_structured(client: openai.OpenAI, name: str, ask: str) -> None:
    made = client.responses.parse(model=name, input=ask, text_format=Answer)
    assert isinstance(made.output_parsed, Answer)


def test_responses_stored(client: openai.OpenAI, ask: str) -> None:
    made = client.responses.create(model="jlab-large", input=ask, temperature=0)
    assert client.responses.retrieve(made.id).output_text == made.output_text
    assert [item.type for item in client.responses.input_items.list(made.id)] == ["message"]
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
