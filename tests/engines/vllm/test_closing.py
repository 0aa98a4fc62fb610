"""Answers that another engine writes are ended in time. Needs no vLLM: a random walk through the grammar writes."""

import json
from random import Random

import jsonschema
import numpy as np
import pytest

from benchmarks.guided import query
from serve_app.engines.structured import Constraint, constraint_of, tools_of
from serve_app.engines.transformers.guided.compiler import Compiler, Form
from serve_app.engines.transformers.guided.grammars import READING_OPTIONS, CallForm, CallPlan
from serve_app.engines.transformers.guided.vocabulary import ByteVocabulary
from serve_app.engines.vllm.closing import Closing

LIMIT = 300


@pytest.fixture
def compiler():
    made = Compiler(ByteVocabulary(), 16 * LIMIT, READING_OPTIONS)
    yield made
    made.close()


def letter(form: Form, matcher, rng: Random) -> int | None:
    """A random ASCII byte that may come; None where none may."""
    mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")[:127]).tolist()
    return rng.choice(allowed) if allowed else None


def written(form: Form, limit: int, rng: Random) -> tuple[str, str, int]:
    """What leaves of a random answer of one-byte tokens, why it ended, and the tokens it took."""
    closing, matcher, said = Closing(form, limit, len), form.matcher.deep_copy(), ""
    for used in range(1, limit + 1):
        byte = letter(form, matcher, rng)
        if byte is None and matcher.is_accepting():
            assert closing.take("", 1, "stop") is None
            return said, "stop", used
        if byte is None:  # it has no umlauts
            end = closing.take("", 1, "error")
            assert end is not None
            return said + end, "closed", closing.used
        matcher.consume_token(byte)
        end = closing.take(chr(byte), 1, "length" if used == limit else None)
        if end is not None:
            assert closing.used <= limit
            return said + end, "closed", closing.used
        said += chr(byte)
    return said, "length", limit


@pytest.mark.parametrize("number", range(0, 120, 2))
async def test_random_answers_end_whole_within_their_limit(compiler, number):
    sent, schema = query(number, LIMIT)
    form = await compiler.form(constraint_of(sent), None)
    for seed in range(3):
        text, why, _ = written(form, LIMIT, Random(seed))
        assert why != "length", text
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize("number", range(1, 60, 2))
async def test_calls_end_whole_as_well(compiler, number):
    sent, schema = query(number, 2 * LIMIT)
    plan = CallPlan(tools_of(sent), CallForm(between="", or_tight=True), required=True, single=False)
    text, why, _ = written(await compiler.form(None, plan), 2 * LIMIT, Random(number))
    assert why != "length", text
    for call in text.removeprefix("<tool_call>").removesuffix("</tool_call>").split("</tool_call><tool_call>"):
        jsonschema.Draft202012Validator(schema).validate(json.loads(call)["arguments"])


async def test_an_answer_without_a_next_token_is_ended_by_the_way_out(compiler):
    form = await compiler.form(Constraint("json", {"enum": ["GREEN"]}, "response_format"), None)
    closing = Closing(form, 100, len)
    assert closing.take('"', 1, None) is None
    assert closing.take("", 1, "error") == 'GREEN"' and closing.used == 8


async def test_what_the_grammar_does_not_read_passes(compiler):
    form = await compiler.form(Constraint("json", {"type": "integer"}, "response_format"), None)
    closing = Closing(form, 10, len)
    assert [closing.take(text, 1, None) for text in ("no", "t", " a number")] == [None] * 3
    assert closing.take("", 1, "length") is None and closing.used == 4


async def test_an_answer_too_short_for_its_form_passes(compiler):
    schema = {"type": "object", "properties": {"name": {"const": "x" * 40}}, "required": ["name"]}
    form = await compiler.form(Constraint("json", schema, "response_format"), None)
    closing = Closing(form, 20, len)
    assert all(closing.take(letter, 1, None) is None for letter in '{"name": "xxxxxxxxx')
    assert closing.take("x", 1, "length") is None


async def test_far_from_the_limit_a_text_is_only_kept(compiler):
    form = await compiler.form(Constraint("json", {"type": "string"}, "response_format"), None)
    closing = Closing(form, 10_000, len)
    assert closing.take('"', 1, None) is None
    for _ in range(20):
        assert closing.take("a", 1, None) is None
    assert closing._unread == ['"', *"a" * 20]
