"""Clients' own helpers for structured output and tools against a real server, over the embedded models."""

import json
from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from openai.lib.streaming.chat import FunctionToolCallArgumentsDoneEvent
from pydantic import BaseModel, Field

from tests.api.server import embedded, serving

pytestmark = pytest.mark.usefixtures("certificates_are_read_once")

KEY = "k1"
ASK = [{"role": "user", "content": "what is 40 + 2?"}]


class Step(BaseModel):
    explanation: str = Field(max_length=12)
    kind: Literal["Add", "subtract"]


class Answer(BaseModel):
    """What the caller's code works with."""

    value: int = Field(ge=0, le=999)
    unitName: str | None
    steps: list[Step] = Field(max_length=2)


class Convert(BaseModel):
    """Converts a length."""

    amount: float = Field(ge=0, le=100)
    to: Literal["m", "Km"]


TOOLS = [openai.pydantic_function_tool(Convert)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(lambda: embedded({"acme": KEY})) as base:
        yield base + "/v1"


@pytest.fixture
def client(url) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as made:
        yield made


@pytest.mark.parametrize("model", ["jlab-small", "jlab-large", "jethro"])
def test_parse_gives_the_caller_s_own_type(client, model):
    answer = client.chat.completions.parse(model=model, messages=ASK, response_format=Answer, temperature=0)
    message = answer.choices[0].message
    assert isinstance(message.parsed, Answer) and answer.choices[0].finish_reason == "stop"
    assert json.loads(message.content) == message.parsed.model_dump()


def test_the_streaming_helper_parses_as_it_goes(client):
    with client.chat.completions.stream(model="jlab-large", messages=ASK, response_format=Answer) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert len(deltas) > 10 and "".join(deltas) == final.choices[0].message.content
    assert isinstance(final.choices[0].message.parsed, Answer)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "Convert"}}])
def test_a_pydantic_tool_is_called_with_parsed_arguments(client, choice):
    answer = client.chat.completions.parse(
        model="jlab-large",
        messages=ASK,
        tools=TOOLS,
        tool_choice=choice,
    )
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Convert) and call.id.startswith("call_")
    assert answer.choices[0].finish_reason == ("tool_calls" if choice == "required" else "stop")
    turns = [*ASK, answer.choices[0].message.model_dump(exclude_none=True, exclude={"parsed"})]
    turns[1]["tool_calls"] = [c for c in turns[1]["tool_calls"] if c["function"].pop("parsed_arguments", True)]
    turns.append({"role": "tool", "tool_call_id": call.id, "content": "42"})
    after = client.chat.completions.create(model="jlab-large", messages=turns, tools=TOOLS)
    assert after.choices[0].message.content is not None


def test_tool_arguments_stream_in_pieces(client):
    with client.chat.completions.stream(
        model="jlab-large", messages=ASK, tools=TOOLS, tool_choice="required"
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    done = [e for e in events if isinstance(e, FunctionToolCallArgumentsDoneEvent)]
    assert len(done) == 1 and isinstance(done[0].parsed_arguments, Convert) and done[0].name == "Convert"
    pieces = [e.arguments_delta for e in events if e.type == "tool_calls.function.arguments.delta"]
    assert "".join(pieces) == final.choices[0].message.tool_calls[0].function.arguments and len(pieces) > 3


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_models_that_are_not_told_of_tools_answer(client, choice):
    answer = client.chat.completions.create(
        model="jlab-large",
        messages=ASK,
        tools=TOOLS,
        tool_choice=choice,
        temperature=0,
    )
    assert answer.choices[0].message.content == "42" and answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("form", "check"),
    [
        ({"choice": ["Yes", "no"]}, lambda text: text in ("Yes", "no")),
        ({"regex": "[0-9]{2}-[A-Z]"}, lambda text: len(text) == 4 and text[3].isupper()),
        ({"json": {"type": "boolean"}}, lambda text: text in ("true", "false")),
        ({"json_object": True}, lambda text: isinstance(json.loads(text), dict)),
        ({"grammar": 'root ::= "a" | "b"'}, lambda text: text in "ab"),
    ],
)
def test_extensions_travel_in_the_extra_body(client, form, check):
    extra = {"structured_outputs": form}
    chat = client.chat.completions.create(model="jlab-large", messages=ASK, extra_body=extra, max_tokens=100)
    assert check(chat.choices[0].message.content)
    text = client.completions.create(model="jlab-large", prompt="40 + 2 =", extra_body=extra, max_tokens=100)
    assert check(text.choices[0].text)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({}, "structured_outputs"),
        ({"regex": "a", "choice": ["a"]}, "structured_outputs"),
        ({"pattern": "a"}, "structured_outputs.pattern"),
        ({"choice": []}, "structured_outputs.choice"),
        ({"regex": "("}, "structured_outputs"),
        ({"json": {"$ref": "#"}}, "structured_outputs"),
        ({"grammar": "nonsense"}, "structured_outputs"),
    ],
)
def test_nonsense_is_refused_by_name(client, form, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="jlab-large", messages=ASK, extra_body={"structured_outputs": form})
    assert (caught.value.param == param and caught.value.body["message"].startswith("structured_outputs")) or (
        "Unknown parameter" in caught.value.body["message"]
    )
