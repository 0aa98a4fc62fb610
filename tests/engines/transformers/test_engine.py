"""The engine as a whole; what every engine must do is in tests/conformance."""

import asyncio

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from serve_app.engines.transformers import HFEngine
from serve_app.errors import ConfigError, Overloaded, PoolUnavailable, RequestError, UnsupportedParameter, UpstreamError
from serve_app.lab import models_dir
from serve_app.types import Message, Query, Sampling
from tests.models import save_random_model, settings_for

PROMPTS = [f"what is {i} {'+-*'[i % 3]} {i * 7 % 31}?{' please' * (i % 6)}" for i in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def engine(folder):
    engine = HFEngine("m", settings_for(folder))
    await engine.start()
    yield engine
    await engine.aclose()


def query(prompt="hello", **sampling) -> Query:
    return Query((Message("user", prompt),), Sampling(**{"max_tokens": 8, "temperature": 0.0, **sampling}))


async def text(engine, asked) -> str:
    return "".join([chunk.text async for chunk in engine.stream(asked)])


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def alone(folder, prompts, max_tokens):
    """What transformers' own generate says to each prompt alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    for prompt, count in zip(prompts, max_tokens, strict=True):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**ids, max_new_tokens=count, do_sample=False)
        yield tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


async def test_a_models_own_temperature_is_for_requests_that_set_none(folder):
    engine = HFEngine("m", settings_for(folder, temperature=0.0))
    await engine.start()
    greedy = await text(engine, query())
    open_ = {await text(engine, query(temperature=1.0, seed=seed)) for seed in range(4)}
    stated = {await text(engine, query(temperature=1.0, seed=seed, stated=("temperature",))) for seed in range(4)}
    narrow = {await text(engine, query(temperature=1.0, seed=seed, top_p=0.99)) for seed in range(4)}
    await engine.aclose()
    assert open_ == {greedy} and len(stated) > 1 and len(narrow) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "small", "large"])
async def test_greedy_among_others_is_what_generate_says_alone(folder, name):
    if name != "random":
        folder = models_dir() / name
        if not (folder / "config.json").is_file():
            pytest.skip(f"lab:{name} is not trained yet")
    max_tokens = [3 + i % 17 for i in range(len(PROMPTS))]
    engine = HFEngine("m", settings_for(folder, max_batch=16))
    await engine.start()
    asked = [query(p, max_tokens=n) for p, n in zip(PROMPTS, max_tokens, strict=True)]
    among = await asyncio.gather(*(text(engine, q) for q in asked))
    await engine.aclose()
    assert among == list(alone(folder, PROMPTS, max_tokens))


async def test_requests_share_forward_passes_and_join_while_others_run(engine):
    long = asyncio.create_task(text(engine, query(max_tokens=300)))
    await until(lambda: engine.health().running == 1)
    assert len(await text(engine, query("short", max_tokens=3))) <= 3
    assert not long.done(), "the short one did not wait for the long one"
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)


async def test_a_closed_stream_frees_its_rows_in_a_step_or_two(engine):
    stream = engine.stream(query(max_tokens=400, n=4))
    await anext(stream)
    assert engine.health().figures["rows"] == 4
    await stream.aclose()
    await until(lambda: engine.health().figures["rows"] == 0)
    generated = [line for line in engine.metrics().splitlines() if line.startswith("jethro_engine_generated_tokens_t")]
    assert float(generated[0].split()[-1]) < 400


async def test_a_full_engine_refuses(folder):
    engine = HFEngine("m", settings_for(folder, max_batch=1, max_waiting=1))
    await engine.start()
    streams = [engine.stream(query(max_tokens=400)) for _ in range(2)]
    tasks = [asyncio.create_task(anext(s)) for s in streams]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await text(engine, query())
    assert caught.value.retry_after_s == 1
    await tasks[0]
    await streams[0].aclose()
    await tasks[1]
    await streams[1].aclose()
    assert len(await text(engine, query())) == 8
    await engine.aclose()


async def test_a_failing_step_fails_the_running_and_the_engine_goes_on(engine, caplog):
    batch = engine._worker._batch
    forward, failed = batch._model, []

    def broken(**inputs):
        if not failed and engine.health().running == 3:  # all of them have joined
            failed.append(True)
            raise RuntimeError("out of memory")
        return forward(**inputs)

    batch._model = broken
    asked = [text(engine, query(max_tokens=400)) for _ in range(3)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(error, UpstreamError) for error in found)
    assert "out of memory" in caplog.text
    assert engine.health().ok
    assert len(await text(engine, query())) == 8
    assert "jethro_engine_failed_steps_total" in engine.metrics()


async def test_an_engine_that_always_fails_says_so(engine):
    def broken(**inputs):
        raise RuntimeError("no device")

    engine._worker._batch._model = broken
    for _ in range(3):
        with pytest.raises(UpstreamError):
            await text(engine, query())
    assert not engine.health().ok
    assert "fails" in engine.health().detail


async def test_closing_ends_open_streams_with_an_error(engine):
    waiting = asyncio.create_task(text(engine, query(max_tokens=400)))
    await until(lambda: engine.health().running == 1)
    await engine.aclose()
    with pytest.raises(PoolUnavailable):
        await waiting
    with pytest.raises(PoolUnavailable):
        await text(engine, query())
    assert not engine.health().ok


async def test_before_the_start_it_is_not_available(folder):
    engine = HFEngine("m", settings_for(folder))
    assert not engine.health().ok
    assert engine.metrics() == ""
    with pytest.raises(PoolUnavailable):
        await text(engine, query())
    await engine.aclose()


async def test_a_folder_without_a_model_is_the_operator_s_mistake(tmp_path):
    with pytest.raises(ConfigError, match=r"engine\.path"):
        await HFEngine("m", settings_for(tmp_path)).start()


async def test_a_sliding_window_is_refused_with_the_way_out(tmp_path):
    from transformers import MistralConfig

    MistralConfig(num_hidden_layers=2, sliding_window=8).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"engine\.kind vllm"):
        await HFEngine("m", settings_for(tmp_path)).start()


async def test_without_max_tokens_the_context_is_the_end(engine):
    limit = engine.capabilities.max_context_tokens
    chunks = [c async for c in engine.stream(query("a" * (limit - 40), max_tokens=None))]
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].usage.total_tokens == limit


async def test_a_long_prompt_is_tokenised_beside_the_loop_and_refused(engine):
    with pytest.raises(RequestError, match="context"):
        await text(engine, query("a" * 100_000))


@pytest.mark.parametrize("extra", [{"guided_regex": "a+"}, {"priority": 1}])
async def test_unknown_parameters_are_refused_by_name(engine, extra):
    with pytest.raises(UnsupportedParameter, match=next(iter(extra))):
        await text(engine, Query(query().messages, extra=extra))


async def test_a_text_response_format_is_the_default(engine):
    assert await text(engine, Query(query().messages, query().sampling, response_format={"type": "text"}))


@pytest.mark.parametrize("change", [{"n": 0}, {"max_tokens": 0}])
async def test_senseless_numbers_are_refused(engine, change):
    with pytest.raises(RequestError):
        await text(engine, query(**change))


async def test_penalties_change_what_is_said(engine):
    plain, punished = (
        await text(engine, query(max_tokens=40)),
        await text(engine, query(max_tokens=40, frequency_penalty=2.0)),
    )
    assert len(set(punished)) > len(set(plain))


async def test_half_precision_runs(folder):
    engine = HFEngine("m", settings_for(folder, dtype="bfloat16"))
    await engine.start()
    assert len(await text(engine, query())) == 8
    await engine.aclose()


async def test_an_answer_without_a_limit_of_its_own_has_the_settings_limit(folder):
    engine = HFEngine("m", settings_for(folder, max_tokens=6))
    await engine.start()
    for asked, most in ((None, 6), (3, 3), (9, 9)):
        chunks = [chunk async for chunk in engine.stream(query(PROMPTS[0], max_tokens=asked))]
        assert chunks[-1].usage.completion_tokens <= most
        assert chunks[-1].finish_reason == "stop" or chunks[-1].usage.completion_tokens == most
    await engine.aclose()
