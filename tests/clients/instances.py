"""The least values that a JSON schema allows, for the double's arguments and answers."""

from collections.abc import Mapping
from typing import Any


def instance(schema: Any, turn: int = 0, root: Any = None) -> Any:
    """A value that the schema allows: every property, the shortest lists. Numbers differ by turn where they may."""
    root = schema if root is None else root
    if not isinstance(schema, Mapping):
        return True
    if "$ref" in schema:
        return instance(_referred(schema["$ref"], root), turn, root)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            options = [option for option in schema[several] if option.get("type") != "null"]
            return instance(options[0], turn, root) if options else None
    if "allOf" in schema:
        merged = {key: value for part in schema["allOf"] for key, value in _resolved(part, root).items()}
        return instance(merged | {key: value for key, value in schema.items() if key != "allOf"}, turn, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][turn % len(schema["enum"])]
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = next(each for each in kind if each != "null")
    return _of_kind(kind, schema, turn, root)


def _of_kind(kind: str, schema: Mapping[str, Any], turn: int, root: Any) -> Any:
    if kind == "object":
        return {name: instance(each, turn, root) for name, each in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance(schema.get("items"), turn, root) for _ in range(max(1, schema.get("minItems", 1)))]
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        most = schema.get("maximum", schema.get("exclusiveMaximum", least + 100) - 1)
        return min(least + turn, most)
    if kind == "boolean":
        return True
    return None if kind == "null" else "paris".ljust(schema.get("minLength", 0), "s")[: schema.get("maxLength")]


def _resolved(schema: Mapping[str, Any], root: Any) -> Mapping[str, Any]:
    return _referred(schema["$ref"], root) if "$ref" in schema else schema


def _referred(reference: str, root: Any) -> Any:
    found = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found
