"""JSON schemas of the operator's routes, for the OpenAPI document."""

from typing import Any, Final

from serve_app.api import shapes

RECORD: Final = shapes.RECORD
_DETAIL: Final = ("prompt", "features", "expected")
_NUMBER: dict[str, Any] = {"type": "number"}
_MAYBE_NUMBER: dict[str, Any] = {"type": ["number", "null"]}
_INTEGER: dict[str, Any] = {"type": "integer"}
_STRING: dict[str, Any] = {"type": "string"}
_MAYBE_STRING: dict[str, Any] = {"type": ["string", "null"]}
_BOOLEAN: dict[str, Any] = {"type": "boolean"}


def _object(properties: dict[str, Any], description: str = "") -> dict[str, Any]:
    about = {"description": description} if description else {}
    return {"type": "object", "properties": properties, "required": list(properties), **about}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _maybe(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}], "description": description}


_LISTED = {
    **shapes.RECORD,
    "properties": {name: kind for name, kind in shapes.RECORD["properties"].items() if name not in _DETAIL},
    "required": [name for name in shapes.RECORD["required"] if name not in _DETAIL],
}
DECISIONS = _object(
    {
        "object": {"const": "list"},
        "data": _list(_LISTED),
        "has_more": _BOOLEAN,
        "next": {**_MAYBE_STRING, "description": "`before` of the following page."},
    }
)
ACCESS = _object(
    {
        "object": {"const": "admin.access"},
        "reads": {"enum": ["open", "key"], "description": "Whether reads need the operator's key."},
        "writes": {"enum": ["key", "closed"], "description": "closed: no operator's key is configured."},
        "granted": {**_BOOLEAN, "description": "Whether this request carries the operator's key."},
    }
)
INTERVAL = _object({"value": _MAYBE_NUMBER, "low": _MAYBE_NUMBER, "high": _MAYBE_NUMBER}, "95 % interval.")
_FIGURES = {
    "share": {**INTERVAL, "description": "Share of calls of the strong model."},
    "quality": {**INTERVAL, "description": "Mean quality of the answers."},
    "drop": {**INTERVAL, "description": "Relative quality drop against always-strong."},
    "cost_usd": {**INTERVAL, "description": "Mean cost of a query, US dollars."},
    "cost_share": {**INTERVAL, "description": "Cost by that of always-strong."},
}
POINT = _object({"threshold": _NUMBER, **_FIGURES})
_CHANGE = _object(
    {
        "changed_s": _NUMBER,
        "by": {**_STRING, "description": "The name of the key, or the command."},
        "action": {"enum": ["set", "undo", "use"]},
        "version": _STRING,
        "before": _NUMBER,
        "after": _NUMBER,
        "rule": {**_MAYBE_STRING, "description": "The rule of the config that the threshold replaces."},
    }
)
_STATE = {
    "id": _STRING,
    "version": _STRING,
    "default": {**_BOOLEAN, "description": "Whether the model `jethro` means this router."},
    "threshold": {**_NUMBER, "description": "In force."},
    "own_threshold": {**_MAYBE_NUMBER, "description": "In force while no other is chosen."},
    "rule": {**_MAYBE_STRING, "description": "How the config sets it; null: it is the router's own."},
    "refused": {**_MAYBE_STRING, "description": "Why the threshold cannot be changed here; null: it can."},
    "history": {**_list(_CHANGE), "description": "Changes, the latest first."},
    "history_damaged": {**_INTEGER, "description": "Lines of the history that cannot be read."},
}
ROUTERS = _object(
    {"object": {"const": "list"}, "data": _list(_object({"object": {"const": "router.threshold"}, **_STATE}))}
)
CHANGED = _object({"object": {"const": "router.threshold"}, **_STATE, "change": _CHANGE})
_DATA = {
    "queries": {**_INTEGER, "description": "Calibration queries; the router was fitted on none of them."},
    "level": _NUMBER,
    "method": _STRING,
    "models": {"type": "object", "description": "The weak and the strong model whose answers these are."},
    "applies": {**_BOOLEAN, "description": "Whether these are the models in service."},
    "costs": {"enum": ["prices", "recorded", "none"], "description": "Where costs are from."},
}
CURVE = _object(
    {
        "object": {"const": "router.curve"},
        **_STATE,
        "kind": _STRING,
        "warning": _MAYBE_STRING,
        "curve": _maybe(
            _object({**_DATA, "points": _list(POINT), "current": POINT, "weak": POINT, "strong": POINT}),
            "From the calibration data; null without any.",
        ),
    }
)
_FIGURE = _object({name: INTERVAL for name in ("served", "predicted", "change", "upcoming")})
REPLAYED = _object(
    {
        "kind": {"const": "router"},
        "router": _STRING,
        "version": _STRING,
        "threshold": _NUMBER,
        "threshold_in_force": _MAYBE_NUMBER,
        "decisions": {**_INTEGER, "description": "Logged decisions that were replayed."},
        "since_s": _MAYBE_NUMBER,
        "until_s": _MAYBE_NUMBER,
        "level": _NUMBER,
        "figures": {
            "type": "object",
            "additionalProperties": _FIGURE,
            "description": "share, cost_usd and quality, as far as known: as served, predicted, the change, and in the "
            "`next` queries.",
        },
        "unknown": {"type": "object", "additionalProperties": _STRING, "description": "Why a figure is unknown."},
        "next": _INTEGER,
        "moved": {"type": "object", "additionalProperties": _INTEGER},
        "ratings": {"type": "object", "description": "Of the answers served, that would stay and that would move."},
        "comparisons": {"type": "object", "additionalProperties": _INTEGER},
        "left_out": {"type": "object", "additionalProperties": _INTEGER},
        "assumptions": _list(_STRING),
        "note": _MAYBE_STRING,
    }
)
PREDICTION = _object(
    {
        "object": {"const": "router.prediction"},
        "router": _STRING,
        "version": _STRING,
        "threshold": _NUMBER,
        "current_threshold": _NUMBER,
        "calibration": _maybe(
            _object({**_DATA, "predicted": POINT, "current": POINT, "change": _object(_FIGURES)}),
            "Of traffic like the calibration data; null without any.",
        ),
        "log": _maybe(REPLAYED, "Of the latest decisions in this Gateway's log; null without any."),
        "log_unavailable": {**_MAYBE_STRING, "description": "Why `log` is null."},
    }
)
