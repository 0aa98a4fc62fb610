"""What a query demands of its answer's form: read, narrowed, and refused where it is malformed or out of bounds."""

import pytest

from serve_app.engines import structured
from serve_app.engines.structured import Constraint, checked_schema, constraint_of, tools_of
from serve_app.errors import RequestError
from serve_app.types import Message, Query, Sampling

MESSAGES = (Message("user", "x"),)


def demand(**extension) -> Query:
    return Query(MESSAGES, extra={"structured_outputs": extension})


def formatted(schema) -> Query:
    return Query(MESSAGES, response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})


def refused(query: Query) -> RequestError:
    with pytest.raises(RequestError) as caught:
        constraint_of(query)
    assert caught.value.code == "invalid_value" and caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("query", "constraint"),
    [
        (Query(MESSAGES), None),
        (Query(MESSAGES, response_format={"type": "text"}), None),
        (Query(MESSAGES, response_format={"type": "json_object"}), ("json", {"type": "object"}, "response_format")),
        (formatted({"type": "integer"}), ("json", {"type": "integer"}, "response_format")),
        (demand(json={"type": "null"}), ("json", {"type": "null"}, "structured_outputs")),
        (demand(json='{"type": "null"}'), ("json", {"type": "null"}, "structured_outputs")),
        (demand(json_object=True, regex=None), ("json", {"type": "object"}, "structured_outputs")),
        (demand(regex="a+"), ("regex", "a+", "structured_outputs")),
        (demand(choice=["a", "b", "a"]), ("choice", ("a", "b"), "structured_outputs")),
        (demand(grammar='start: "a"'), ("grammar", 'start: "a"', "structured_outputs")),
    ],
)
def test_demands_become_one_constraint(query, constraint):
    assert constraint_of(query) == (None if constraint is None else Constraint(*constraint))


@pytest.mark.parametrize(
    ("query", "why"),
    [
        (demand(), "exactly one"),
        (demand(regex="a", choice=["b"]), "exactly one"),
        (demand(pattern="a"), "exactly one"),
        (demand(regex=3), "regex must be a string"),
        (demand(choice=[]), "non-empty"),
        (demand(choice=["a", ""]), "non-empty"),
        (demand(grammar="  "), "non-empty"),
        (demand(json="{"), "no valid JSON"),
        (demand(json=[1]), "must be a JSON object"),
        (Query(MESSAGES, extra={"structured_outputs": "a+"}), "must be an object"),
        (Query(MESSAGES, response_format={"type": "xml"}), "text, json_object or json_schema"),
        (Query(MESSAGES, response_format={"type": "json_schema"}), "text, json_object or json_schema"),
    ],
)
def test_malformed_demands_are_refused_by_name(query, why):
    error = refused(query)
    assert why in error.message
    assert error.param in ("structured_outputs", "response_format")


def test_two_demands_and_stop_strings_are_refused():
    both = Query(MESSAGES, response_format={"type": "json_object"}, extra={"structured_outputs": {"regex": "a"}})
    assert refused(both).param == "structured_outputs"
    stopped = Query(MESSAGES, Sampling(stop=("}",)), response_format={"type": "json_object"})
    assert refused(stopped).param == "stop"
    assert constraint_of(Query(MESSAGES, Sampling(stop=("}",)))) is None


def nested(levels: int):
    schema = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (nested(60), "nested more than"),
        (nested(5_000), "nested more than"),
        ({"default": nested(300)}, "nested more than"),
        ({"properties": {f"p{i}": {} for i in range(structured.PROPERTIES + 1)}}, "properties"),
        ({"enum": list(range(structured.ENUM_VALUES + 1))}, "enum values"),
        ({"type": "array", "maxItems": 10**9}, "items"),
        ({"items": {"maxItems": 6_000}, "maxItems": 6_000}, "items"),
        ({"type": "object", "minProperties": 10**6}, "items"),
        ({"type": "string", "maxLength": 10**10}, "maxLength"),
        ({"pattern": "a{1,100000}"}, "repeats"),
        ({"pattern": "a" * 9_000}, "regular expression"),
        ({"patternProperties": {"b{99999}": {}}}, "repeats"),
        ({"allOf": [{"anyOf": [{}] * 10}] * 5}, "combinations"),
        ({"description": "x" * structured.SCHEMA_BYTES}, "bytes"),
        ({"$ref": "#/$defs/d0", "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2_000)}}, "references"),
        (
            {
                "$ref": "#/$defs/d0",
                "$defs": {f"d{i}": {"items": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}]}} for i in range(200)},
            },
            "references",
        ),
        ({"minimum": 10**30}, "64 bits"),
        ({"properties": {"a": {"x-guidance": {"lenient": True}}}}, "reserved"),
    ],
)
def test_schemas_out_of_bounds_are_refused_before_any_compiler_sees_them(schema, why):
    error = refused(formatted(schema))
    assert why in error.message and error.param == "response_format"


def test_objects_that_list_properties_get_no_others():
    schema = {"properties": {"a": {"items": {"properties": {"b": {}}}}}, "$defs": {"c": {"properties": {}}}}
    closed = checked_schema(schema, "tools")
    assert closed["additionalProperties"] is False
    assert closed["properties"]["a"]["items"]["additionalProperties"] is False
    assert closed["$defs"]["c"]["additionalProperties"] is False
    assert "additionalProperties" not in schema, "the caller's schema stays as it is"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"type": "object"},
    ],
)
def test_objects_stay_open_where_closing_could_leave_nothing(schema):
    assert checked_schema(schema, "tools") == schema


def tool(name: str, parameters=None):
    return {"type": "function", "function": {"name": name, **({"parameters": parameters} if parameters else {})}}


def test_tools_by_choice():
    tools = (tool("a"), tool("b", {"properties": {"x": {"type": "integer"}}}))
    assert [t.name for t in tools_of(Query(MESSAGES, tools=tools))] == ["a", "b"]
    assert tools_of(Query(MESSAGES, tools=tools, tool_choice="none")) == ()
    [named] = tools_of(Query(MESSAGES, tools=tools, tool_choice={"type": "function", "function": {"name": "b"}}))
    assert named.parameters == {
        "type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False,
    }  # fmt: skip
    [bare, _] = tools_of(Query(MESSAGES, tools=tools))
    assert bare.parameters == {"type": "object", "properties": {}, "additionalProperties": False}


def test_invalid_tools_are_refused():
    with pytest.raises(RequestError, match="type object"):
        tools_of(Query(MESSAGES, tools=(tool("a", {"type": "array"}),)))
    with pytest.raises(RequestError, match="together"):
        tools_of(Query(MESSAGES, tools=(tool("a", {"description": "x" * structured.SCHEMA_BYTES}),)))
    with pytest.raises(RequestError, match="not among"):
        tools_of(Query(MESSAGES, tools=(tool("a"),), tool_choice={"type": "function", "function": {"name": "b"}}))
