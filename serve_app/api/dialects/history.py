"""What clients send back of earlier answers: whole messages, as their SDKs keep them.

Besides its text an answer has fields that are no input: reasoning, annotations, indices of tool calls, and whatever an
SDK or an upstream added. They are left out, or kept for the upstreams that gave them. This runs only for a body that
the request models refused, so that one without such fields costs nothing; what is unknown here they refuse again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from serve_app.api.dialects.fields import FieldRules
from serve_app.types import Message

# fmt: off
_SAID: Final = frozenset((
    "annotations", "audio", "cache_control", "citations", "created", "extra_content", "id", "images", "metadata",
    "model", "object", "parsed", "provider_specific_fields", "reasoning", "reasoning_content", "reasoning_details",
    "search_results", "status", "stop_reason", "thinking", "thinking_blocks", "token_ids", "type", "usage",
))
"""Of an assistant's message."""
_GIVEN: Final = frozenset(("cache_control", "id", "metadata", "status", "type"))
"""Of any other."""
_MESSAGE: Final = frozenset(("audio", "function_call", "name", "refusal", "tool_call_id", "tool_calls"))
"""Keys of some messages, which SDKs with one class for all of them send as null."""
_CALL: Final = frozenset((
    "cache_control", "extra_content", "index", "parsed_arguments", "provider_specific_fields", "status",
))
_FUNCTION: Final = frozenset((
    "description", "extra_content", "index", "parsed_arguments", "provider_specific_fields", "strict",
))
_PART: Final = frozenset((
    "annotations", "cache_control", "citations", "extras", "id", "index", "logprobs", "metadata", "parsed",
    "provider_specific_fields", "signature",
))
_KEPT_OF_MESSAGE: Final = frozenset((
    "audio", "extra_content", "images", "provider_specific_fields", "reasoning", "reasoning_content",
    "reasoning_details", "thinking", "thinking_blocks",
))
_KEPT_OF_CALL: Final = frozenset(("extra_content", "provider_specific_fields"))
# fmt: on
_CACHE: Final = "cache_control"


@dataclass(slots=True)
class Kept:
    """What is kept of messages and tools for upstreams, by their position."""

    messages: dict[int, dict[str, Any]] = field(default_factory=dict)
    calls: dict[int, dict[int, dict[str, Any]]] = field(default_factory=dict)
    tools: dict[int, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.messages or self.calls or self.tools)

    def into(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages with what was kept of them."""
        return tuple([self._into(i, message) for i, message in enumerate(messages)])

    def into_tools(self, tools: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        """The tools with what was kept of them."""
        return tuple([{**t, _CACHE: self.tools[i]} if i in self.tools else t for i, t in enumerate(tools)])

    def _into(self, at: int, message: Message) -> Message:
        own, calls = self.messages.get(at), self.calls.get(at)
        if own is None and calls is None:
            return message
        extra = {**message.extra, **(own or {})}
        if calls and "tool_calls" in extra:
            extra["tool_calls"] = [{**call, **calls.get(i, {})} for i, call in enumerate(extra["tool_calls"])]
        return replace(message, extra=extra)


class EchoedHistory:
    """Takes out of one body what is no input. `changed`: there was some."""

    def __init__(self, rules: FieldRules) -> None:
        self.changed = False
        self.kept = Kept()
        self._rules = rules

    def tidied(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body without it, as a copy where it is changed. Whatever else is wrong with it stays."""
        body = dict(body)
        if body.get("stop") == "":  # no request; here, since it is rare
            del body["stop"]
            self.changed = True
        if isinstance(messages := body.get("messages"), list):
            body["messages"] = [self._message(m, i) if isinstance(m, dict) else m for i, m in enumerate(messages)]
        if isinstance(tools := body.get("tools"), list):
            body["tools"] = [self._tool(t, i) if isinstance(t, dict) else t for i, t in enumerate(tools)]
        return body

    def _message(self, message: dict[str, Any], at: int) -> dict[str, Any]:
        said = message.get("role") == "assistant"
        extra = _SAID if said else _GIVEN
        gone = {k for k, v in message.items() if k in extra or (v is None and k in _MESSAGE)}
        if said:
            gone |= {k for k, nothing in (("name", ""), ("tool_calls", [])) if message.get(k) == nothing}
        kept = {k: message[k] for k in gone & _KEPT_OF_MESSAGE if message[k] is not None} if self._rules.echoes else {}
        new = {k: v for k, v in message.items() if k not in gone}
        cached = message.get(_CACHE)
        if isinstance(content := message.get("content"), list):
            new["content"] = [self._part(p) if isinstance(p, dict) else p for p in content]
            marks = [p[_CACHE] for p in content if isinstance(p, dict) and isinstance(p.get(_CACHE), dict)]
            cached = marks[-1] if marks else cached
        if said:
            if isinstance(calls := new.get("tool_calls"), list):
                new["tool_calls"] = [self._call(c, at, i) if isinstance(c, dict) else c for i, c in enumerate(calls)]
            if gone and "content" not in new:
                new["content"] = None
        if self._rules.cache_control and isinstance(cached, dict):
            kept[_CACHE] = cached
        if gone:
            self.changed = True
        if kept:
            self.kept.messages[at] = kept
        return new

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        gone = part.keys() & _PART if part.get("type") in ("text", "refusal", "image_url") else ()
        if not gone:
            return part
        self.changed = True
        return {k: v for k, v in part.items() if k not in gone}

    def _call(self, call: dict[str, Any], at: int, position: int) -> dict[str, Any]:
        new = {k: v for k, v in call.items() if k not in _CALL}
        function = call.get("function")
        if new.get("type") is None and isinstance(function, dict):
            new["type"] = "function"
        if isinstance(function, dict):
            new["function"] = {k: v for k, v in function.items() if k not in _FUNCTION}
            arguments = function.get("arguments")
            if arguments is None or isinstance(arguments, dict):
                new["function"]["arguments"] = _as_text(arguments)
        if new != call:
            self.changed = True
        kept = {k: call[k] for k in call.keys() & _KEPT_OF_CALL if call[k] is not None}
        if kept and self._rules.echoes:
            self.kept.calls.setdefault(at, {})[position] = kept
        return new

    def _tool(self, tool: dict[str, Any], at: int) -> dict[str, Any]:
        function, cached = tool.get("function"), tool.get(_CACHE)
        new = {k: v for k, v in tool.items() if k != _CACHE}
        if isinstance(function, dict) and _CACHE in function:
            cached = function[_CACHE] if cached is None else cached
            new["function"] = {k: v for k, v in function.items() if k != _CACHE}
        if new == tool:
            return tool
        self.changed = True
        if self._rules.cache_control and isinstance(cached, dict):
            self.kept.tools[at] = cached
        return new


def _as_text(arguments: dict[str, Any] | None) -> Any:
    """Some upstreams send arguments as the object itself, or none at all."""
    try:
        return "{}" if arguments is None else orjson.dumps(arguments).decode()
    except (TypeError, orjson.JSONEncodeError):
        return arguments
