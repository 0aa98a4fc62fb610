"""Turns Pydantic's errors into OpenAI's: one sentence, the path of the parameter, a code."""

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serve_app.errors import RequestError, UnsupportedParameter

_MEDIA = ("image_url", "input_audio", "file", "video_url", "input_image", "input_file")
_CODES = {
    "missing": "missing_required_parameter",
    "union_tag_not_found": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
}


def refused(error: ValidationError, body: Any, model: type[BaseModel]) -> RequestError:
    """The caller's error for what `model` found wrong with `body`.

    Of several it is a part that is no text, else the one deepest in the body, and an unknown key before one that is
    missing (`Model` for `model`).
    """
    found = [(_path(e, body), e) for e in error.errors(include_url=False)]
    path, worst = max(found, key=_weight)
    param = ".".join(str(p) for p in path)[:200] or None
    kind = worst["type"]
    if _is_media(path, worst):
        return UnsupportedParameter(
            f"{param}: {worst['input']} parts are not supported: these models read text only.", param=param
        )
    if kind == "extra_forbidden":
        return RequestError(_unknown(param, str(path[-1]), model), param=param, code=_CODES[kind])
    return RequestError(_sentence(param, worst), param=param, code=_CODES.get(kind, "invalid_value"))


def _weight(found: tuple[tuple[str | int, ...], ErrorDetails]) -> tuple[bool, int, bool]:
    path, error = found
    return _is_media(path, error), len(path), error["type"] == "extra_forbidden"


def _is_media(path: tuple[str | int, ...], error: ErrorDetails) -> bool:
    return error["type"] == "literal_error" and path[-1:] == ("type",) and error["input"] in _MEDIA


def _path(error: ErrorDetails, body: Any) -> tuple[str | int, ...]:
    """The error's way through the body, without the names of union members that Pydantic puts between."""
    at: Any = body
    path: list[str | int] = []
    for step in error["loc"]:
        if _holds(at, step):
            at = at[step]
            path.append(step)
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    elif error["type"].startswith("union_tag"):
        path.append(str(error["ctx"]["discriminator"]).strip("'"))
    return tuple(path)


def _holds(at: Any, step: str | int) -> bool:
    if isinstance(at, dict):
        return step in at
    return isinstance(at, list) and isinstance(step, int) and step < len(at)


def _unknown(param: str | None, name: str, model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(name[:64].lower(), [*model.model_fields, "role", "content"], 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"Unknown parameter: {param}.{hint}"


def _sentence(param: str | None, error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return f"Missing required parameter: {param}."
    if error["type"] == "union_tag_not_found":
        return f"Missing required parameter: {param}."
    if error["type"] == "union_tag_invalid":
        return f"{param}: {_short(error['ctx']['tag'])} is not one of {error['ctx']['expected_tags']}."
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if message != error["msg"] and error["msg"].startswith("Input"):
        return f"{param}: must be {message}, got {_short(error['input'])}."
    return f"{param}: {message}."


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, dict | list) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
