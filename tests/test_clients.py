"""What `make clients` runs: every file of tests is a client, the page names them all, the double keeps its word."""

import re
from typing import Any

import jsonschema
import pytest

from tests.clients.catalog import CLIENTS, HERE
from tests.clients.double import TURNS, Refused, answered, checked, deltas
from tests.clients.instances import instance
from tests.clients.page import Outcome, Result, page

PAGE = HERE.parents[1] / "docs" / "clients.md"
TOOL = {"function": {"name": "look", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}}


def test_every_file_of_tests_is_a_client():
    files = {(p.parent.name, p.name) for kind in ("py", "mjs") for p in HERE.glob(f"*/test_*.{kind}")}
    assert {(client.folder, client.file) for client in CLIENTS} == files


def test_the_page_names_every_client_and_its_version():
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)[2:]
    assert rows == [(client.name, client.versions) for client in CLIENTS], "run make clients"


def test_every_version_is_exact_and_no_list_names_a_registry():
    lists = [*HERE.glob("*/requirements.txt"), *HERE.glob("*/package*.json")]
    assert len(lists) > 6
    for path in lists:
        text = path.read_text("utf-8")
        assert "://" not in re.sub(r'"url": "[^"]+"', "", text), path  # where a package asks for donations
        if path.suffix == ".txt":
            assert all(re.fullmatch(r"#.*|[\w.-]+==\S+", line) for line in text.splitlines()), path


def test_a_call_without_tests_is_empty_and_a_failure_is_seen():
    client = CLIENTS[0]
    result = Result(client, [Outcome("chat[a]", "passed"), Outcome("chat_async", "failed"), Outcome("tools", "passed")])
    assert result.failed and result.cell("chat") == "1 failed" and result.cell("models") == ""
    assert Result(client, []).failed and not Result(client, [], "no Node.js here").failed
    assert "| 1 failed | 1 passed |" in page([result])


def loop(body: dict[str, Any]) -> list[dict[str, Any]]:
    """A conversation with the double until it answers."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "look"}]
    while calls := (message := answered({"messages": messages} | body)).get("tool_calls"):
        messages.append({"role": "assistant", "content": message["content"], "tool_calls": calls})
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": call["id"]} for call in calls]
    return [*messages, message]


def test_the_double_calls_five_times_then_answers():
    messages = loop({"tools": [TOOL]})
    assert len(messages) == 2 + 2 * TURNS
    assert messages[-1]["content"] == f"After {TURNS} turns: {messages[-2]['content']}"
    assert "".join(d.get("content") or "" for d in deltas(messages[-1])) == messages[-1]["content"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "content": "a", "reasoning_content": "b"}, "messages[1].reasoning_content"),
        ({"role": "assistant", "content": "a", "tool_calls": []}, "messages[1].tool_calls"),
        ({"role": "tool", "tool_call_id": "1", "content": "a"}, "messages[1]"),
    ],
)
def test_the_double_refuses_what_openai_refuses(message, param):
    with pytest.raises(Refused) as refused:
        checked({"messages": [{"role": "user", "content": "a"}, message]})
    assert refused.value.param == param


@pytest.mark.parametrize("turn", [0, 3])
def test_an_instance_is_valid(turn):
    schema = {
        "$defs": {"inner": {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}},
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 3, "maximum": 4},
            "s": {"type": "string", "minLength": 9, "maxLength": 9},
            "many": {"type": "array", "items": {"$ref": "#/$defs/inner"}, "minItems": 2},
            "either": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
            "all": {"allOf": [{"$ref": "#/$defs/inner"}]},
        },
        "required": ["n", "s", "many", "either", "all"],
    }
    jsonschema.validate(instance(schema, turn), schema)
