"""OpenAI's agents SDK: its default, Responses, and chat completions; typed output, tools, streams."""

from collections.abc import AsyncIterator
from typing import Any

import agents
import openai
import pytest
from pydantic import BaseModel, Field

agents.set_tracing_disabled(True)


class Answer(BaseModel):
    """What the caller's code works with."""

    value: int = Field(ge=0, le=999)
    unit: str | None = Field(max_length=12)


@pytest.fixture
async def raw(url: str, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture(params=["responses", "chat_completions"])
def made(request: pytest.FixtureRequest, raw: openai.AsyncOpenAI) -> Any:
    """A model by its name, over the API that is the SDK's default and over the other."""
    kinds = {"responses": agents.OpenAIResponsesModel, "chat_completions": agents.OpenAIChatCompletionsModel}
    return lambda name: kinds[request.param](model=name, openai_client=raw)


async def test_responses_by_default(raw: openai.AsyncOpenAI, model: str, ask: str) -> None:
    """The SDK's first use, with its client set once."""
    agents.set_default_openai_client(raw, use_for_tracing=False)
    agent = agents.Agent(name="Assistant", instructions="Be brief.", model=model)
    result = await agents.Runner.run(agent, ask)
    assert result.final_output


async def test_chat(made: Any, model: str, ask: str) -> None:
    result = await agents.Runner.run(agents.Agent(name="plain", model=made(model)), ask)
    assert result.final_output and result.context_wrapper.usage.output_tokens > 0


@pytest.mark.parametrize("name", ["jlab-large", "double"])
async def test_structured(made: Any, name: str, ask: str) -> None:
    typed = agents.Agent(name="typed", model=made(name), output_type=Answer)
    assert isinstance((await agents.Runner.run(typed, ask)).final_output, Answer)


def tooled(model: Any, weather: Any, **more: Any) -> Any:
    @agents.function_tool
    def forecast(city: str, day: int) -> str:
        """The weather in a city on a day."""
        result: str = weather.forecast(city, day)
        return result

    return agents.Agent(name="tooled", model=model, tools=[forecast], **more)


async def test_tools(made: Any, weather: Any) -> None:
    result = await agents.Runner.run(tooled(made("double"), weather), weather.ASK)
    weather.check(result.final_output)
    again = [*result.to_input_list(), {"role": "user", "content": "And then?"}]
    assert (await agents.Runner.run(tooled(made("double"), weather), again)).final_output


async def test_tools_streamed(made: Any, weather: Any) -> None:
    streamed = agents.Runner.run_streamed(tooled(made("double"), weather), weather.ASK)
    kinds = [event.type async for event in streamed.stream_events()]
    assert "run_item_stream_event" in kinds
    weather.check(streamed.final_output)


async def test_tools_of_the_embedded_model(made: Any, weather: Any, ask: str) -> None:
    # The model's context is short, and what it says by chance may be long.
    required = agents.ModelSettings(tool_choice="required", temperature=0, max_tokens=80)
    result = await agents.Runner.run(tooled(made("jlab-large"), weather, model_settings=required), ask, max_turns=3)
    assert weather.calls and isinstance(result.final_output, str)
