"""instructor: answers of the caller's own type, by tools and by JSON schema."""

from collections.abc import Iterator
from typing import Literal

import instructor
import openai
import pytest
from pydantic import BaseModel, Field


class Step(BaseModel):
    explanation: str = Field(max_length=12)
    kind: Literal["Add", "subtract"]


class Answer(BaseModel):
    """What the caller's code works with."""

    value: int = Field(ge=0, le=999)
    unitName: str | None
    steps: list[Step] = Field(max_length=2)


@pytest.fixture
def raw(url: str, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
@pytest.mark.parametrize("model", ["jlab-small", "jlab-large", "double"])
def test_structured(raw: openai.OpenAI, mode: instructor.Mode, model: str) -> None:
    client = instructor.from_openai(raw, mode=mode)
    made = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "what is 40 + 2?"}],
        response_model=Answer,
        max_retries=0,
    )
    assert isinstance(made, Answer)


@pytest.mark.parametrize("model", ["jlab-large", "double"])
def test_structured_by_the_providers_name(url: str, key: str, model: str) -> None:
    """As its documentation begins, with an address of one's own."""
    client = instructor.from_provider(f"openai/{model}", base_url=url, api_key=key)
    made = client.create(
        messages=[{"role": "user", "content": "what is 40 + 2?"}], response_model=Answer, max_retries=0
    )
    assert isinstance(made, Answer)


@pytest.mark.parametrize("model", ["jlab-large", "double"])
def test_structured_streamed(raw: openai.OpenAI, model: str) -> None:
    client = instructor.from_openai(raw)
    pieces = client.chat.completions.create_partial(
        model=model, messages=[{"role": "user", "content": "what is 40 + 2?"}], response_model=Answer
    )
    assert isinstance(list(pieces)[-1].value, int)
