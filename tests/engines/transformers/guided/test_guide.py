"""The way through a grammar: what validates, and that it ends within its tokens."""

import json
import re

import pytest

from serve_app.engines.structured import Constraint
from serve_app.engines.transformers.guided.guide import LONGEST_NUMBER, LONGEST_RUN, RunLength
from tests.engines.transformers.guided.walks import compiler, json_of, walk

PERSON = {
    "type": "object",
    "properties": {
        "firstName": {"type": "string"},
        "age": {"type": "number"},
        "kind": {"enum": ["Größe", "b"]},
        "scores": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
    },
    "required": ["firstName", "age", "kind", "scores"],
}


@pytest.mark.parametrize("extra", [0, 1, 5, 30, 200])
async def test_an_answer_ends_if_its_budget_holds_the_closing_plan(extra):
    with compiler() as made:
        form = await made.form(json_of(PERSON), None)
        for seed in range(20):
            text, finish = walk(form, len(form.plan) + extra, seed)
            assert finish == "stop"
            assert set(json.loads(text)) == set(PERSON["required"])


async def test_one_token_fewer_ends_with_length():
    with compiler() as made:
        form = await made.form(json_of(PERSON), None)
        assert {walk(form, len(form.plan) - 1, seed)[1] for seed in range(5)} == {"length"}


@pytest.mark.parametrize(
    ("kind", "value", "matches"),
    [
        ("regex", "[a-z]{3}-[0-9]+x", r"[a-z]{3}-[0-9]+x"),
        ("regex", "(ab)*c", r"(ab)*c"),
        ("choice", ("yes", "No way"), "yes|No way"),
        ("grammar", 'root ::= "a" | "b" root', "b*a"),
        ("grammar", 'start: "x" start | "y"', "x*y"),
    ],
)
async def test_other_forms_end_and_match(kind, value, matches):
    with compiler() as made:
        form = await made.form(Constraint(kind, value, "structured_outputs"), None)
        for budget in (len(form.plan), len(form.plan) + 3, 60):
            for seed in range(8):
                text, finish = walk(form, budget, seed)
                assert finish == "stop"
                assert re.fullmatch(matches, text)


async def test_a_schema_may_recur_and_still_ends():
    tree = {"$ref": "#/$defs/n", "$defs": {"n": {
        "type": "object",
        "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
        "required": ["v", "kids"],
    }}}  # fmt: skip
    with compiler() as made:
        form = await made.form(json_of(tree), None)
        for seed in range(20):
            text, finish = walk(form, 150, seed)
            assert finish == "stop"
            assert {"v", "kids"} == set(json.loads(text))


async def test_the_same_walk_gives_the_same_answer_from_guides_of_one_form():
    with compiler() as made:
        form = await made.form(json_of(PERSON), None)
        assert walk(form, 120, 3) == walk(form, 120, 3)


def test_a_number_runs_on_when_its_digits_are_more_than_a_float_tells_apart():
    runs = RunLength()
    runs.add(b'{"a":' + b"1" * LONGEST_NUMBER)
    assert runs.too_long(b"2")
    assert not runs.too_long(b"}")


@pytest.mark.parametrize(("text", "long"), [(b"1e3", False), (b"1e30", True), (b"1.5E-30", True), (b"[true", False)])
def test_an_exponent_has_two_digits(text, long):
    runs = RunLength()
    runs.add(text)
    assert runs.too_long(b"7") is long


def test_digits_in_a_string_run_on_only_when_they_are_all_the_same():
    runs = RunLength()
    runs.add(b'{"a":"' + b"12" * LONGEST_RUN)
    assert not runs.too_long(b"1")
    runs.add(b"7" * LONGEST_RUN)
    assert runs.too_long(b"7")
    assert not runs.too_long(b"8")
    runs.add(rb"\"" + b'"')
    assert not runs.too_long(b"1")
