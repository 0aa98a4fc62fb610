"""Settings of orchestration: the task table, what an answer is checked for, and tools that run on the server."""

import re
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from serve_app.config.base import FolderOrFile, Node

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
INPUT = "{input}"
"""Where a template has the caller's last turn."""


def _pattern(text: str) -> str:
    """A regular expression. Raises ValueError with what is wrong about it."""
    try:
        re.compile(text)
    except re.error as e:
        raise ValueError(f"{text!r} is no regular expression: {e}") from None
    return text


class TierConfig(Node):
    """One tier: a pool, or one of its adapters. An answer is checked in every tier but the last."""

    pool: str = Field(description="The pool that is called.")
    adapter: str | None = Field(None, description="One of the pool's adapters; null: its model alone.")
    min_confidence: Probability | None = Field(
        None, description="Least probability of an answer's least likely token; below it the next tier answers."
    )
    strong: bool = Field(False, description="A query that the router sends to the strong model begins here.")


class ChecksConfig(Node):
    """What an answer must pass; one that fails is not sent, and the next tier answers."""

    schema_: bool = Field(True, alias="schema", description="JSON answers and tool arguments must fit their schema.")
    whole: bool = Field(True, description="An answer must not be cut off by the model's context.")
    matches: str | None = Field(None, description="Regular expression that the whole text must match.")
    declines: tuple[str, ...] = Field((), description="Regular expressions of texts by which a model declines.")

    @field_validator("matches")
    @classmethod
    def _matches(cls, text: str | None) -> str | None:
        return text if text is None else _pattern(text)

    @field_validator("declines")
    @classmethod
    def _declines(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_pattern(text) for text in texts)


class TaskConfig(Node):
    """One row of the task table. What the caller sets in a request has precedence over what is set here."""

    description: str = Field("", description="One line, for people.")
    patterns: tuple[str, ...] = Field(
        (), description="Regular expressions; the task is the caller's last turn's if one is found in it."
    )
    tiers: tuple[TierConfig, ...] = Field(min_length=1, description="Tiers in the order in which they are called.")
    system: str | None = Field(None, description="System message in front of the conversation.")
    template: str | None = Field(None, description="The last turn as it is sent; {input} stands for what it was.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="Unless the caller sets one.")
    max_tokens: PositiveInt | None = Field(None, description="Unless the caller sets one.")
    response_format: dict[str, Any] | None = Field(None, description="As in OpenAI's API, unless the caller sets one.")
    tools: tuple[str, ...] = Field((), description="Tools of orchestration.tools that the model may call.")
    checks: ChecksConfig = ChecksConfig()

    @field_validator("patterns")
    @classmethod
    def _patterns(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_pattern(text) for text in texts)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.template is not None and INPUT not in self.template:
            raise ValueError(f"template: it has no {INPUT}, so that the caller's text would be lost; add it")
        names = [(tier.pool, tier.adapter) for tier in self.tiers]
        if len(set(names)) < len(names):
            raise ValueError("tiers: one pool with the same adapter is named twice; leave one out")
        if self.tiers[-1].min_confidence is not None:
            raise ValueError("tiers: the last one has a min_confidence, but no tier follows it; leave it out")
        return self


class ToolConfig(Node):
    """A Python function that runs on the server when a model calls it."""

    function: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] = Field(
        description="MODULE:FUNCTION; its arguments are the tool's, its result is JSON or text."
    )
    description: str = Field(description="What it does, for the model.")
    parameters: dict[str, Any] = Field(description="JSON schema of its arguments, an object.")
    timeout_s: PositiveFloat = Field(10.0, description="Longest run; then it is killed.")
    result_bytes: PositiveInt = Field(65_536, description="Longest result.")
    memory_mib: PositiveInt = Field(512, description="Most memory of its process.")

    @field_validator("parameters")
    @classmethod
    def _object(cls, schema: dict[str, Any]) -> dict[str, Any]:
        if schema.get("type") != "object":
            raise ValueError('parameters: the schema of a tool\'s arguments has "type": "object"; add it')
        return schema


class OrchestrationConfig(Node):
    """`jethro-orchestrate`: which task a query is, who answers it in which order, and what an answer must pass."""

    tasks: dict[Name, TaskConfig] | None = Field(
        None, description="The task table; null: the one that ships, for the models it was made for."
    )
    default: TaskConfig | None = Field(
        None, description="For queries of no task; null: the small pool, then the large one."
    )
    classifier: FolderOrFile | None = Field(
        None, description="Folder of a fitted task classifier; it names the task where no pattern does."
    )
    min_probability: Probability = Field(0.5, description="Of a task by the classifier; below it a query has none.")
    tools: dict[Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")], ToolConfig] = Field(
        default_factory=dict, description="Tools that run on the server, by name."
    )
    tool_steps: PositiveInt = Field(8, description="Most turns in which a tier calls tools for one query.")
    tool_calls: PositiveInt = Field(4, description="Most tools that run at once for one query.")
    min_remaining_s: NonNegativeFloat = Field(
        1.0, description="With an answer available, no further tier is called with less time to the deadline."
    )

    @model_validator(mode="after")
    def _known_tools(self) -> Self:
        rows = {**(self.tasks or {}), **({"default": self.default} if self.default is not None else {})}
        for name, task in rows.items():
            if unknown := next((tool for tool in task.tools if tool not in self.tools), None):
                raise ValueError(f"tasks.{name}.tools: {unknown!r} is not among orchestration.tools; add it there")
        return self
