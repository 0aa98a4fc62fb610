"""What OpenAI's Responses API has and this endpoint has not: refused by its name, with what to do instead."""

from collections.abc import Mapping
from typing import Any, Final

from serve_app.errors import RequestError, UnsupportedParameter

_FIELDS: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "access_programs": ((None,), "leave it out."),
    "background": ((None, False), "answers are given in the request's own connection: use stream."),
    "background_options": ((None,), "leave it out."),
    "context_management": ((None, []), "shorten the input yourself."),
    "conversation": ((None,), "continue an answer with previous_response_id, or send all items in input."),
    "image": ((None,), "leave it out."),
    "moderation": ((None,), "guards are the operator's to set: leave it out."),
    "prompt": ((None,), "send the text of the prompt in instructions and input."),
}
"""By field: the values that request nothing, and what to do instead of any other."""
_HINTS: Final = ("prompt_cache_options",)
"""Fields that change no answer, and nothing here."""
_TOOL: Final = "tools are not supported: offer a function tool instead, and run it yourself."
_KNOWN_ITEMS: Final = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
_KNOWN_PARTS: Final = ("input_text", "input_image", "output_text", "refusal", "reasoning_text", "summary_text")
_CHOICES: Final = ("function", "allowed_tools")


def refuse_unsupported(body: dict[str, Any]) -> None:
    """Removes from `body` what requests nothing. Raises UnsupportedParameter for the first thing that does."""
    for name in _HINTS:
        body.pop(name, None)
    for name in _FIELDS.keys() & body.keys():
        neutral, instead = _FIELDS[name]
        value = body.pop(name)
        if not any(type(value) is type(each) and value == each for each in neutral):
            raise UnsupportedParameter(f"{name} is not supported: {instead}", param=name)
    if body.get("truncation") == "auto":
        raise UnsupportedParameter(
            "truncation: auto is not supported: leave it out, and shorten the input yourself.", param="truncation"
        )
    _tools(body)
    if isinstance(body.get("input"), list):
        for i, item in enumerate(body["input"]):
            if isinstance(item, dict):
                _item(item, f"input[{i}]")


def _tools(body: Mapping[str, Any]) -> None:
    tools, choice = body.get("tools"), body.get("tool_choice")
    for i, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "function":
            raise UnsupportedParameter(f"tools[{i}]: {_short(kind)[1:-1]} {_TOOL}", param=f"tools[{i}]")
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(kind, str) and kind not in _CHOICES:
        raise UnsupportedParameter(
            f"tool_choice: {_short(kind)} is not supported: use none, auto, required, function or allowed_tools.",
            param="tool_choice",
        )


def _item(item: Mapping[str, Any], param: str) -> None:
    kind = item.get("type")
    if isinstance(kind, str) and kind not in _KNOWN_ITEMS:
        raise UnsupportedParameter(
            f"{param}: items of type {_short(kind)} are not supported: use {', '.join(_KNOWN_ITEMS)}.", param=param
        )
    for name in ("content", "output"):
        parts = item.get(name)
        for i, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, dict):
                _part(part, f"{param}.{name}[{i}]")


def _part(part: Mapping[str, Any], param: str) -> None:
    kind = part.get("type")
    if isinstance(kind, str) and kind not in _KNOWN_PARTS:
        raise UnsupportedParameter(
            f"{param}: {_short(kind)} parts are not supported: send text, or an image.", param=param
        )
    if kind == "input_image" and part.get("image_url") is None and part.get("file_id") is not None:
        raise UnsupportedParameter(
            f"{param}.file_id: files are not kept here: send the image in image_url.", param=f"{param}.file_id"
        )


def _short(kind: str) -> str:
    return repr(kind[:64])


def bracketed(error: RequestError) -> RequestError:
    """The same error with its path as OpenAI's Responses API writes it: `input[1].content[0].text`."""
    if error.param is None:
        return error
    first, *rest = error.param.split(".")
    path = first + "".join(f"[{step}]" if step.isdecimal() else f".{step}" for step in rest)
    return renamed(error, path)


def renamed(error: RequestError, param: str) -> RequestError:
    """The same error under another path, which its message then names as well."""
    message = error.message.replace(error.param, param) if error.param else error.message
    return type(error)(message, param=param, code=error.code, retry_after_s=error.retry_after_s)
