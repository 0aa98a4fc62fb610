"""The body of POST /v1/responses as a Pydantic model. What is not supported is refused in unsupported.py."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from serve_app.api.dialects.responses.items import InputItem, LoosePart
from serve_app.api.schemas import FunctionName, JsonObject, MetadataKey, MetadataValue, Part, Tokens, UserId

Includable = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
"""All but the log-probabilities are of tools and of encryption that are not used here: nothing to include."""
ResponseId = Annotated[str, Field(min_length=1, max_length=128)]


class FunctionToolParam(LoosePart):
    """A function that the model may call."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class NamedTool(LoosePart):
    """A function by its name."""

    type: Literal["function"]
    name: FunctionName


class AllowedTools(LoosePart):
    """The functions that the model may call now, of all those of the request."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class PlainText(LoosePart):
    """Free text."""

    type: Literal["text"]


class AnyJson(LoosePart):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(LoosePart):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    name: FunctionName
    schema_: JsonObject = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextConfig(LoosePart):
    """The form of the text."""

    format: Annotated[PlainText | AnyJson | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(LoosePart):
    """How much the model thinks. Its thoughts are shown whole where there are any, so a summary changes nothing."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesStreamOptions(Part):
    """Settings of a stream."""

    include_obfuscation: bool | None = Field(None, description="Pad the events of pieces to hide their lengths.")


def _input_kind(value: Any) -> str | None:
    return "text" if isinstance(value, str) else "items" if isinstance(value, list) else None


class ResponsesRequest(Part):
    """The body of POST /v1/responses."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[InputItem], Field(min_length=1), Tag("items")],
        Discriminator(
            _input_kind,
            custom_error_type="input_type",
            custom_error_message="Input should be a string or a list of items",
        ),
    ]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    tools: list[FunctionToolParam] | None = None
    tool_choice: (
        Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedTools, Field(discriminator="type")] | None
    ) = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Bounds built-in tools, of which there are none here."
    )
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    user: UserId | None = None
    safety_identifier: UserId | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    store: bool | None = Field(None, description="Keep the answer so that a later request can continue it.")
    previous_response_id: ResponseId | None = Field(None, description="The kept answer that this request continues.")
    include: list[Includable] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncation: Literal["disabled"] | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None

    @property
    def logprobs(self) -> bool:
        """Whether log-probabilities are requested."""
        return "message.output_text.logprobs" in (self.include or ()) or bool(self.top_logprobs)
