"""JSON schemas of the responses, for the OpenAPI document. The bytes themselves come from the engines."""

from typing import Any

from serve_app.types import DECISION_FIELDS, DecisionField

_STRING: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_NUMBER: dict[str, Any] = {"type": "number"}
_MAYBE_NUMBER: dict[str, Any] = {"type": ["number", "null"]}
_MAYBE_STRING: dict[str, Any] = {"type": ["string", "null"]}
_FINISH = {"enum": ["stop", "length", "tool_calls", "content_filter"]}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_USAGE = _object({"prompt_tokens": _INTEGER, "completion_tokens": _INTEGER, "total_tokens": _INTEGER})
_JSON_TYPES: dict[type, str] = {str: "string", float: "number", int: "integer", bool: "boolean", tuple: "array"}


def _decision_field(field: DecisionField) -> dict[str, Any]:
    kind = _JSON_TYPES.get(field.kind, "object")
    return {"type": [kind, "null"] if field.optional else kind, "description": field.shown.description}


_DECISION = {f.name: _decision_field(f) for f in DECISION_FIELDS}
_JETHRO = _object({**{f.name: _DECISION[f.name] for f in DECISION_FIELDS if not f.shown.detail}, "cost_usd": _NUMBER})
_MESSAGE = _object({"role": _STRING, "content": _MAYBE_STRING})
_HEAD = {"id": _STRING, "created": _INTEGER, "model": _STRING, "usage": _USAGE, "jethro": _JETHRO}

CHAT_COMPLETION = _object(
    {
        **_HEAD,
        "object": {"const": "chat.completion"},
        "choices": _list(_object({"index": _INTEGER, "message": _MESSAGE, "finish_reason": _FINISH})),
    }
)
COMPLETION = _object(
    {
        **_HEAD,
        "object": {"const": "text_completion"},
        "choices": _list(_object({"index": _INTEGER, "text": _STRING, "finish_reason": _FINISH})),
    }
)
EMBEDDINGS = _object(
    {
        "object": {"const": "list"},
        "model": _STRING,
        "usage": _object({"prompt_tokens": _INTEGER, "total_tokens": _INTEGER}),
        "truncated": {**_INTEGER, "description": "Inputs of which only the beginning was read; left out for none."},
        "data": _list(
            _object(
                {
                    "object": {"const": "embedding"},
                    "index": _INTEGER,
                    "embedding": {
                        "anyOf": [_list(_NUMBER), _STRING],
                        "description": "Numbers, or base64 of little-endian float32.",
                    },
                }
            )
        ),
        "jethro": _JETHRO,
    },
    optional=("truncated",),
)
EVENT_STREAM: dict[str, Any] = {
    **_object({"event": _STRING, "data": _STRING}, optional=("event",)),
    "description": "Server-sent events, one chunk each; the last chunk carries `jethro`; then `data: [DONE]`.",
}
"""Describes each event, not the whole stream: so read OpenAPI's readers a `schema` of this media type before 3.2."""
MODEL = _object(
    {
        "id": _STRING,
        "object": {"const": "model"},
        "created": _INTEGER,
        "owned_by": _STRING,
        "description": _STRING,
        "pool": {**_MAYBE_STRING, "description": "The pool that answers, without a decision; null: one is made."},
        "type": {"enum": ["chat", "embedding"], "description": "Which routes take it; embedding: /v1/embeddings."},
        "embedded": {"type": "boolean", "description": "One of the embedded models, which know lab tasks only."},
    }
)
MODELS = _object({"object": {"const": "list"}, "data": _list(MODEL)})
DECISION = _object(_DECISION)
_FEEDBACK = _object(
    {
        "score": _MAYBE_NUMBER,
        "preferred": _MAYBE_STRING,
        "against": _MAYBE_STRING,
        "comment": _MAYBE_STRING,
        "created_s": _NUMBER,
    }
)
RECORD = _object(
    {
        **_DECISION,
        "request_id": _STRING,
        "created_s": _NUMBER,
        "endpoint": _STRING,
        "status": {"enum": ["completed", "failed", "cancelled", "route_only"]},
        "prompt_tokens": _INTEGER,
        "completion_tokens": _INTEGER,
        "cost_usd": _NUMBER,
        "latency_ms": _NUMBER,
        "ttft_ms": _MAYBE_NUMBER,
        "error_code": _MAYBE_STRING,
        "user": _MAYBE_STRING,
        "safety_identifier": _MAYBE_STRING,
        "feedback": _list(_FEEDBACK),
    }
)
_SIGNAL = _object(
    {"drift": {"type": "boolean"}, "statistic": _NUMBER, "limit": _NUMBER, "queries": _INTEGER, "feature": _STRING},
    optional=("feature",),
)
ROUTERS = _object(
    {
        "object": {"const": "list"},
        "data": _list(
            _object(
                {
                    "id": _STRING,
                    "object": {"const": "router"},
                    "kind": _STRING,
                    "version": _STRING,
                    "threshold": _NUMBER,
                    "placement": {"enum": ["inline", "batched", "scorer"]},
                    "default": {"type": "boolean"},
                    "swaps": _INTEGER,
                    "refusals": _INTEGER,
                    "refused": _MAYBE_STRING,
                    "drift": {"type": "object", "additionalProperties": _SIGNAL},
                    "models": {
                        "type": ["object", "null"],
                        "description": "The weak and strong model it was trained on.",
                    },
                    "warning": {**_MAYBE_STRING, "description": "What the decisions by its score carry."},
                    "share": {**_MAYBE_NUMBER, "description": "Share of strong calls among the last scores."},
                    "expected_share": {**_MAYBE_NUMBER, "description": "The same share of the calibration data."},
                }
            )
        ),
    }
)
_FIGURES = {"type": "object", "description": "Counts, shares by level, and the learner's own figures."}
STREAM = _object(
    {
        "id": _STRING,
        "object": {"const": "stream"},
        "model": _STRING,
        "uid": _STRING,
        "labels": _list(_STRING),
        "instruction": _STRING,
        "llm_pool": _STRING,
        "mu": _MAYBE_NUMBER,
        "llm_share": _MAYBE_NUMBER,
        "horizon": _INTEGER,
        "levels": _list(_STRING),
        "explore_floor": _NUMBER,
        "audit_share": _NUMBER,
        "objective": {"enum": ["accuracy", "balanced"]},
        "seed": _INTEGER,
        "state": {"enum": ["learning", "learner away", "unreadable"]},
        "error": _MAYBE_STRING,
        "figures": _FIGURES,
    },
    optional=(
        *("labels", "instruction", "llm_pool", "mu", "llm_share", "horizon"),
        *("levels", "explore_floor", "audit_share", "objective", "seed"),
    ),
)
STREAMS = _object({"object": {"const": "list"}, "data": _list(STREAM)})
STREAM_DELETED = _object({"id": _STRING, "object": {"const": "stream"}, "deleted": {"const": True}})
ADAPTER = _object(
    {
        "id": _STRING,
        "object": {"const": "adapter"},
        "version": _STRING,
        "base": _STRING,
        "base_sha256": _STRING,
        "task": _MAYBE_STRING,
        "rank": _INTEGER,
        "parameters": _INTEGER,
        "bytes": _INTEGER,
        "licence": _MAYBE_STRING,
        "metrics": {"type": "object"},
        "created": {"type": ["string", "number", "null"]},
        "data_sha256": _MAYBE_STRING,
        "source": _MAYBE_STRING,
        "shipped": {"type": "boolean"},
        "pinned": {"type": "boolean"},
        "models": {**_list(_STRING), "description": "What callers write in `model` to use it."},
        "loaded": {
            "type": "object",
            "additionalProperties": _INTEGER,
            "description": "By pool, the replicas that hold it.",
        },
    }
)
ADAPTERS = _object({"object": {"const": "list"}, "data": _list(ADAPTER)})
ADAPTER_DELETED = _object({"id": _STRING, "object": {"const": "adapter"}, "deleted": {"const": True}})
RECORDS: dict[str, Any] = {
    "type": "string",
    "description": "JSON lines, each a record with its feedback.",
}
DECISION_DELETED = _object({"id": _STRING, "object": {"const": "decision"}, "deleted": {"const": True}})
DECISIONS_DELETED = _object({"object": {"const": "decisions.deleted"}, "decisions": _INTEGER, "feedback": _INTEGER})
STORED = _object({"decision_id": _STRING, "stored": {"const": True}})
ALIVE = _object({"ok": {"const": True}})
READY = _object({"ok": {"type": "boolean"}, "degraded": {"type": "boolean"}, "pools": {"type": "object"}})
_BY_POOL = {"type": "object", "additionalProperties": {"type": "object"}}
LIVE = _object(
    {
        "object": {"const": "live"},
        "now_s": _NUMBER,
        "step_s": {**_INTEGER, "description": "Length of a step of the history, in seconds."},
        "window_s": {**_INTEGER, "description": "What the totals are of, in seconds until now."},
        "totals": {"type": "object", "description": "Counts, shares, US dollars, and percentiles in milliseconds."},
        "history": {"type": "object", "description": "The same by step as columns, oldest first; whole steps only."},
        "gateways": {**_INTEGER, "description": "Gateways that answered."},
        "in_flight": {**_INTEGER, "description": "Requests being answered."},
        "pools": {**_BY_POOL, "description": "By pool its model, price, replicas and load."},
        "calibration": {**_list({"type": "object"}), "description": "Calibration errors, and of how many ratings."},
        "embedded": {"type": "boolean", "description": "Some pool is one of the embedded models, for lab tasks only."},
    }
)
VERSION: dict[str, Any] = _object({"version": {"type": "string"}})
TEXT: dict[str, Any] = {"type": "string"}
