"""The turns of a conversation, as OpenAI writes them: one model a role, text parts only."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from serve_app.types import Message

_JSON_DEPTH_MEND = "must be plain JSON: nested at most 200 levels, integers within 64 bits"


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    """Whatever goes on to an engine untouched must be writable as JSON again."""
    try:
        orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as e:
        raise ValueError(_JSON_DEPTH_MEND) from e
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_plain_json)]
"""An object that is passed on as it is, such as a JSON schema."""


class Part(BaseModel):
    """What all request objects share: strict types, no unknown keys, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class TextPart(Part):
    """A piece of text."""

    type: Literal["text"]
    text: str


def _content_kind(value: Any) -> str | None:
    return "text" if isinstance(value, str) else "parts" if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextPart], Field(min_length=1), Tag("parts")],
    Discriminator(
        _content_kind,
        custom_error_type="content_type",
        custom_error_message="Input should be a string or a list of text parts",
    ),
]
Name = Annotated[str, Field(min_length=1, max_length=256)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class _Turn(Part):
    """What all turns share."""

    name: Name | None = None

    def message(self) -> Message:
        """The turn in our own words."""
        extra = {"name": self.name} if self.name is not None else {}
        return Message(self.role, _text(self.content), extra)  # type: ignore[attr-defined]


class SystemTurn(_Turn):
    """Instructions."""

    role: Literal["system"]
    content: Content


class DeveloperTurn(_Turn):
    """Instructions, by their newer name."""

    role: Literal["developer"]
    content: Content


class UserTurn(_Turn):
    """What the user says."""

    role: Literal["user"]
    content: Content


class FunctionCall(Part):
    """A function that the model called; `arguments` is JSON as text, as the model wrote it."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str


class ToolCall(Part):
    """A call of one tool."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"]
    function: FunctionCall


class AssistantTurn(_Turn):
    """What the model said or called before. Content may be null only beside calls or a refusal."""

    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=128)] | None = None
    function_call: FunctionCall | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "AssistantTurn":
        if self.content is None and not (self.tool_calls or self.function_call or self.refusal):
            raise ValueError("content is needed unless the turn has tool_calls, function_call or refusal")
        return self

    def message(self) -> Message:
        """The turn, its calls in `extra` as received."""
        extra = self.model_dump(include={"name", "tool_calls", "function_call"}, exclude_none=True)
        text = _text(self.content) if self.content is not None else self.refusal or ""
        return Message("assistant", text, extra)


class ToolTurn(Part):
    """What a tool answered."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256)]

    def message(self) -> Message:
        """The turn, with the id of the call it answers."""
        return Message("tool", _text(self.content), {"tool_call_id": self.tool_call_id})


class FunctionTurn(Part):
    """What a function answered; the older form of a tool turn."""

    role: Literal["function"]
    content: Content
    name: Name

    def message(self) -> Message:
        """The turn, with the function's name."""
        return Message("function", _text(self.content), {"name": self.name})


Turn = Annotated[
    SystemTurn | DeveloperTurn | UserTurn | AssistantTurn | ToolTurn | FunctionTurn, Field(discriminator="role")
]


def _text(content: str | list[TextPart]) -> str:
    """Text parts become lines."""
    return content if isinstance(content, str) else "\n".join(p.text for p in content)
