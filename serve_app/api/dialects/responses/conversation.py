"""Items as the messages of chat, and back from a place among the messages to the caller's own items.

A function call belongs to the assistant's turn before it, and several calls in sequence are one turn, as in chat.
What the model thought earlier is left out: the models here read no thoughts of earlier turns.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from serve_app.api.dialects.responses.unsupported import renamed
from serve_app.errors import RequestError
from serve_app.images import Image, TextOrImage
from serve_app.types import Message

Item = Mapping[str, Any]
EARLIER: Final = "previous_response_id"
"""The parameter that items of an earlier response came from."""
_MESSAGE: Final = re.compile(r"messages\.(\d+)(.*)")
_CONTENT: Final = re.compile(r"\.content\.(\d+)(\.image_url)?")
_FIELDS: Final[Mapping[str, str]] = {
    "logprobs": "include",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "prompt": "input",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}
_INSIDE: Final = (
    (re.compile(r"response_format\.json_schema"), "text.format"),
    (re.compile(r"response_format"), "text.format"),
    (re.compile(r"tools\.(\d+)\.function"), r"tools[\1]"),
    (re.compile(r"tools\.(\d+)"), r"tools[\1]"),
    (re.compile(r"tool_choice\.function"), "tool_choice"),
)


class ChatMessages:
    """Grows by items. `messages` is what chat's body has; their places in the caller's body are kept."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._places: list[tuple[str, str]] = []
        """Of each message: the caller's parameter that it came from, and the key of its parts there."""

    def instruct(self, text: str) -> None:
        """The caller's instructions, for this answer alone."""
        self._add({"role": "system", "content": text}, "instructions", "")

    def say(self, text: str) -> None:
        """The input, where it is text."""
        self._add({"role": "user", "content": text}, "input", "")

    def kept(self, items: Iterable[Item]) -> None:
        """Items of an earlier response."""
        for item in items:
            self.item(item, EARLIER)

    def item(self, item: Item, place: str) -> None:
        """One that was checked; `place` is its path in the caller's body."""
        kind = item.get("type") or "message"
        if kind == "message":
            self._add(_turn(item), place, "content")
        elif kind == "function_call":
            self._call(item, place)
        elif kind == "function_call_output":
            content = _content(item["output"])
            self._add({"role": "tool", "content": content, "tool_call_id": item["call_id"]}, place, "output")

    def _call(self, item: Item, place: str) -> None:
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == "assistant":
            last.setdefault("tool_calls", []).append(call)
            if not last.get("content"):
                last["content"] = None
        else:
            self._add({"role": "assistant", "content": None, "tool_calls": [call]}, place, "")

    def _add(self, message: dict[str, Any], place: str, parts: str) -> None:
        self.messages.append(message)
        self._places.append((place, parts))

    def placed(self, error: RequestError) -> RequestError:
        """The error of chat's reader, under the path in the caller's own body."""
        own = self._own(error.param or "")
        return in_own_words(error) if own is None else renamed(error, own)

    def with_own_images(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages as chat's reader returned them, with their images under the paths in the caller's own body."""
        return tuple([replace(m, parts=tuple(map(self._own_image, m.parts))) if m.parts else m for m in messages])

    def _own_image(self, part: TextOrImage) -> TextOrImage:
        return replace(part, param=self._own(part.param) or part.param) if isinstance(part, Image) else part

    def _own(self, param: str) -> str | None:
        """A path among the messages as the one in the caller's own body; None for another."""
        found = _MESSAGE.match(param)
        if found is None:
            return None
        place, parts = self._places[int(found[1])]
        part = _CONTENT.match(found[2])
        if part is None or not parts or place == EARLIER:
            return place
        return f"{place}.{parts}[{part[1]}]{part[2] or ''}"


def in_own_words(error: RequestError) -> RequestError:
    """An error that names a parameter of chat's, by the name that it has here."""
    param = error.param
    if param is None:
        return error
    own = _FIELDS.get(param)
    if own is None:
        own = next((pattern.sub(name, param) for pattern, name in _INSIDE if pattern.match(param)), param)
    return error if own == param else renamed(error, own)


def _turn(item: Item) -> dict[str, Any]:
    role, content = item["role"], item["content"]
    if role != "assistant" or isinstance(content, str):
        return {"role": role, "content": _content(content)}
    texts = [_text(part) for part in content]
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts] if texts else ""}


def _content(content: str | list[Item]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return "" if not content else [_part(part) for part in content]


def _part(part: Item) -> dict[str, Any]:
    """A part as chat has it."""
    if part["type"] == "input_image":
        image = {"url": part["image_url"]}
        detail = part.get("detail")
        return {
            "type": "image_url",
            "image_url": image if detail in (None, "original") else {**image, "detail": detail},
        }
    return {"type": "text", "text": _text(part)}


def _text(part: Item) -> str:
    text: str = part["refusal"] if part["type"] == "refusal" else part.get("text", "")
    return text
