"""DSPy: a language model by `openai/MODEL` and an address, signatures, tools by ReAct, embeddings."""

from collections.abc import Iterator
from typing import Any

import dspy
import pytest


@pytest.fixture
def where(url: str, key: str) -> dict[str, Any]:
    return {"api_base": url, "api_key": key, "cache": False, "num_retries": 0}


@pytest.fixture
def upstream(where: dict[str, Any]) -> Iterator[Any]:
    made = dspy.LM("openai/double", **where)
    with dspy.context(lm=made):
        yield made


def test_chat(where: dict[str, Any], model: str, ask: str) -> None:
    assert dspy.LM(f"openai/{model}", **where)(ask)[0]
    assert dspy.LM(f"openai/{model}", **where)(messages=[{"role": "user", "content": ask}])[0]


def test_completions(where: dict[str, Any], ask: str) -> None:
    assert isinstance(dspy.LM("openai/jlab-large", model_type="text", max_tokens=8, **where)(ask)[0], str)


class Answer(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    value: int = dspy.OutputField()


@pytest.mark.parametrize("adapter", [dspy.JSONAdapter, dspy.ChatAdapter])
def test_structured(upstream: Any, ask: str, adapter: Any) -> None:
    """By JSON schema, and by the default, which takes JSON where the model does not keep its own form."""
    with dspy.context(adapter=adapter()):
        assert isinstance(dspy.Predict(Answer)(question=ask).value, int)


def test_tools_of_the_model(upstream: Any, weather: Any) -> None:
    """Calls of the API's own kind, of which DSPy makes one a prediction."""

    class Calls(dspy.Signature):
        question: str = dspy.InputField()
        tools: list[dspy.Tool] = dspy.InputField()
        outputs: dspy.ToolCalls = dspy.OutputField()

    tool = dspy.Tool(weather.forecast, name="forecast")
    with dspy.context(adapter=dspy.ChatAdapter(use_native_function_calling=True)):
        made = dspy.Predict(Calls)(question=weather.ASK, tools=[tool])
    for call in made.outputs.tool_calls:
        assert "degrees" in tool(**call.args)
    assert weather.calls


def test_responses(where: dict[str, Any], model: str, ask: str) -> None:
    assert dspy.LM(f"openai/{model}", model_type="responses", **where)(ask)[0]


def test_embeddings(where: dict[str, Any]) -> None:
    embedder = dspy.Embedder("openai/embed", caching=False, api_base=where["api_base"], api_key=where["api_key"])
    assert embedder(["one", "two"]).shape == (2, 384)
