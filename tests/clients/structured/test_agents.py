"""OpenAI's agents SDK over chat completions: typed output, tools, streams."""

from collections.abc import AsyncIterator

import agents
import openai
import pytest
from pydantic import BaseModel, Field

agents.set_tracing_disabled(True)
ASK = "what is 40 + 2?"


class Answer(BaseModel):
    """What the caller's code works with."""

    value: int = Field(ge=0, le=999)
    unit: str | None = Field(max_length=12)


@pytest.fixture
async def model(url: str, key: str) -> AsyncIterator[agents.OpenAIChatCompletionsModel]:
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as raw:
        yield agents.OpenAIChatCompletionsModel(model="jlab-large", openai_client=raw)


async def test_typed_output(model: agents.OpenAIChatCompletionsModel) -> None:
    typed = agents.Agent(name="typed", model=model, output_type=Answer)
    result = await agents.Runner.run(typed, ASK)
    assert isinstance(result.final_output, Answer)


async def test_a_tool_is_called_and_its_result_answered(model: agents.OpenAIChatCompletionsModel) -> None:
    amounts: list[float] = []

    @agents.function_tool
    def convert(amount: float) -> str:
        """Converts a length."""
        amounts.append(amount)
        return "42"

    tooled = agents.Agent(
        name="tooled", model=model, tools=[convert], model_settings=agents.ModelSettings(tool_choice="required")
    )
    result = await agents.Runner.run(tooled, ASK, max_turns=3)
    assert amounts and isinstance(result.final_output, str)
    streamed = agents.Runner.run_streamed(tooled, ASK, max_turns=3)
    kinds = [event.type async for event in streamed.stream_events()]
    assert "run_item_stream_event" in kinds and isinstance(streamed.final_output, str)
