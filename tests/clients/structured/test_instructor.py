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
@pytest.mark.parametrize("model", ["jlab-small", "jlab-large"])
def test_the_answer_is_of_the_callers_type(raw: openai.OpenAI, mode: instructor.Mode, model: str) -> None:
    client = instructor.from_openai(raw, mode=mode)
    made = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "what is 40 + 2?"}],
        response_model=Answer,
        max_retries=0,
    )
    assert isinstance(made, Answer)
