"""The items of `input` as Pydantic models. Keys that are not theirs are dropped: clients send back what they got."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from serve_app.api.schemas import Part

Id = Annotated[str, Field(min_length=1, max_length=256)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class LoosePart(Part):
    """Base of what an answer may have contained: output-only keys, also those of newer versions, are dropped."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class InputText(LoosePart):
    """A piece of text."""

    type: Literal["input_text"]
    text: str


class InputImage(LoosePart):
    """An image, by its URL or as a data URI."""

    type: Literal["input_image"]
    image_url: Annotated[str, Field(min_length=1)]
    detail: Literal["low", "high", "auto", "original"] | None = None


class OutputText(LoosePart):
    """A piece of an answer's text."""

    type: Literal["output_text"]
    text: str


class OutputRefusal(LoosePart):
    """With what an answer refused."""

    type: Literal["refusal"]
    refusal: str


MessagePart = Annotated[InputText | InputImage | OutputText | OutputRefusal, Field(discriminator="type")]
OutputPart = Annotated[InputText | InputImage, Field(discriminator="type")]


def _content_kind(value: Any) -> str | None:
    return "text" if isinstance(value, str) else "parts" if isinstance(value, list) else None


_PARTS = "Input should be a string or a list of parts"


class MessageItem(LoosePart):
    """A turn. `type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[MessagePart], Tag("parts")],
        Discriminator(_content_kind, custom_error_type="content_type", custom_error_message=_PARTS),
    ]
    id: str | None = None
    status: ItemStatus | None = None
    phase: str | None = None


class FunctionCallItem(LoosePart):
    """A function that the model called; `arguments` is JSON as text, as the model wrote it."""

    type: Literal["function_call"]
    call_id: Id
    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str
    id: str | None = None
    status: ItemStatus | None = None


class FunctionOutputItem(LoosePart):
    """What a function answered."""

    type: Literal["function_call_output"]
    call_id: Id
    output: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[OutputPart], Tag("parts")],
        Discriminator(_content_kind, custom_error_type="content_type", custom_error_message=_PARTS),
    ]
    id: str | None = None
    status: ItemStatus | None = None


class ReasoningText(LoosePart):
    """A piece of what the model thought, or of its summary."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(LoosePart):
    """What the model thought before; models here read no thoughts of earlier turns."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ReasoningText] = Field(default_factory=list)
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    status: ItemStatus | None = None


class ItemReference(LoosePart):
    """An item of a kept response, by its id. `type` may be left out."""

    type: Literal["item_reference"] | None = "item_reference"
    id: Id


def item_kind(item: Any) -> str | None:
    """The type of an item that may not name it; None for what is no item."""
    if not isinstance(item, dict):
        return None
    kind = item.get("type")
    if kind is not None:
        return kind if isinstance(kind, str) else None
    return "message" if "role" in item else "item_reference" if "id" in item else None


def _any_of(schema: dict[str, Any]) -> None:
    """An item without a type may look like two kinds: in the description it may be either."""
    schema["anyOf"] = schema.pop("oneOf")


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")],
    Discriminator(
        item_kind,
        custom_error_type="item_type",
        custom_error_message="Input should be an object: a message, function_call, function_call_output, reasoning or "
        "item_reference",
    ),
    Field(json_schema_extra=_any_of),
]
