"""The request of /v1/embeddings as a Pydantic model."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from serve_app.api.dialects.content import Part

MOST_INPUTS: Final = 2048
"""OpenAI's limit."""
_MOST_ID: Final = 2**31 - 1

_TEXT: Final = {"type": "string", "minLength": 1}
_ID: Final = {"type": "integer", "minimum": 0, "maximum": _MOST_ID}
_IDS: Final = {"type": "array", "items": _ID, "minItems": 1}
_SCHEMA: Final = {
    "anyOf": [
        _TEXT,
        {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MOST_INPUTS},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1, "maxItems": MOST_INPUTS},
    ],
    "description": "A text, up to 2,048 texts, or the same as token ids of the model's own vocabulary.",
}


def _checked(value: Any) -> Any:
    """`value` unchanged. Raises ValueError, which names the first input that is wrong."""
    if isinstance(value, str):
        if not value:
            raise ValueError("must not be an empty string")
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("give a text, an array of texts, or token ids, at least one")
    kind = type(value[0])
    if kind is int:
        _check_ids(value, "")
        return value
    if kind not in (str, list):
        raise ValueError("its items must be texts, token ids or arrays of token ids")
    if len(value) > MOST_INPUTS:
        raise ValueError(f"at most {MOST_INPUTS} inputs in a request, got {len(value)}: send several requests")
    for at, each in enumerate(value):
        if type(each) is not kind:
            raise ValueError(f"item {at} is of another type than the first: send texts or token ids, not both")
        if not each:
            raise ValueError(f"item {at} must not be empty")
        if kind is list:
            _check_ids(list(each), f"item {at}: ")
    return value


def _check_ids(ids: list[Any], where: str) -> None:
    if any(type(i) is not int for i in ids):
        raise ValueError(f"{where}token ids must all be integers")
    if min(ids) < 0 or max(ids) > _MOST_ID:
        raise ValueError(f"{where}token ids are integers from 0 to {_MOST_ID}")


class EmbeddingRequest(Part):
    """A body of /v1/embeddings."""

    model: str
    input: Annotated[Any, AfterValidator(_checked), WithJsonSchema(_SCHEMA)]
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64: little-endian float32; null: float."
    )
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        None, description="The first so many numbers of each vector, at unit length again; at most the model's own."
    )
    user: str | None = None
