"""LangChain: ChatOpenAI, tools by an agent and by a graph, structured output, embeddings."""

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field


class Answer(BaseModel):
    """What the caller's code works with."""

    value: int = Field(description="the number", ge=0, le=999)


@pytest.fixture
def made(url: str, key: str) -> Any:
    def chat(model: str, **more: Any) -> ChatOpenAI:
        return ChatOpenAI(base_url=url, api_key=key, model=model, max_retries=0, **more)

    return chat


def test_chat(made: Any, model: str, ask: str) -> None:
    answer = made(model).invoke([("system", "Be brief."), ("human", ask)])
    assert isinstance(answer, AIMessage) and answer.text and answer.usage_metadata["total_tokens"] > 0


def test_stream(made: Any, model: str, ask: str) -> None:
    whole = None
    for chunk in made(model, stream_usage=True).stream(ask):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None and whole.text and whole.usage_metadata["output_tokens"] > 0


def forecasting(weather: Any) -> Any:
    @tool
    def forecast(city: str, day: int) -> str:
        """The weather in a city on a day."""
        result: str = weather.forecast(city, day)
        return result

    return forecast


def test_tools(made: Any, weather: Any) -> None:
    agent = create_agent(made("double"), tools=[forecasting(weather)])
    state = agent.invoke({"messages": [{"role": "user", "content": weather.ASK}]})
    weather.check(state["messages"][-1].text)


def test_tools_streamed(made: Any, weather: Any) -> None:
    agent = create_agent(made("double", streaming=True), tools=[forecasting(weather)])
    last: Any = None
    for mode, part in agent.stream({"messages": [("human", weather.ASK)]}, stream_mode=["messages", "values"]):
        last = part["messages"][-1] if mode == "values" else last
    weather.check(last.text)


def test_tools_over_responses(made: Any, weather: Any) -> None:
    agent = create_agent(made("double", use_responses_api=True), tools=[forecasting(weather)])
    weather.check(agent.invoke({"messages": [("human", weather.ASK)]})["messages"][-1].text)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("name", ["jlab-large", "double"])
def test_structured(made: Any, ask: str, name: str, method: str) -> None:
    assert isinstance(made(name).with_structured_output(Answer, method=method).invoke(ask), Answer)


def test_structured_agent(made: Any, weather: Any) -> None:
    """Tools in five turns, then an answer of the caller's type."""
    agent = create_agent(made("double"), tools=[forecasting(weather)], response_format=Answer)
    assert isinstance(agent.invoke({"messages": [("human", weather.ASK)]})["structured_response"], Answer)
    assert weather.calls


def test_completions(url: str, key: str, ask: str) -> None:
    model = OpenAI(base_url=url, api_key=key, model="jlab-large", max_tokens=8, max_retries=0)
    assert isinstance(model.invoke(ask), str)
    assert len(model.generate([ask, "reverse abc"]).generations) == 2


def test_embeddings(url: str, key: str) -> None:
    """As documented, and without the client's own tokenizer, as documented for other servers."""
    vectors = OpenAIEmbeddings(base_url=url, api_key=key, model="embed", check_embedding_ctx_length=False)
    assert [len(each) for each in vectors.embed_documents(["one", "two"])] == [384, 384]
    assert len(vectors.embed_query("one")) == 384
