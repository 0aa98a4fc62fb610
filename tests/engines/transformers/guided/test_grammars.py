"""Calls as grammars: what may be written, seen through random answers."""

import json
import re

import pytest

from serve_app.engines.structured import ToolSpec, checked_schema
from serve_app.engines.transformers.guided.grammars import BARE, HERMES, CallPlan
from serve_app.errors import RequestError
from tests.engines.transformers.guided.walks import compiler, json_of, walk

ADD = ToolSpec("add", checked_schema({
    "type": "object", "properties": {"a": {"type": "integer"}, "B": {"type": "integer"}}, "required": ["a", "B"],
}, "tools"))  # fmt: skip
LOOK = ToolSpec('say_"so"', checked_schema({"type": "object", "properties": {}}, "tools"))
CALL = r"<tool_call>\n(\{.*?\})\n</tool_call>"


async def texts(made, plan, answer=None, budget=250):
    form = await made.form(answer, plan)
    return [walk(form, budget, seed) for seed in range(12)]


async def test_required_calls_are_nothing_but_calls():
    with compiler() as made:
        for text, finish in await texts(made, CallPlan((ADD, LOOK), HERMES, required=True, single=False)):
            assert finish == "stop"
            calls = [json.loads(found) for found in re.findall(CALL, text)]
            assert re.sub(CALL, "", text).strip() == ""
            assert calls and all(set(call) == {"name", "arguments"} for call in calls)
            assert all(set(c["arguments"]) == ({"a", "B"} if c["name"] == "add" else set()) for c in calls)


@pytest.mark.parametrize("form", [HERMES, BARE])
async def test_a_single_call_is_one(form):
    with compiler() as made:
        for text, finish in await texts(made, CallPlan((ADD,), form, required=True, single=True)):
            assert finish == "stop"
            assert text.count('"name": "add"') == 1
            assert text.startswith(form.start) and text.endswith(form.end)


async def test_text_is_free_where_no_call_is_required():
    with compiler() as made:
        plan = CallPlan((ADD,), HERMES, required=False, single=False)
        form = await made.form(None, plan)
        assert form.plan == ()
        said = {walk(form, 80, seed)[0] for seed in range(12)}
        assert len(said) > 6 and not any("<tool_call>" in text for text in said)
        guide = form.guide()
        ids = made._vocabulary.grammar_tokenizer.tokenize_str("so: <tool_call>\n")
        for token in ids:
            guide.choose(token, 400)
            assert guide.error is None
        assert not guide.valid, "a call that has begun must be finished"


async def test_an_answer_with_a_form_or_a_call():
    with compiler() as made:
        plan = CallPlan((LOOK,), HERMES, required=False, single=True)
        for text, finish in await texts(made, plan, json_of({"type": "integer"})):
            assert finish == "stop"
            assert re.fullmatch(CALL, text) or isinstance(json.loads(text), int)


async def test_a_pattern_next_to_calls_is_refused():
    from serve_app.engines.structured import Constraint

    with compiler() as made, pytest.raises(RequestError, match="cannot be combined with tools"):
        await made.form(
            Constraint("regex", "a+", "structured_outputs"), CallPlan((ADD,), HERMES, required=False, single=True)
        )
