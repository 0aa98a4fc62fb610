"""Tools in prompts, for templates that know them and others; and calls read out of a text that arrives in pieces."""

import json

import pytest

from serve_app.engines.transformers.engine import PromptEncoder
from serve_app.engines.transformers.guided.grammars import BARE, HERMES
from serve_app.engines.transformers.tools import CallReader, ToolPrompt
from serve_app.lab.model import build_tokenizer
from serve_app.types import Message, Query

CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
NATIVE = (
    "{% if tools %}{% for t in tools %}[{{ t.function.name }}]{% endfor %}as <tool_call>{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}:{{ c.function.arguments.a }}{% endfor %}{% endfor %}"
)
TOOLS = ({"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}},)
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 7}'}}
HISTORY = (
    Message("user", "sum"),
    Message("assistant", "", {"tool_calls": [CALL, CALL]}),
    Message("tool", "9", {"tool_call_id": "call_1"}),
    Message("tool", "8", {"tool_call_id": "call_1"}),
)


def rendered(template: str, query: Query, *, described: bool = True) -> str:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return PromptEncoder(tokenizer, 5_000, ToolPrompt(template, described=described))._text(query)


def test_a_template_that_knows_tools_renders_them_with_arguments_as_objects():
    text = rendered(NATIVE, Query(HISTORY, tools=TOOLS))
    assert text == "[add]as <tool_call><user>sum<assistant>add:7add:7<tool>9<tool>8"


def test_no_tools_are_shown_where_none_may_be_called():
    assert rendered(NATIVE, Query(HISTORY[:1], tools=TOOLS, tool_choice="none")) == "<user>sum"
    assert rendered(CHATML, Query(HISTORY[:1], tools=TOOLS, tool_choice="none")) == "<user>sum</>"


def test_other_templates_get_a_system_text_and_calls_as_text():
    text = rendered(CHATML, Query((Message("system", "be kind"), *HISTORY), tools=TOOLS))
    assert text.startswith("<system>be kind\n\nYou can call functions.")
    assert json.dumps(TOOLS[0]["function"]) in text
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 7}}\n</tool_call>'
    assert f"<assistant>{call}\n{call}</>" in text
    results = "<tool_response>\n9\n</tool_response>\n<tool_response>\n8\n</tool_response>"
    assert text.endswith(f"<user>{results}</>"), "consecutive results share a turn"
    assert rendered(CHATML, Query(HISTORY[:1], tools=TOOLS)).startswith("<system>You can call functions.")


def test_a_model_that_is_not_told_reads_results_in_their_role():
    text = rendered(CHATML, Query(HISTORY, tools=TOOLS), described=False)
    call = '{"name": "add", "arguments": {"a": 7}}'
    assert text == f"<user>sum</><assistant>{call}\n{call}</><tool>9</><tool>8</>"


@pytest.mark.parametrize(
    ("choice", "told", "untold"),
    [(None, True, False), ("auto", True, False), ("none", False, False), ("required", True, True)],
)
def test_when_calls_may_come(choice, told, untold):
    query = Query(HISTORY[:1], tools=TOOLS, tool_choice=choice)
    assert (ToolPrompt(CHATML, described=True).calls(query) is not None) is told
    assert (ToolPrompt(CHATML, described=False).calls(query) is not None) is untold


def read(reader: CallReader, text: str, size: int):
    """The text and the calls that a reader gives for a text in pieces of `size`."""
    said, calls = "", {}
    pieces = [text[i : i + size] for i in range(0, len(text), size)] or [""]
    for number, piece in enumerate(pieces):
        words, found = reader.feed(piece, last=number == len(pieces) - 1)
        said += words
        for part in found:
            call = calls.setdefault(part["index"], {"arguments": ""})
            if "id" in part:
                assert part["type"] == "function" and part["id"].startswith("call_")
                call["name"] = part["function"]["name"]
            call["arguments"] += part["function"]["arguments"]
    return said, [(call["name"], call["arguments"]) for _, call in sorted(calls.items())]


ARGUMENTS = '{"a": {"b": "}\\"</tool_call>{"}, "c": []}'
TEXT = f'Sure.\n<tool_call>\n{{"name": "add", "arguments": {ARGUMENTS}}}\n</tool_call>'
TWO = TEXT + '\n<tool_call>\n{"name": "say_\\"so\\"", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 500])
def test_calls_are_read_from_any_pieces(size):
    reader = CallReader(HERMES, only_calls=False, named=False)
    assert read(reader, TWO, size) == ("Sure.\n", [("add", ARGUMENTS), ('say_"so"', "{}")])
    assert reader.finishes_with_calls


@pytest.mark.parametrize("size", [1, 4, 500])
def test_text_without_calls_passes(size):
    reader = CallReader(HERMES, only_calls=False, named=False)
    assert read(reader, "1 < 2 and <tool", size) == ("1 < 2 and <tool", [])
    assert not reader.finishes_with_calls


@pytest.mark.parametrize("size", [1, 5, 500])
def test_a_bare_call_is_read(size):
    reader = CallReader(BARE, only_calls=True, named=True)
    assert read(reader, f'{{"name": "add", "arguments": {ARGUMENTS}}}', size) == ("", [("add", ARGUMENTS)])
    assert reader.called and not reader.finishes_with_calls, "OpenAI's finish reason of a named call is stop"


def test_an_unfinished_call_has_what_came():
    reader = CallReader(HERMES, only_calls=True, named=False)
    assert read(reader, '<tool_call>\n{"name": "add", "arguments": {"a": 1', 3) == ("", [("add", '{"a": 1')])
