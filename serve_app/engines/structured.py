"""What a query demands of its answer's form, checked and bounded before any engine compiles it.

`response_format` (OpenAI's) and `structured_outputs` (vLLM's extension: json, json_object, regex, choice, grammar)
become one Constraint, tools become ToolSpecs. Both engines read queries through this module, so that a demand that one
refuses gets the same sentence from the other. The bounds keep a caller's schema from exhausting the memory of the
compilers, which allocate what a schema counts up to.

A schema is narrowed, never widened: objects that list properties get no others unless the schema allows them by name,
as OpenAI's strict mode requires and small models need. What validates against the narrowed schema validates against
the original.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from serve_app.errors import RequestError
from serve_app.types import Query

Kind = Literal["json", "regex", "choice", "grammar"]

SCHEMA_BYTES = 1 << 17
"""Of a schema as JSON, or of all tools together."""
SCHEMA_DEPTH = 48
"""Levels of subschemas in a schema; levels of JSON may be twice as many."""
PROPERTIES = 500
"""Names under `properties` in a whole schema: every optional one that may come next costs time at every token."""
ENUM_VALUES = 5_000
ITEMS = 10_000
"""The sum of minItems, maxItems, minProperties and maxProperties of a schema."""
CHARACTERS = 1_000_000
"""The largest minLength or maxLength."""
PATTERN_CHARS = 8_192
PATTERN_REPEATS = 10_000
"""Characters of a regular expression, and the largest count in one."""
GRAMMAR_CHARS = 1 << 16
REFERENCED_LEVELS = 400
"""Levels of subschemas, those behind each reference added up: compilers follow references on their stack."""
COMBINATIONS = 2_000
"""Alternatives that `allOf` may multiply to."""

_COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties")
_LENGTHS = ("minLength", "maxLength")
_MERGES = ("allOf", "anyOf", "oneOf", "$ref", "patternProperties", "minProperties", "unevaluatedProperties")
_SUBSCHEMAS = ("additionalProperties", "items", "contains", "not", "propertyNames", "if", "then", "else")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_REPEAT = re.compile(r"\{(\d*),?(\d*)\}")


@dataclass(frozen=True, slots=True)
class Constraint:
    """The form of an answer. `value`: the schema, the expression, the choices, or the grammar; `param` named it."""

    kind: Kind
    value: Any
    param: str


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that may be called: its name and the schema of its arguments, an object's."""

    name: str
    parameters: Mapping[str, Any]


def constraint_of(query: Query) -> Constraint | None:
    """The form that the query demands of its answer's text; None: any.

    Raises RequestError that names the parameter if the demand is malformed, over the bounds, or made twice.
    """
    demands = [c for c in (_of_format(query.response_format), _of_extension(query.extra)) if c is not None]
    if len(demands) > 1:
        raise _refused("structured_outputs", "cannot be combined with response_format: send one of them")
    if demands and query.sampling.stop:
        raise _refused(
            "stop", "would cut the structured answer short: leave it out, the answer ends where its form ends"
        )
    return demands[0] if demands else None


def tools_of(query: Query) -> tuple[ToolSpec, ...]:
    """The tools that the query lets the model call, with checked and narrowed schemas; a named one alone.

    Raises RequestError if a schema is malformed or over the bounds.
    """
    if query.tool_choice == "none":
        return ()
    named = query.tool_choice.get("function", {}).get("name") if isinstance(query.tool_choice, Mapping) else None
    functions = [f for t in query.tools if named in (None, (f := t.get("function") or {}).get("name"))]
    if named is not None and not functions:
        raise _refused("tool_choice", f"{named} is not among the tools")
    if len(orjson.dumps(functions)) > SCHEMA_BYTES:
        raise _refused("tools", f"over {SCHEMA_BYTES} bytes together: send fewer or shorter ones")
    return tuple(ToolSpec(str(f.get("name")), _parameters(f)) for f in functions)


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    """No parameters mean: an empty object, as in OpenAI's API."""
    schema = dict(function.get("parameters") or {"properties": {}})
    if schema.setdefault("type", "object") != "object":
        raise _refused("tools", f"the parameters of {function.get('name')} must be a schema of type object")
    if not {"properties", *_MERGES} & schema.keys():
        schema["properties"] = {}
    return checked_schema(schema, "tools")


def _of_format(response_format: Mapping[str, Any] | None) -> Constraint | None:
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return Constraint("json", {"type": "object"}, "response_format")
    inner = response_format.get("json_schema")
    if kind != "json_schema" or not isinstance(inner, Mapping):
        raise _refused("response_format", "must be of type text, json_object or json_schema, the last with json_schema")
    schema = inner.get("schema", {})
    return Constraint("json", checked_schema(schema, "response_format"), "response_format")


def _of_extension(extra: Mapping[str, Any]) -> Constraint | None:
    extension = extra.get("structured_outputs")
    if extension is None:
        return None
    param = "structured_outputs"
    if not isinstance(extension, Mapping):
        raise _refused(param, "must be an object with one of json, json_object, regex, choice, grammar")
    found = {key: value for key, value in extension.items() if value is not None and value is not False}
    if len(found) != 1 or (key := next(iter(found))) not in _EXTENSIONS:
        raise _refused(param, "must have exactly one of json, json_object, regex, choice, grammar")
    return _EXTENSIONS[key](found[key], param)


def _json(value: Any, param: str) -> Constraint:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as e:
            raise _refused(param, f"json is no valid JSON: {e}") from e
    return Constraint("json", checked_schema(value, param), param)


def _json_object(value: Any, param: str) -> Constraint:
    if value is not True:
        raise _refused(param, "json_object must be true or false")
    return Constraint("json", {"type": "object"}, param)


def _regex(value: Any, param: str) -> Constraint:
    if not isinstance(value, str):
        raise _refused(param, "regex must be a string")
    _check_pattern(value, param)
    return Constraint("regex", value, param)


def _choice(value: Any, param: str) -> Constraint:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(v, str) and v for v in value):
        raise _refused(param, "choice must be a non-empty array of non-empty strings")
    if len(value) > ENUM_VALUES or sum(map(len, value)) > SCHEMA_BYTES:
        raise _refused(param, f"choice has more than {ENUM_VALUES} choices or {SCHEMA_BYTES} characters")
    return Constraint("choice", tuple(dict.fromkeys(value)), param)


def _grammar(value: Any, param: str) -> Constraint:
    if not isinstance(value, str) or not value.strip():
        raise _refused(param, "grammar must be a non-empty string")
    if len(value) > GRAMMAR_CHARS:
        raise _refused(param, f"grammar is over {GRAMMAR_CHARS} characters")
    _check_repeats(value, param)
    return Constraint("grammar", value, param)


_EXTENSIONS = {"json": _json, "json_object": _json_object, "regex": _regex, "choice": _choice, "grammar": _grammar}


def checked_schema(schema: Any, param: str) -> dict[str, Any]:
    """The narrowed schema. Raises RequestError that names what is over the bounds."""
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        raise _refused(param, "the schema must be a JSON object")
    try:
        size = len(orjson.dumps(schema))
    except (TypeError, orjson.JSONEncodeError) as e:
        why = f"the schema is nested more than {SCHEMA_DEPTH} levels deep, or no plain JSON with integers of 64 bits"
        raise _refused(param, why) from e
    if size > SCHEMA_BYTES:
        raise _refused(param, f"the schema has {size} bytes, more than the {SCHEMA_BYTES} allowed: shorten it")
    walk = _Walk(param)
    walk.schema(schema, 1)
    walk.check_references(schema)
    return dict(schema) if walk.merges else _closed(schema)


class _Walk:
    """Counts what a schema requires; raises RequestError over the bounds."""

    def __init__(self, param: str) -> None:
        self._param = param
        self._properties = self._enum = self._items = 0
        self._alternatives = 1
        self._references: set[str] = set()
        self.merges = False
        """Whether subschemas are intersected somewhere, where closing one could leave nothing."""

    def schema(self, node: Any, depth: int) -> None:
        self._check_depth(node, depth)
        if not isinstance(node, Mapping):
            return
        if "x-guidance" in node:
            raise _refused(self._param, "the schema has the key x-guidance, which is reserved")
        self._count(node)
        if isinstance(node.get("$ref"), str):
            self._references.add(node["$ref"])
        self.merges |= "allOf" in node or ("properties" in node and any(key in node for key in _MERGES))
        for child in _children(node):
            self.schema(child, depth + 1)

    def check_references(self, root: Mapping[str, Any]) -> None:
        """After the walk: no way through the references is longer than all that they lead to, laid end to end."""
        levels = _levels(root) + sum(_levels(_target(root, reference)) for reference in self._references)
        if levels > REFERENCED_LEVELS:
            raise _refused(self._param, f"the schema's references lead through more than {REFERENCED_LEVELS} levels")

    def _check_depth(self, node: Any, depth: int) -> None:
        if depth > SCHEMA_DEPTH or (depth == 1 and _deeper(node, 2 * SCHEMA_DEPTH)):
            raise _refused(self._param, f"the schema is nested more than {SCHEMA_DEPTH} levels deep: flatten it")

    def _count(self, node: Mapping[str, Any]) -> None:
        properties, values = node.get("properties"), node.get("enum")
        self._properties += len(properties) if isinstance(properties, Mapping) else 0
        self._enum += len(values) if isinstance(values, list) else 0
        self._items += sum(node[key] for key in _COUNTS if isinstance(node.get(key), int))
        if "allOf" in node and isinstance(node["allOf"], list):
            for part in node["allOf"]:
                branches = part.get("anyOf", part.get("oneOf")) if isinstance(part, Mapping) else None
                self._alternatives *= len(branches) if isinstance(branches, list) and branches else 1
        for count, most, what in (
            (self._properties, PROPERTIES, "properties"),
            (self._enum, ENUM_VALUES, "enum values"),
            (self._items, ITEMS, "items, counted by minItems and maxItems"),
            (self._alternatives, COMBINATIONS, "combinations of allOf with anyOf"),
        ):
            if count > most:
                raise _refused(self._param, f"the schema has more than {most} {what}: split it up or lower the bounds")
        for key in _LENGTHS:
            if isinstance(node.get(key), int) and node[key] > CHARACTERS:
                raise _refused(self._param, f"{key} is over {CHARACTERS}: lower it or leave it out")
        patterns = node.get("patternProperties")
        for pattern in (node.get("pattern"), *(patterns if isinstance(patterns, Mapping) else ())):
            if isinstance(pattern, str):
                _check_pattern(pattern, self._param)


def _children(node: Mapping[str, Any]) -> Iterator[Any]:
    """The subschemas of a schema."""
    for key in _SUBSCHEMAS:
        if isinstance(node.get(key), Mapping):
            yield node[key]
    for key in _LISTS:
        if isinstance(node.get(key), list):
            yield from node[key]
    for key in _MAPS:
        if isinstance(node.get(key), Mapping):
            yield from node[key].values()


def _levels(node: Any) -> int:
    """Height in subschemas, without those in $defs, which only references reach."""
    if not isinstance(node, Mapping):
        return 1
    reached = {key: value for key, value in node.items() if key not in ("$defs", "definitions")}
    return 1 + max((_levels(child) for child in _children(reached)), default=0)


def _target(root: Mapping[str, Any], reference: str) -> Any:
    """What a reference within the document points to; None for others, which compilers refuse."""
    at: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and name.isdecimal() and int(name) < len(at):
            at = at[int(name)]
        else:
            at = at.get(name) if isinstance(at, Mapping) else None
    return at


def _deeper(node: Any, levels: int) -> bool:
    """Whether containers are nested more than `levels` deep; without recursion, for any depth."""
    layer = [node]
    for _ in range(levels):
        layer = [
            child
            for parent in layer
            if isinstance(parent, Mapping | list)
            for child in (parent.values() if isinstance(parent, Mapping) else parent)
        ]
        if not layer:
            return False
    return True


def _check_pattern(pattern: str, param: str) -> None:
    if len(pattern) > PATTERN_CHARS:
        raise _refused(param, f"a regular expression is over {PATTERN_CHARS} characters")
    _check_repeats(pattern, param)


def _check_repeats(text: str, param: str) -> None:
    for found in _REPEAT.finditer(text):
        if any(len(bound) > 7 or int(bound) > PATTERN_REPEATS for bound in found.groups() if bound):
            raise _refused(param, f"{found.group()[:40]} repeats more than {PATTERN_REPEATS} times: lower the count")


def _closed(node: Any) -> Any:
    """The schema in which every object that lists properties has no others, unless it says so itself."""
    if not isinstance(node, Mapping):
        return node
    made: dict[str, Any] = {}
    for key, value in node.items():
        if key in _SUBSCHEMAS:
            made[key] = _closed(value)
        elif key in _LISTS and isinstance(value, list):
            made[key] = [_closed(child) for child in value]
        elif key in _MAPS and isinstance(value, Mapping):
            made[key] = {name: _closed(child) for name, child in value.items()}
        else:
            made[key] = value
    names, required = made.get("properties"), made.get("required")
    others = isinstance(required, list) and isinstance(names, Mapping) and any(name not in names for name in required)
    if isinstance(names, Mapping) and not others:
        made.setdefault("additionalProperties", False)
    return made


def _refused(param: str, why: str) -> RequestError:
    return RequestError(f"{param}: {why}.", param=param, code="invalid_value")
