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


@pytest.mark.parametrize("adapter", [dspy.JSONAdapter, dspy.ChatAdapter])
def test_tools(upstream: Any, weather: Any, adapter: Any) -> None:
    """ReAct, whose calls are text in a form of its own."""
    with dspy.context(adapter=adapter()):
        made = dspy.ReAct("question -> answer: str", tools=[weather.forecast], max_iters=8)(question=weather.ASK)
    weather.check(made.answer)


def test_responses(where: dict[str, Any], model: str, ask: str) -> None:
    assert dspy.LM(f"openai/{model}", model_type="responses", **where)(ask)[0]


def test_embeddings(where: dict[str, Any]) -> None:
    embedder = dspy.Embedder("openai/embed", caching=False, api_base=where["api_base"], api_key=where["api_key"])
    assert embedder(["one", "two"]).shape == (2, 384)
