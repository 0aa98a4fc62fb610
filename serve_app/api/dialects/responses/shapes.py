"""JSON schemas of what the routes of /v1/responses return, for the OpenAPI document."""

from typing import Any

_STRING: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_MAYBE_OBJECT: dict[str, Any] = {"type": ["object", "null"]}
_BOOLEAN: dict[str, Any] = {"type": "boolean"}
_ITEM: dict[str, Any] = {"type": "object", "required": ["type", "id"], "properties": {"type": _STRING, "id": _STRING}}
_ITEMS: dict[str, Any] = {"type": "array", "items": _ITEM}


def _all(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties, **more}


_USAGE = _all(
    {
        "input_tokens": _INTEGER,
        "input_tokens_details": _all({"cached_tokens": _INTEGER}),
        "output_tokens": _INTEGER,
        "output_tokens_details": _all({"reasoning_tokens": _INTEGER}),
        "total_tokens": _INTEGER,
    }
)
RESPONSE = _all(
    {
        "id": _STRING,
        "object": {"const": "response"},
        "created_at": _INTEGER,
        "status": {"enum": ["completed", "incomplete"]},
        "error": {"type": "null"},
        "incomplete_details": _MAYBE_OBJECT,
        "model": _STRING,
        "output": _ITEMS,
        "parallel_tool_calls": _BOOLEAN,
        "tools": {"type": "array"},
        "store": {**_BOOLEAN, "description": "Whether it is kept, so that a request can continue it."},
        "usage": _USAGE,
        "jethro": {"type": "object", "description": "The decision and its cost, as on /v1/chat/completions."},
    }
)
RESPONSE_EVENTS = _all(
    {"event": _STRING, "data": _STRING},
    description="Server-sent events in OpenAI's order, from response.created to response.completed, "
    "response.incomplete or response.failed; the last one's response carries `jethro`.",
)
RESPONSE_DELETED = _all({"id": _STRING, "object": {"const": "response"}, "deleted": {"const": True}})
_MAYBE_ID = {"type": ["string", "null"]}
INPUT_ITEMS = _all(
    {
        "object": {"const": "list"},
        "data": _ITEMS,
        "first_id": _MAYBE_ID,
        "last_id": _MAYBE_ID,
        "has_more": _BOOLEAN,
    }
)
