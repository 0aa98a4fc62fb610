"""The bodies of /v1/messages and /v1/messages/count_tokens as Pydantic models.

Anthropic's hints (`cache_control`, `citations` and the like) are accepted wherever clients send them. They change
nothing here. The operator's limits are checked in reading.py.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from serve_app.api.schemas import JsonObject, Part, UserId

Hint = Annotated[Any, Field(description="Accepted; it changes nothing here.")]
Id = Annotated[str, Field(min_length=1, max_length=256)]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]


class _Block(Part):
    """Base of the blocks."""

    cache_control: Hint = None


class TextBlock(_Block):
    """A piece of text; an empty one is left out."""

    type: Literal["text"]
    text: str
    citations: Hint = None


class Base64Source(Part):
    """The bytes of a picture."""

    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: Annotated[str, Field(min_length=1)]


class UrlSource(Part):
    """The address of a picture."""

    type: Literal["url"]
    url: Annotated[str, Field(min_length=1)]


class ImageBlock(_Block):
    """A picture."""

    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource, Field(discriminator="type")]
    transformations: Hint = None


class PlainTextSource(Part):
    """The text of a document."""

    type: Literal["text"]
    data: str
    media_type: Literal["text/plain"] = "text/plain"


class ContentSource(Part):
    """The text of a document, in pieces."""

    type: Literal["content"]
    content: str | list[TextBlock]


class DocumentBlock(_Block):
    """A document of plain text."""

    type: Literal["document"]
    source: Annotated[PlainTextSource | ContentSource, Field(discriminator="type")]
    title: str | None = None
    context: str | None = None
    citations: Hint = None


class SearchResultBlock(_Block):
    """What a search of the caller's found."""

    type: Literal["search_result"]
    source: str
    title: str
    content: list[TextBlock]
    citations: Hint = None


class _Said(_Block):
    """Base of the blocks of an answer, which clients send back with whatever their types added to it."""

    model_config = ConfigDict(extra="ignore")


class SaidTextBlock(_Said):
    """What the model said; an empty text is left out."""

    type: Literal["text"]
    text: str


class ThinkingBlock(_Said):
    """Reasoning of an earlier answer that is sent back; not given to models."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(_Said):
    """The same, encrypted."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(_Said):
    """A call that the model made before."""

    type: Literal["tool_use"]
    id: Id
    name: ToolName
    input: JsonObject


class ToolReferenceBlock(_Block):
    """The name of a tool, found by a search for tools."""

    type: Literal["tool_reference"]
    tool_name: str


ResultBlock = Annotated[
    TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock, Field(discriminator="type")
]


def _content_kind(value: Any) -> str | None:
    return "text" if isinstance(value, str) else "blocks" if isinstance(value, list) else None


_TEXT_OR_BLOCKS = Discriminator(
    _content_kind,
    custom_error_type="content_type",
    custom_error_message="Input should be a string or a list of blocks",
)


class ToolResultBlock(_Block):
    """What a tool answered."""

    type: Literal["tool_result"]
    tool_use_id: Id
    content: (
        Annotated[Annotated[str, Tag("text")] | Annotated[list[ResultBlock], Tag("blocks")], _TEXT_OR_BLOCKS] | None
    ) = None
    is_error: bool | None = None
    toolset_name: Hint = None


UserBlock = Annotated[
    TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolResultBlock, Field(discriminator="type")
]
AssistantBlock = Annotated[
    SaidTextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, Field(discriminator="type")
]


class MessagesUserTurn(Part):
    """What the user says, and what the tools answered."""

    role: Literal["user"]
    content: Annotated[Annotated[str, Tag("text")] | Annotated[list[UserBlock], Tag("blocks")], _TEXT_OR_BLOCKS]


class MessagesAssistantTurn(Part):
    """What the model said and called before; a whole message that is sent back is taken as well."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["assistant"]
    content: Annotated[Annotated[str, Tag("text")] | Annotated[list[AssistantBlock], Tag("blocks")], _TEXT_OR_BLOCKS]


class MessagesSystemTurn(Part):
    """Instructions within the conversation."""

    role: Literal["system"]
    content: Annotated[Annotated[str, Tag("text")] | Annotated[list[TextBlock], Tag("blocks")], _TEXT_OR_BLOCKS]


MessagesTurn = Annotated[MessagesUserTurn | MessagesAssistantTurn | MessagesSystemTurn, Field(discriminator="role")]


class MessagesTool(Part):
    """A tool that the model may call; the caller runs it."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None
    cache_control: Hint = None
    allowed_callers: Hint = None
    defer_loading: Hint = None
    eager_input_streaming: Hint = None
    input_examples: Hint = None


class AutoChoice(Part):
    """The model decides whether it calls a tool."""

    type: Literal["auto"]
    disable_parallel_tool_use: bool | None = None


class AnyChoice(Part):
    """The model must call a tool."""

    type: Literal["any"]
    disable_parallel_tool_use: bool | None = None


class NamedChoice(Part):
    """The model must call this tool."""

    type: Literal["tool"]
    name: ToolName
    disable_parallel_tool_use: bool | None = None


class NoneChoice(Part):
    """The model must not call a tool."""

    type: Literal["none"]
    disable_parallel_tool_use: bool | None = None


MessagesToolChoice = Annotated[AutoChoice | AnyChoice | NamedChoice | NoneChoice, Field(discriminator="type")]


class ThinkingConfig(Part):
    """`enabled` and `adaptive`: reasoning that the model's server sends is shown. Whether it reasons is its own."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Part):
    """The schema that the answer must follow."""

    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")


class OutputConfig(Part):
    """Settings of the answer."""

    effort: Hint = None
    format: OutputFormat | None = None
    task_budget: Hint = None


class MessagesMetadata(Part):
    """About the request."""

    user_id: UserId | None = None


class CountTokensRequest(Part):
    """The body of POST /v1/messages/count_tokens."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[MessagesTurn], Field(min_length=1)]
    system: (
        Annotated[Annotated[str, Tag("text")] | Annotated[list[TextBlock], Tag("blocks")], _TEXT_OR_BLOCKS] | None
    ) = None
    tools: list[MessagesTool] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = Field(None, description="An older place of `output_config.format`.")


class MessagesRequest(CountTokensRequest):
    """The body of POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, description="Longest answer; the operator's limit holds where it is lower.")]
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    stream: bool | None = None
    metadata: MessagesMetadata | None = None
