"""Constraints and tools as llguidance's grammars (its Lark dialect, with JSON schemas inside).

Tool calls have the Hermes form, which the templates of many models know: `<tool_call>`, a JSON object with `name` and
`arguments`, `</tool_call>`, each on lines of its own. A model that does not read of tools writes the bare object.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from serve_app.engines.structured import Constraint, ToolSpec
from serve_app.errors import RequestError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

JSON_OPTIONS: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": r",\x20?",
    "key_separator": r":\x20?",
    "coerce_one_of": False,
    "lenient": False,
}
"""One blank at most after a comma or colon, or models write blanks without end; what cannot be kept is refused."""

READING_OPTIONS: "JsonCompileOptions" = {"whitespace_flexible": True, "coerce_one_of": False, "lenient": False}
"""For a text that another engine wrote, by a grammar with blanks of its own."""

MOST_CALLS = 16
"""Calls in one answer."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """The text around a call's JSON object. Without `start` a call cannot follow text, and there is one at most.

    `or_tight`: the lines of `before` and `end` may be missing as well.
    """

    start: str = "<tool_call>"
    before: str = "\n"
    end: str = "\n</tool_call>"
    between: str = "\n"
    or_tight: bool = False


HERMES = CallForm()
BARE = CallForm("", "", "", "")


@dataclass(frozen=True, slots=True)
class CallPlan:
    """Which calls an answer may hold. `required`: nothing else. `single`: one call at most. `named`: of the tool
    that the caller chose.
    """

    tools: tuple[ToolSpec, ...]
    form: CallForm
    required: bool
    single: bool
    named: bool = False


def grammar_of(constraint: Constraint, options: "JsonCompileOptions" = JSON_OPTIONS) -> str:
    """The grammar of a constraint. Raises RequestError if it cannot be read."""
    if constraint.kind == "json":
        return LLMatcher.grammar_from_json_schema(orjson.dumps(constraint.value).decode(), overrides=options)
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.value)
    if constraint.kind == "choice":
        return "start: " + " | ".join(_quoted(choice) for choice in constraint.value)
    try:
        return LLMatcher.grammar_from_lark(any_to_lark(constraint.value))
    except Exception as e:  # the converter raises its own kinds and Python's
        raise RequestError(
            f"{constraint.param}: the grammar cannot be read as Lark or GBNF: {str(e)[:200]}.",
            param=constraint.param,
            code="invalid_value",
        ) from e


def call_grammar(plan: CallPlan, answer: Constraint | None, options: "JsonCompileOptions" = JSON_OPTIONS) -> str:
    """The grammar of an answer that calls tools; where it need not, it may be text, or has the form `answer`."""
    form = plan.form
    rules = [f"tool_{i}: {_call_of(tool, options)}" for i, tool in enumerate(plan.tools)]
    rules.append("body: " + " | ".join(f"tool_{i}" for i in range(len(plan.tools))))
    more = 0 if plan.single or not form.start else MOST_CALLS - 1
    whole = _quoted(form.start + form.before) if form.start else ""
    tight = f" | {_quoted(form.start)} body {_quoted(form.end.strip())}" if form.or_tight else ""
    rules.append(f"call: {whole} body {_quoted(form.end) if form.end else ''}{tight}")
    between = _quoted(form.between) if form.between else ""
    calls = f"call ({between} call){{0,{more}}}" if more else "call"
    if plan.required:
        rules.append(f"start: {calls}")
    elif answer is not None:
        rules += [f"start: {calls} | answer", f"answer: {_inline(answer, options)}"]
    else:
        rules += [
            f"start: spoken{{0,{more + 1}}} rest",
            f"spoken: spoken_start {_quoted(form.before)} body {_quoted(form.end)}",
            f"spoken_start[lazy]: TEXT {_quoted(form.start)}",
            "rest: TEXT",
            r"TEXT: /(.|\n)*/",
        ]
    return "%llguidance {}\n" + "\n".join(rules) + "\n"


def _call_of(tool: ToolSpec, options: "JsonCompileOptions") -> str:
    opening = '{"name": ' + orjson.dumps(tool.name).decode() + ', "arguments": '
    return f"{_quoted(opening)} {_json_rule(tool.parameters, options)} {_quoted('}')}"


def _inline(constraint: Constraint, options: "JsonCompileOptions") -> str:
    if constraint.kind == "json":
        return _json_rule(constraint.value, options)
    if constraint.kind == "choice":
        return " | ".join(_quoted(choice) for choice in constraint.value)
    raise RequestError(
        f"{constraint.param}: {constraint.kind} cannot be combined with tools: use a JSON schema, or set tool_choice "
        "to none or required.",
        param=constraint.param,
        code="invalid_value",
    )


def _json_rule(schema: Mapping[str, Any], options: "JsonCompileOptions") -> str:
    return "%json " + orjson.dumps({**schema, "x-guidance": dict(options)}).decode()


def _quoted(text: str) -> str:
    """A Lark string. JSON's escapes are Lark's, but for the characters beyond ASCII, which stay as they are."""
    return re.sub(r"\\u00([0-9a-f]{2})", r"\\x\1", orjson.dumps(text).decode())
