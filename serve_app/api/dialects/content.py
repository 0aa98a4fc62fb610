"""What a message of chat says, as Pydantic models: text, or parts of text and images."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from serve_app.images import Image, ImageDetail
from serve_app.types import Message, Role


class Part(BaseModel):
    """Base of all request objects: strict types, no unknown keys, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class TextPart(Part):
    """A piece of text."""

    type: Literal["text"]
    text: str


_Url = Annotated[str, Field(min_length=1)]


class ImageUrl(Part):
    """Where an image is: an http(s) URL, or its bytes as a data URI."""

    url: _Url
    detail: ImageDetail | None = None


def _named(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class ImagePart(Part):
    """An image. Its URL alone, without an object around it, is taken as well."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_named, json_schema_input_type=ImageUrl | _Url)]


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
SeenPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]
SeenContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[SeenPart], Field(min_length=1), Tag("parts")],
    Discriminator(
        _content_kind,
        custom_error_type="content_type",
        custom_error_message="Input should be a string or a list of text and image_url parts",
    ),
]
"""Content that may have images: of users, and of tools."""


def text_in(content: str | list[TextPart]) -> str:
    """Text parts become lines."""
    return content if isinstance(content, str) else "\n".join(p.text for p in content)


def seen_in(role: Role, content: str | list[TextPart | ImagePart], extra: dict[str, Any]) -> Message:
    """A turn with its images as they were given; see images.py for their checks."""
    if isinstance(content, str):
        return Message(role, content, extra)
    parts = [p.text if isinstance(p, TextPart) else Image(p.image_url.url, p.image_url.detail) for p in content]
    return Message.of(role, parts, extra)
