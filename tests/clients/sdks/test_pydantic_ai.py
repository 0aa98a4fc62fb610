"""Pydantic AI: agents over chat and over Responses."""

from typing import Any

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Answer(BaseModel):
    """What the caller's code works with."""

    value: int = Field(ge=0, le=999)


@pytest.fixture
def made(url: str, key: str) -> Any:
    return lambda model, kind=OpenAIChatModel: kind(model, provider=OpenAIProvider(base_url=url, api_key=key))


async def test_chat(made: Any, model: str, ask: str) -> None:
    result = await Agent(made(model), instructions="Be brief.").run(ask)
    assert result.output and result.usage.output_tokens > 0


async def test_stream(made: Any, model: str, ask: str) -> None:
    async with Agent(made(model)).run_stream(ask) as result:
        pieces = [piece async for piece in result.stream_text(delta=True)]
    assert "".join(pieces) == await result.get_output() and result.usage.output_tokens > 0


def agent(model: Any, weather: Any, **more: Any) -> Any:
    built: Any = Agent(model, **more)
    built.tool_plain(weather.forecast)
    return built


async def test_tools(made: Any, weather: Any) -> None:
    result = await agent(made("double"), weather).run(weather.ASK)
    weather.check(result.output)
    again = await agent(made("double"), weather).run("And then?", message_history=result.all_messages())
    assert again.output


async def test_tools_streamed(made: Any, weather: Any) -> None:
    async with agent(made("double"), weather).iter(weather.ASK) as run:
        async for node in run:
            if Agent.is_model_request_node(node):
                async with node.stream(run.ctx) as stream:
                    async for _ in stream:
                        pass
    weather.check(run.result.output)


async def test_tools_over_responses(made: Any, weather: Any) -> None:
    weather.check((await agent(made("double", OpenAIResponsesModel), weather).run(weather.ASK)).output)


@pytest.mark.parametrize("kind", [ToolOutput, NativeOutput])
@pytest.mark.parametrize("name", ["jlab-large", "double"])
async def test_structured(made: Any, ask: str, name: str, kind: Any) -> None:
    result: Any = await Agent(made(name), output_type=kind(Answer)).run(ask)
    assert isinstance(result.output, Answer)


async def test_structured_after_tools(made: Any, weather: Any) -> None:
    result = await agent(made("double"), weather, output_type=NativeOutput(Answer)).run(weather.ASK)
    assert isinstance(result.output, Answer) and len(weather.calls) == 5
