"""LlamaIndex: OpenAILike, agents, structured output, embeddings."""

from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field


class Answer(BaseModel):
    """What the caller's code works with."""

    value: int = Field(ge=0, le=999)


@pytest.fixture
def made(url: str, key: str) -> Any:
    def chat(model: str, **more: Any) -> OpenAILike:
        options = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 512} | more
        return OpenAILike(model=model, api_base=url, api_key=key, max_retries=0, **options)

    return chat


def test_chat(made: Any, model: str, ask: str) -> None:
    assert made(model).complete(ask).text
    answer = made(model).chat([ChatMessage(role="user", content=ask)])
    assert answer.message.content and answer.raw.usage.total_tokens > 0


def test_stream(made: Any, model: str, ask: str) -> None:
    whole = [piece.delta or "" for piece in made(model).stream_chat([ChatMessage(role="user", content=ask)])]
    assert "".join(whole)


@pytest.mark.parametrize("streaming", [False, True])
async def test_tools(made: Any, weather: Any, streaming: bool) -> None:
    tool = FunctionTool.from_defaults(weather.forecast, name="forecast", description="The weather.")
    agent = FunctionAgent(tools=[tool], llm=made("double"), streaming=streaming)
    weather.check(str(await agent.run(weather.ASK)))


@pytest.mark.parametrize("name", ["jlab-large", "double"])
@pytest.mark.parametrize("tools", [False, True])
def test_structured(made: Any, ask: str, name: str, tools: bool) -> None:
    """By the call of a tool, and by JSON schema."""
    model = made(name, is_function_calling_model=tools, should_use_structured_outputs=not tools)
    answer = model.as_structured_llm(Answer).complete(ask)
    assert isinstance(answer.raw, Answer)


def test_completions(made: Any, ask: str) -> None:
    assert made("jlab-large", is_chat_model=False, max_tokens=8).complete(ask).text is not None


def test_embeddings(url: str, key: str) -> None:
    model = OpenAILikeEmbedding(model_name="embed", api_base=url, api_key=key, embed_batch_size=10)
    assert [len(each) for each in model.get_text_embedding_batch(["one", "two"])] == [384, 384]
    assert len(model.get_query_embedding("one")) == 384
