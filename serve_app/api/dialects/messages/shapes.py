"""JSON schemas of the responses, for the OpenAPI document."""

from typing import Any, Final

from serve_app.api import shapes

_STRING: Final[dict[str, Any]] = {"type": "string"}
_INTEGER: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


_TEXT = _object({"type": {"const": "text"}, "text": _STRING})
_THINKING = _object({"type": {"const": "thinking"}, "thinking": _STRING, "signature": _STRING})
_TOOL_USE = _object({"type": {"const": "tool_use"}, "id": _STRING, "name": _STRING, "input": {"type": "object"}})
_STOP_REASONS = ["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]
_COUNTS = (
    *("input_tokens", "output_tokens"),
    *("cache_creation_input_tokens", "cache_read_input_tokens"),
)

MESSAGE: Final = _object(
    {
        "id": _STRING,
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "model": _STRING,
        "content": {"type": "array", "items": {"anyOf": [_TEXT, _THINKING, _TOOL_USE]}},
        "stop_reason": {"enum": _STOP_REASONS},
        "stop_sequence": {"type": ["string", "null"]},
        "usage": _object(dict.fromkeys(_COUNTS, _INTEGER)),
        "jethro": shapes.CHAT_COMPLETION["properties"]["jethro"],
    }
)
EVENTS: Final[dict[str, Any]] = {
    **_object({"event": _STRING, "data": _STRING}),
    "description": "Server-sent events in Anthropic's order; `message_delta` carries `jethro`.",
}
TOKENS: Final = _object({"input_tokens": _INTEGER})
ERROR: Final = _object(
    {
        "type": {"const": "error"},
        "error": _object({"type": _STRING, "message": _STRING, "details": {"type": "object"}}, ("details",)),
        "request_id": {"type": ["string", "null"]},
    }
)
