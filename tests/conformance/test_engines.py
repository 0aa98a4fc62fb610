"""The contract of `serve_app.engines.base.Engine`, held against every engine in `tests/conformance/engines.py`."""

import asyncio
import json
import math
import re

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from serve_app.engines.base import Engine
from serve_app.errors import ContextLengthExceeded, RequestError, UnsupportedParameter
from serve_app.types import Chunk, Message, Query, Sampling
from tests.conformance.engines import ENGINES, params

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = "reverse extraordinary"
PATIENCE_S = 30.0
"""Bound on waits for something that must happen; not an expectation of speed."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=params())
async def engine(request, tmp_path_factory):
    maker = ENGINES[request.param]
    if reason := maker.skip():
        pytest.skip(reason)
    engine = maker.make(tmp_path_factory.mktemp("engine"))
    await engine.start()
    yield engine
    await engine.aclose()
    await engine.aclose()


def query(prompt: str = PROMPT, **sampling) -> Query:
    return Query((Message("user", prompt),), Sampling(**{"max_tokens": 12, "temperature": 0.0, **sampling}))


async def ask(engine: Engine, sent: Query) -> list[Chunk]:
    return [chunk async for chunk in engine.stream(sent)]


def texts(chunks: list[Chunk]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in chunks:
        found[chunk.index] = found.get(chunk.index, "") + chunk.text
    return found


def finishes(chunks: list[Chunk]) -> dict[int, str]:
    return {c.index: c.finish_reason for c in chunks if c.finish_reason is not None}


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def long_text(engine: Engine) -> str:
    """A greedy answer of some length, to cut stop strings from."""
    chunks = await ask(engine, query(max_tokens=40))
    return texts(chunks)[0]


async def test_it_is_well_once_started(engine):
    health = engine.health()
    assert health.ok, health.detail
    assert engine.model


@pytest.mark.parametrize("n", [1, 3])
async def test_each_choice_finishes_once_and_says_nothing_after(engine, n):
    chunks = await ask(engine, query(n=n, temperature=1.0, seed=5))
    for index in range(n):
        own = [c for c in chunks if c.index == index]
        assert [c.finish_reason is not None for c in own] == [False] * (len(own) - 1) + [True]
    assert {c.index for c in chunks} == set(range(n))


@pytest.mark.parametrize("n", [1, 3])
async def test_usage_comes_once_on_the_last_chunk_for_all_choices(engine, n):
    chunks = await ask(engine, query(n=n))
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    usage = chunks[-1].usage
    assert usage.prompt_tokens > 0
    assert n <= usage.completion_tokens <= n * 12
    alone = (await ask(engine, query()))[-1].usage
    assert usage.prompt_tokens == alone.prompt_tokens, "the prompt counts once, however many choices"


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
async def test_max_tokens_ends_with_length(engine, max_tokens):
    if len(await long_text(engine)) <= 5:
        pytest.skip("the model ends by itself before the bound")
    chunks = await ask(engine, query(max_tokens=max_tokens))
    assert finishes(chunks) == {0: "length"}
    assert chunks[-1].usage.completion_tokens == max_tokens


async def test_greedy_is_the_same_every_time(engine):
    first, second = await ask(engine, query()), await ask(engine, query())
    assert texts(first) == texts(second)


async def test_greedy_does_not_depend_on_seed_or_top_p(engine):
    plain = await ask(engine, query())
    assert texts(plain) == texts(await ask(engine, query(seed=3, top_p=0.4)))


async def test_concurrent_requests_answer_as_if_alone(engine):
    sent = [query(f"what is {i} + {i * i}?" + " please" * (i % 5), max_tokens=4 + i % 9) for i in range(20)]
    alone = [texts(await ask(engine, q)) for q in sent]
    together = await asyncio.gather(*(ask(engine, q) for q in sent))
    assert [texts(chunks) for chunks in together] == alone


@pytest.mark.parametrize("top_p", [1.0, 0.8])
async def test_a_seed_gives_the_same_text_alone_and_among_others(engine, top_p):
    sent = query(temperature=0.9, top_p=top_p, seed=11, n=2, max_tokens=20)
    alone = texts(await ask(engine, sent))
    others = [query(f"count to {i}", temperature=1.0) for i in range(6)]
    among, *_ = await asyncio.gather(ask(engine, sent), *(ask(engine, q) for q in others))
    assert texts(among) == alone


async def test_a_stop_string_ends_the_text_before_it(engine):
    text = await long_text(engine)
    if len(text) < 4:
        pytest.skip("the model says too little to cut")
    stop = text[2:4]
    chunks = await ask(engine, query(max_tokens=40, stop=("never said", stop)))
    assert texts(chunks)[0] == text[: text.index(stop)]
    assert finishes(chunks) == {0: "stop"}
    assert [chunk.stop_reason for chunk in chunks if chunk.finish_reason] == [stop]


async def test_the_tokens_of_a_prompt_are_those_that_an_answer_counts(engine):
    asked = query(max_tokens=3)
    chunks = await ask(engine, asked)
    assert await engine.count_tokens(asked) == chunks[-1].usage.prompt_tokens


async def test_the_beginning_of_a_stop_string_is_not_lost(engine):
    text = await long_text(engine)
    stop = text[-3:] + "then something else"
    chunks = await ask(engine, query(max_tokens=40, stop=(stop,)))
    assert texts(chunks)[0] == text


async def test_logprobs_are_probabilities_with_the_best_first(engine):
    if not engine.capabilities.logprobs:
        with pytest.raises(UnsupportedParameter):
            await ask(engine, query(logprobs=True, top_logprobs=3))
        return
    chunks = await ask(engine, query(logprobs=True, top_logprobs=3))
    found = [t for c in chunks for t in c.logprobs]
    assert "".join(t.token for t in found) == texts(chunks)[0]
    for token in found:
        assert token.logprob <= 0
        assert len(token.top) <= 3
        values = [value for _, value in token.top]
        assert values == sorted(values, reverse=True)
        assert sum(math.exp(value) for value in values) <= 1 + 1e-4
        assert math.isclose(values[0], token.logprob, abs_tol=1e-4), "greedy takes the most likely token"


async def test_logprobs_come_only_on_request(engine):
    assert not any(c.logprobs for c in await ask(engine, query()))


async def test_closing_the_iterator_frees_the_slot(engine):
    stream = engine.stream(query(max_tokens=400, n=2, temperature=1.0))
    await anext(stream)
    assert engine.health().running == 1
    await stream.aclose()
    await until(lambda: engine.health().running == 0)
    assert texts(await ask(engine, query())), "and it answers on"


async def test_cancelling_the_task_frees_the_slot(engine):
    tasks = [asyncio.create_task(ask(engine, query(max_tokens=400, temperature=1.0))) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: engine.health().running == 0 and engine.health().waiting == 0)


async def test_a_prompt_over_the_context_is_refused_by_number(engine):
    limit = engine.capabilities.max_context_tokens
    assert limit is not None
    with pytest.raises(ContextLengthExceeded, match=str(limit)):
        await ask(engine, query("a " * limit))
    assert texts(await ask(engine, query())), "and it answers on"


async def test_more_tokens_than_the_context_leaves_are_refused(engine):
    with pytest.raises(ContextLengthExceeded):
        await ask(engine, query(max_tokens=engine.capabilities.max_context_tokens))


@pytest.mark.parametrize(
    ("capability", "param", "change"),
    [
        ("guided", "response_format", {"response_format": {"type": "json_object"}}),
        ("tools", "tools", {"tools": ({"type": "function", "function": {"name": "add", "parameters": {}}},)}),
        ("adapters", "adapter", {"adapter": "no-such-adapter"}),
    ],
)
async def test_what_the_engine_lacks_is_refused_by_name(engine, capability, param, change):
    if getattr(engine.capabilities, capability):
        pytest.skip(f"the engine has {capability}")
    with pytest.raises(UnsupportedParameter) as caught:
        await ask(engine, Query(query().messages, query().sampling, **change))
    assert caught.value.param == param


@pytest.mark.parametrize("content", ["", " ", "日本語 ✓ \u0000 ñ", "🙂" * 20])
async def test_strange_prompts_get_an_answer(engine, content):
    chunks = await ask(engine, query(content))
    assert list(finishes(chunks)) == [0]


@pytest.mark.parametrize("prompt", ["once upon", ""])
async def test_completions_take_a_raw_prompt(engine, prompt):
    raw = Query((Message("user", prompt),), query().sampling, endpoint="completions")
    try:
        chunks = await ask(engine, raw)
    except RequestError as error:
        assert prompt == "" and error.param == "prompt", "only an empty prompt may be refused, by name"
        return
    assert list(finishes(chunks)) == [0]


async def test_a_whole_conversation_is_taken(engine):
    roles = ("system", "developer", "user", "assistant", "user")
    turns = tuple(Message(role, f"turn {i}") for i, role in enumerate(roles))
    assert list(finishes(await ask(engine, Query(turns, query().sampling)))) == [0]


async def test_metrics_are_prometheus_text(engine):
    list(text_string_to_metric_families(engine.metrics()))


def formatted(schema) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}


FORMS = {
    "json_schema": (
        formatted({"enum": ["A", "b", 3]}),
        lambda text: json.loads(text) in ("A", "b", 3),
    ),
    "json": (
        {"extra": {"structured_outputs": {"json": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}}}},
        lambda text: isinstance(json.loads(text), list),
    ),
    "regex": (
        {"extra": {"structured_outputs": {"regex": "[a-c]{3}-[0-9]"}}},
        lambda text: re.fullmatch("[a-c]{3}-[0-9]", text),
    ),
    "choice": ({"extra": {"structured_outputs": {"choice": ["one", "two"]}}}, lambda text: text in ("one", "two")),
    "grammar": ({"extra": {"structured_outputs": {"grammar": 'root ::= "x" | "y"'}}}, lambda text: text in ("x", "y")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("endpoint", ["chat", "completions"])
async def test_an_answer_has_the_form_that_is_demanded(engine, form, endpoint):
    if not engine.capabilities.guided:
        pytest.skip("the engine has no guided")
    demand, holds = FORMS[form]
    if endpoint == "completions" and "response_format" in demand:
        pytest.skip("a chat's parameter")
    sampling = query(temperature=1.0, seed=3, max_tokens=60).sampling
    free, *guided = await asyncio.gather(
        ask(engine, query()),
        *(ask(engine, Query(query().messages, sampling, endpoint=endpoint, **demand)) for _ in range(3)),
    )
    assert finishes(free)
    for chunks in guided:
        assert finishes(chunks) == {0: "stop"}
        assert holds(texts(chunks)[0])


@pytest.mark.parametrize(
    ("demand", "param"),
    [
        (formatted({"type": "nonsense"}), "response_format"),
        (formatted({"maxItems": 10**9}), "response_format"),
        ({"extra": {"structured_outputs": {"regex": "("}}}, "structured_outputs"),
        ({"extra": {"structured_outputs": {"grammar": "nonsense"}}}, "structured_outputs"),
        ({"extra": {"structured_outputs": {"choice": []}}}, "structured_outputs"),
        ({"extra": {"structured_outputs": {"regex": "a", "choice": ["a"]}}}, "structured_outputs"),
    ],
)  # fmt: skip
async def test_a_form_that_is_none_is_refused_by_name_and_harms_nobody(engine, demand, param):
    if not engine.capabilities.guided:
        pytest.skip("the engine has no guided")
    other = asyncio.create_task(ask(engine, query(max_tokens=30)))
    with pytest.raises(RequestError) as caught:
        await ask(engine, Query(query().messages, query().sampling, **demand))
    assert (caught.value.status, caught.value.param) == (400, param)
    assert finishes(await other)
