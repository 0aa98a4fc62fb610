"""Structured answers of the whole engine: in a batch with free ones, streamed, with log-probabilities, and failing."""

import asyncio
import json
from dataclasses import replace

import jsonschema
import pytest

from serve_app.engines.transformers import HFEngine
from serve_app.errors import RequestError, UnsupportedParameter
from serve_app.types import Chunk, Message, Query, Sampling
from serve_app.wire.answers import ChoiceText
from tests.models import save_random_model, settings_for

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "Kind": {"enum": ["A", "b"]},
        "n": {"type": "array", "items": {"type": "number"}, "maxItems": 3},
    },
    "required": ["name", "Kind", "n"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOLS = (
    {"type": "function", "function": {"name": "lookUp", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop"}},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def engine(folder):
    engine = HFEngine("m", settings_for(folder, tool_prompt="none"))
    await engine.start()
    yield engine
    await engine.aclose()


def query(seed=0, max_tokens=120, n=1, logprobs=False, temperature=1.0, **demands) -> Query:
    sampling = Sampling(
        max_tokens=max_tokens, temperature=temperature, seed=seed, n=n, logprobs=logprobs, top_logprobs=2 * logprobs
    )
    return Query((Message("user", "hello"),), sampling, **demands)


async def chunks(engine, asked) -> list[Chunk]:
    return [chunk async for chunk in engine.stream(asked)]


def choices(found: list[Chunk]) -> dict[int, ChoiceText]:
    said: dict[int, ChoiceText] = {}
    for chunk in found:
        said.setdefault(chunk.index, ChoiceText()).add(chunk)
    return said


async def text(engine, asked) -> str:
    return choices(await chunks(engine, asked))[0].text


async def test_it_says_that_it_can(engine):
    assert engine.capabilities.guided and engine.capabilities.tools


async def test_answers_validate_among_free_ones_that_stay_as_they_are(engine):
    free = [query(i, max_tokens=40) for i in range(6)]
    alone = [await text(engine, q) for q in free]
    guided = [query(i, response_format=FORMAT) for i in range(6)]
    together = await asyncio.gather(*(chunks(engine, q) for q in [*free, *guided]))
    assert [choices(found)[0].text for found in together[:6]] == alone
    for found in together[6:]:
        said = choices(found)[0]
        assert said.finish_reason == "stop"
        jsonschema.validate(json.loads(said.text), SCHEMA)
    assert [choices(found)[0].text for found in together[6:]] == [await text(engine, q) for q in guided]


async def test_choices_of_one_request_go_their_own_ways(engine):
    said = choices(await chunks(engine, query(n=4, response_format=FORMAT)))
    assert len({one.text for one in said.values()}) == 4
    for one in said.values():
        jsonschema.validate(json.loads(one.text), SCHEMA)


@pytest.mark.parametrize("penalty", [0.0, 1.5])
async def test_log_probabilities_are_the_model_s_own(engine, penalty):
    asked = query(logprobs=True, extra={"structured_outputs": {"regex": "[a-c]{8}"}})
    asked = replace(asked, sampling=replace(asked.sampling, frequency_penalty=penalty))
    said = choices(await chunks(engine, asked))[0]
    assert "".join(t.token for t in said.logprobs) == said.text and len(said.text) == 8
    assert all(t.logprob < 0 and len(t.top) == 2 for t in said.logprobs)
    assert any(t.token not in [token for token, _ in t.top] for t in said.logprobs), "the grammar overruled the model"


async def test_too_few_tokens_end_with_length(engine):
    said = choices(await chunks(engine, query(max_tokens=10, response_format=FORMAT)))[0]
    assert said.finish_reason == "length"


async def test_without_max_tokens_the_context_is_the_budget(engine):
    said = choices(await chunks(engine, query(max_tokens=None, response_format={"type": "json_object"})))[0]
    assert said.finish_reason == "stop"
    assert isinstance(json.loads(said.text), dict)


async def test_completions_are_guided_as_well(engine):
    asked = query(endpoint="completions", extra={"structured_outputs": {"choice": ["Yes", "no"]}})
    assert await text(engine, asked) in ("Yes", "no")


@pytest.mark.parametrize("parallel", [True, False])
async def test_required_calls_follow_their_tools(engine, parallel):
    extra = {} if parallel else {"parallel_tool_calls": False}
    for seed in range(6):
        found = await chunks(engine, query(seed, tools=TOOLS, tool_choice="required", extra=extra))
        said = choices(found)[0]
        assert said.finish_reason == "tool_calls" and said.text == ""
        for call in said.calls.values():
            wanted = SCHEMA if call["name"] == "lookUp" else {"type": "object", "maxProperties": 0}
            jsonschema.validate(json.loads(call["arguments"]), wanted)
        deltas = [piece for chunk in found for piece in chunk.tool_calls]
        assert deltas[0]["function"] == {"name": said.calls[0]["name"], "arguments": ""}
        assert deltas[0]["id"].startswith("call_") and deltas[0]["type"] == "function"
        assert all(set(d) == {"index", "function"} for d in deltas if "id" not in d)


async def test_a_named_tool_is_called_and_ends_with_stop(engine):
    choice = {"type": "function", "function": {"name": "stop"}}
    said = choices(await chunks(engine, query(tools=TOOLS, tool_choice=choice)))[0]
    assert said.calls == {0: {"name": "stop", "arguments": "{}"}}
    assert said.finish_reason == "stop"


async def test_a_model_that_is_not_told_of_tools_answers_in_text(engine):
    plain = await text(engine, query(max_tokens=20))
    assert await text(engine, query(max_tokens=20, tools=TOOLS)) == plain
    assert await text(engine, query(max_tokens=20, tools=TOOLS, tool_choice="none")) == plain


async def test_a_model_that_is_told_may_call_or_talk(folder):
    engine = HFEngine("m", settings_for(folder))
    await engine.start()
    try:
        # the description is longer than the context of a model this small
        with pytest.raises(RequestError, match="context"):
            await chunks(engine, query(tools=TOOLS))
    finally:
        await engine.aclose()


@pytest.mark.parametrize(
    "demands",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}},
        {"extra": {"structured_outputs": {"regex": "("}}},
        {"extra": {"structured_outputs": {"regex": ".*" * 300}}},
        {
            "tools": ({"type": "function", "function": {"name": "f", "parameters": {"not": {}}}},),
            "tool_choice": "required",
        },
    ],
)
async def test_a_bad_demand_harms_no_other_request(engine, demands):
    others = [asyncio.create_task(text(engine, query(i, response_format=FORMAT))) for i in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(RequestError) as caught:
        await chunks(engine, query(**demands))
    assert caught.value.status == 400 and caught.value.param in ("response_format", "structured_outputs", "tools")
    for answer in await asyncio.gather(*others):
        jsonschema.validate(json.loads(answer), SCHEMA)
    assert engine.health().ok


async def test_a_grammar_that_fails_on_the_way_ends_its_own_request(engine, monkeypatch):
    from serve_app.engines.transformers.guided.guide import Guide

    asked = query(response_format=FORMAT)
    form, _ = await engine._form(asked)
    made = Guide.choose

    def lost(self, token, left):
        return made(self, token, left) if left > 100 else made(self, _forbidden(self), 0)

    def _forbidden(self):
        self._matcher.consume_token(0)  # which no grammar allows
        return 0

    other = asyncio.create_task(text(engine, query(max_tokens=60)))
    monkeypatch.setattr(Guide, "choose", lost)
    with pytest.raises(RequestError, match="too complex"):
        await chunks(engine, asked)
    assert len(await other) > 0 and engine.health().ok
    assert form.plan


async def test_a_tokenizer_that_cannot_be_matched_leaves_the_engine_without(folder, monkeypatch, caplog):
    from serve_app.engines.transformers import engine as module
    from serve_app.errors import ConfigError

    def refuses(*_):
        raise ConfigError("no bytes")

    monkeypatch.setattr(module, "Vocabulary", refuses)
    engine = HFEngine("m", settings_for(folder))
    await engine.start()
    try:
        assert not engine.capabilities.guided and not engine.capabilities.tools
        assert "no bytes" in caplog.text
        for demands in (
            {"response_format": FORMAT},
            {"extra": {"structured_outputs": {"regex": "a"}}},
            {"tools": TOOLS},
        ):
            with pytest.raises(UnsupportedParameter):
                await chunks(engine, query(**demands))
        assert await text(engine, query())
    finally:
        await engine.aclose()
