"""What is compiled, once; what is refused, with a sentence; and that a bad form harms no other."""

import asyncio
import time

import pytest

from serve_app.engines.structured import Constraint
from serve_app.engines.transformers.guided import compiler as module
from serve_app.errors import Overloaded, RequestError
from tests.engines.transformers.guided.walks import compiler, json_of, walk

NEXT = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}


async def test_equal_forms_are_compiled_once():
    with compiler() as made:
        one, other = await asyncio.gather(*(made.form(json_of({"type": "integer"}), None) for _ in range(2)))
        assert await made.form(json_of({"type": "integer"}), None) in (one, other)
        assert await made.form(json_of({"type": "number"}), None) not in (one, other)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (NEXT, "end the recursion"),
        ({"$ref": "#"}, "was found"),
        ({"type": "string", "minLength": 600}, "context of 512 tokens"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "https://example.com/schema.json"}, "example.com"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "whole number"}, "Invalid type"),
    ],
)
async def test_what_cannot_be_kept_is_refused(schema, why):
    with compiler() as made:
        for _ in range(2):  # the refusal is kept as well
            with pytest.raises(RequestError, match=why) as caught:
                await made.form(json_of(schema), None)
            assert caught.value.param == "response_format"
            assert "\n" not in caught.value.message


@pytest.mark.parametrize("pattern", [".*" * 300, "(a|b)*" * 400])
async def test_a_pattern_that_explodes_is_refused(pattern):
    with compiler() as made:
        with pytest.raises(RequestError, match="regex"):
            await made.form(Constraint("regex", "(" + pattern, "structured_outputs"), None)
        with pytest.raises(RequestError) as caught:
            await made.form(Constraint("regex", pattern + "x{9}(.*y.*){40}", "structured_outputs"), None)
        assert caught.value.param == "structured_outputs"
        assert walk(await made.form(json_of({"type": "boolean"}), None), 20, 0)[1] == "stop"


async def test_a_grammar_that_cannot_be_read_is_refused():
    with compiler() as made:
        with pytest.raises(RequestError, match="Lark or GBNF"):
            await made.form(Constraint("grammar", "no grammar", "structured_outputs"), None)
        with pytest.raises(RequestError, match="structured_outputs"):
            await made.form(Constraint("grammar", "start: missing_rule", "structured_outputs"), None)


async def test_a_form_that_takes_too_long_is_refused_while_others_are_compiled(monkeypatch):
    with compiler() as made:
        compile_form = made._compile

        def slow(constraint, calls, param):
            if constraint.value == {"const": "slow"}:
                time.sleep(0.5)
            return compile_form(constraint, calls, param)

        monkeypatch.setattr(made, "_compile", slow)
        monkeypatch.setattr(module, "COMPILE_S", 0.2)
        waiting = asyncio.create_task(made.form(json_of({"const": "slow"}), None))
        await made.form(json_of({"type": "null"}), None)
        assert not waiting.done()
        with pytest.raises(RequestError, match=r"more than 0\.2 s"):
            await waiting


async def test_forms_queue_within_a_bound(monkeypatch):
    monkeypatch.setattr(module, "PENDING", 1)
    with compiler() as made:
        first = asyncio.create_task(made.form(json_of({"type": "null"}), None))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await made.form(json_of({"type": "boolean"}), None)
        await first
        await made.form(json_of({"type": "boolean"}), None)


async def test_a_form_that_waits_too_long_for_a_thread_may_be_sent_again(monkeypatch):
    with compiler() as made:
        monkeypatch.setattr(module, "QUEUE_S", 0.1)
        monkeypatch.setattr(made, "_compile", lambda *_: time.sleep(0.5))
        busy = [asyncio.create_task(made._compiled(json_of({"const": i}), None, "x")) for i in range(module.THREADS)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await made.form(json_of({"type": "null"}), None)
        await asyncio.gather(*busy)
        assert made._pending == 0


async def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "CACHED", 3)
    with compiler() as made:
        kept = [await made.form(json_of({"const": i}), None) for i in range(5)]
        assert await made.form(json_of({"const": 4}), None) is kept[4]
        assert await made.form(json_of({"const": 0}), None) is not kept[0]
