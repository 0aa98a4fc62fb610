"""Structured output of both engines: do finished answers validate, do they finish, what does it cost.

Schemas are drawn at random: nested objects, optional keys, enums, constants, arrays, strings, numbers with bounds,
anyOf, nulls. Every second one is the signature of a tool that must be called. Answers are sampled at temperature 1 and
checked by `jsonschema`, an implementation that shares nothing with the grammar. The cost is taken in pairs: a round of
concurrent guided answers, then the same prompts for as many tokens each from a model that never ends a text by itself.
Forms are compiled before that; their compile time is reported alone, where the engine shows it.

python -m benchmarks.guided                                  the lab's large model, a vocabulary of 118 characters
python -m benchmarks.guided --engine vllm                    the same in vLLM (`make vllm`)
python -m benchmarks.guided --model FOLDER --name smollm2    any other model of the transformers engine
python -m benchmarks.guided --model FOLDER --random          its vocabulary with a small model of random weights
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any

from benchmarks.engine.endless import endless
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.config import load
from serve_app.config.engines import VllmSettings
from serve_app.config.pools import PoolConfig
from serve_app.engines.base import Engine
from serve_app.engines.factory import build_engine
from serve_app.engines.transformers import HFEngine
from serve_app.errors import JethroError, RequestError
from serve_app.types import Chunk, Message, Query, Sampling
from serve_app.wire.answers import ChoiceText

WORDS = ("name", "age", "unit", "city", "isOpen", "x", "kind_2", "total-cost", "Größe", "note", "parts", "id")
PROMPTS = ("what is 40 + 2?", "sort 52 17 88 6 34", "reverse extraordinary", "how many days has a leap year?")
VALUES = ("red", "Green", "dark blue", 'with "quotes"', 7, -3, 2.5, True, None)
MAX_DEPTH = 3


def schema(rng: Random, depth: int = 0) -> dict[str, Any]:
    """A random schema; containers end at MAX_DEPTH."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "nullable"]
    kinds += ["object", "object", "array", "anyOf"] if depth < MAX_DEPTH else []
    kind = rng.choice(kinds)
    if kind == "object":
        return signature(rng, depth)
    if kind == "array":
        least = rng.randrange(3)
        made = {"type": "array", "items": schema(rng, depth + 1), "minItems": least}
        return made | ({"maxItems": least + rng.randrange(4)} if rng.random() < 0.7 else {})
    if kind == "anyOf":
        return {"anyOf": [schema(rng, depth + 1) for _ in range(rng.randint(2, 3))]}
    if kind == "enum":
        return {
            "enum": rng.sample(
                ["red", "Green", "dark blue", 'with "quotes"', 7, -3, 2.5, True, None], rng.randint(1, 4)
            )
        }
    if kind == "const":
        return {"const": rng.choice(["fixed", 12, False, "line\nbreak"])}
    return _leaf(kind, rng)


def _leaf(kind: str, rng: Random) -> dict[str, Any]:
    if kind == "nullable":
        return {"type": [rng.choice(["string", "integer"]), "null"]}
    made: dict[str, Any] = {"type": kind}
    if kind == "string" and rng.random() < 0.6:
        made |= rng.choice([
            {"minLength": 2, "maxLength": rng.randint(3, 12)},
            {"maxLength": 8},
            {"pattern": rng.choice(["^[a-z]{2,5}$", "^[A-Z][0-9]{3}-x?$", "^(ab|c)+d$"])},
            {"format": rng.choice(["date", "time", "email", "uuid", "ipv4"])},
        ])  # fmt: skip
    if kind == "integer" and rng.random() < 0.6:
        low = rng.randint(-200, 100)
        made |= {"minimum": low, "maximum": low + rng.randint(0, 500)} if rng.random() < 0.8 else {"multipleOf": 5}
    if kind == "number" and rng.random() < 0.6:
        low = round(rng.uniform(-50, 50), 2)
        made |= {"exclusiveMinimum" if rng.random() < 0.5 else "minimum": low, "maximum": low + rng.randint(1, 90)}
    return made


def signature(rng: Random, depth: int = 0) -> dict[str, Any]:
    """A random object's schema."""
    names = rng.sample(WORDS, rng.randint(1, 4))
    made: dict[str, Any] = {"type": "object", "properties": {name: schema(rng, depth + 1) for name in names}}
    made["required"] = [name for name in names if rng.random() < 0.7]
    if rng.random() < 0.7:
        made["additionalProperties"] = False
    return made


def query(number: int, max_tokens: int) -> tuple[Query, dict[str, Any]]:
    """The n-th query and the schema that its answer, or the arguments of its call, must follow."""
    rng = Random(f"guided/{number}")
    sampling = Sampling(max_tokens=max_tokens, temperature=1.0, seed=number)
    messages = (Message("user", PROMPTS[number % len(PROMPTS)]),)
    if number % 2:
        form = signature(rng)
        tools = ({"type": "function", "function": {"name": rng.choice(WORDS[:4]), "parameters": form}},)
        return Query(messages, sampling, tools=tools, tool_choice="required"), form
    form = schema(rng)
    answer_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form, "strict": True}}
    return Query(messages, sampling, response_format=answer_format), form


async def answer(engine: Engine, sent: Query) -> tuple[ChoiceText, int]:
    """The whole answer and its tokens. Raises RequestError if the engine refuses the form."""
    said, last = ChoiceText(), Chunk()
    async for last in engine.stream(sent):
        said.add(last)
    assert last.usage is not None
    return said, last.usage.completion_tokens


def fault(said: ChoiceText, sent: Query, form: dict[str, Any]) -> str:
    """Why an answer does not validate; empty if it does."""
    import jsonschema

    text = said.text
    if sent.tools:
        if len(said.calls) < 1 or said.finish_reason != "tool_calls":
            return f"no call, {said.finish_reason}"
        texts = [call["arguments"] for call in said.calls.values()]
    else:
        texts = [text]
    for one in texts:
        try:
            jsonschema.Draft202012Validator(form).validate(json.loads(one))
        except (ValueError, jsonschema.ValidationError) as e:
            return f"{str(e).splitlines()[0]}: {one[:200]}"
    return ""


async def compile_all(engine: Engine, queries: Sequence[Query]) -> list[float]:
    """Milliseconds to compile each form, one after another: each on its own. Empty for vLLM, which compiles inside a
    request: it has seen each form once afterwards.
    """
    if not isinstance(engine, HFEngine):
        one_token = [replace(q, sampling=replace(q.sampling, max_tokens=1)) for q in queries]
        await asyncio.gather(*(answer(engine, q) for q in one_token), return_exceptions=True)
        return []
    times = []
    for sent in queries:
        started = perf_counter()
        await engine._form(sent)
        times.append(1e3 * (perf_counter() - started))
    return times


async def validity(engine: Engine, count: int, concurrency: int, max_tokens: int) -> dict[str, Any]:
    """How many of `count` answers finish, and how many of those validate."""
    pending = [query(i, max_tokens) for i in range(count)]
    compiled = list[float]()
    faults, refusals, failures = list[str](), list[str](), list[str]()
    answered = list[int]()
    unfinished = tokens = 0
    for at in range(0, count, concurrency):
        some = pending[at : at + concurrency]
        if isinstance(engine, HFEngine):
            compiled += await compile_all(engine, [sent for sent, _ in some])
        answers = await asyncio.gather(*(answer(engine, sent) for sent, _ in some), return_exceptions=True)
        for number, (given, (sent, form)) in enumerate(zip(answers, some, strict=True), at):
            if isinstance(given, JethroError):
                (refusals if isinstance(given, RequestError) else failures).append(given.message)
                continue
            if isinstance(given, BaseException):
                raise given
            said, written = given
            answered.append(number)
            tokens += written
            if said.finish_reason == "length":
                unfinished += 1
            elif why := fault(said, sent, form):
                faults.append(why)
    finished = count - unfinished - len(refusals) - len(failures)
    return {
        "schemas": count,
        "refused": len(refusals),
        "failed": len(failures),
        "finished": finished,
        "valid": finished - len(faults),
        "faults": faults[:20],
        "refusals": refusals[:20],
        "failures": failures[:20],
        "tokens_per_answer": tokens / count,
        "compile_ms_p50": median(compiled) if compiled else None,
        "compile_ms_max": max(compiled) if compiled else None,
        "answered": answered,
    }


async def round_of(engine: Engine, queries: Sequence[Query]) -> tuple[list[int], float, float]:
    """Tokens of each answer, and the seconds that all took: on the clock, and of this process's CPU time."""
    started, started_cpu = perf_counter(), process_time()
    counts = [tokens for _, tokens in await asyncio.gather(*(answer(engine, sent) for sent in queries))]
    return counts, perf_counter() - started, process_time() - started_cpu


async def cost(
    guided: Engine, free: Engine, answered: Sequence[int], rounds: int, concurrency: int, max_tokens: int
) -> dict[str, Any]:
    """Tokens a second with and without guides, in alternating rounds of the same shape; the first warms up. `answered`:
    the queries that the engine does not refuse.
    """
    numbers = islice(cycle(answered), (rounds + 1) * concurrency)
    written, seconds = 0, [0.0] * 4
    for round_number in range(rounds + 1):
        some = [query(number, max_tokens)[0] for number in islice(numbers, concurrency)]
        await compile_all(guided, some)
        counts, *guided_s = await round_of(guided, some)
        endless_answer = {} if isinstance(free, HFEngine) else {"ignore_eos": True}
        plain = [
            Query(q.messages, Sampling(max_tokens=count, temperature=1.0, seed=i), extra=endless_answer)
            for i, (q, count) in enumerate(zip(some, counts, strict=True))
        ]
        free_counts, *free_s = await round_of(free, plain)
        assert free_counts == counts, "no text ends by itself"
        if round_number:
            written += sum(counts)
            seconds = [a + b for a, b in zip(seconds, (*guided_s, *free_s), strict=True)]
    guided_s, guided_cpu_s, free_s, free_cpu_s = seconds
    return {
        "rounds": rounds,
        "concurrency": concurrency,
        "tokens": written,
        "guided_tokens_per_s": written / guided_s,
        "free_tokens_per_s": written / free_s,
        "overhead": guided_s / free_s - 1,
        # vLLM computes in a process of its own
        "cpu_overhead": guided_cpu_s / free_cpu_s - 1 if isinstance(guided, HFEngine) else None,
    }


def random_model(folder: Path, target: Path) -> Path:
    """A small model with random weights and the tokenizer of another: answers are noise, the vocabulary is real."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=2048, tie_word_embeddings=True, **shape, **ends
    )
    LlamaForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


async def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Both figures of one model."""
    from serve_app.lab import models_dir

    folder = models_dir() / args.model.removeprefix("lab:") if args.model.startswith("lab:") else Path(args.model)
    with tempfile.TemporaryDirectory() as scratch:
        if args.random:
            folder = random_model(folder, Path(scratch) / "random")
        engines = [_engine(str(folder), args)]
        if args.engine == "transformers":
            engines.append(_engine(str(endless(folder, Path(scratch) / "endless")), args))
        for engine in engines:
            await engine.start()
        try:
            found = await validity(engines[0], args.schemas, args.concurrency, args.max_tokens)
            print(found, file=sys.stderr, flush=True)
            cost_tokens = args.cost_tokens or args.max_tokens
            answered = found.pop("answered")
            found |= await cost(engines[0], engines[-1], answered, args.rounds, args.concurrency, cost_tokens)
        finally:
            for engine in engines:
                await engine.aclose()
    return {"model": args.name, **found}


def _engine(path: str, args: argparse.Namespace) -> Engine:
    settings: dict[str, Any] = {"kind": args.engine, "path": path}
    if args.engine == "vllm":
        profile = load("lab-vllm").pools["large"].engine
        assert isinstance(profile, VllmSettings)
        settings |= {"tool_parser": "hermes", "args": profile.args | {"max_num_seqs": args.concurrency}}
    else:
        settings |= {"threads": args.threads, "dtype": args.dtype, "tool_prompt": "none"}
    return build_engine("bench", PoolConfig.model_validate({"model": "bench", "engine": settings}))


def text(found: dict[str, Any]) -> str:
    """The result as Markdown; a row for each model measured so far."""
    head = [
        "model",
        "schemas",
        "refused",
        "finished",
        "finished and valid",
        "tokens an answer",
        "compile p50, ms",
        "compile max, ms",
    ]
    head += ["guided, tokens/s", "free, tokens/s", "overhead, %", "overhead in CPU time, %"]
    rows = [
        [r["model"], r["schemas"], r.get("refused", 0), r["finished"], r["valid"], f"{r['tokens_per_answer']:.0f}",
         r["compile_ms_p50"], r["compile_ms_max"], r["guided_tokens_per_s"], r["free_tokens_per_s"],
         f"{100 * r['overhead']:.1f}", None if r["cpu_overhead"] is None else f"{100 * r['cpu_overhead']:.1f}"]
        for r in found["rows"]
    ]  # fmt: skip
    about = (
        "Random JSON schemas and tool signatures, half each; answers sampled at temperature 1 and validated by "
        "jsonschema. Overhead: time of guided answers over that of the same number of free tokens, in alternating "
        "rounds of one run; compile time is not in it. CPU time is what the process used, however busy the machine."
    )
    stamps = "\n".join(
        f"{r['model']}: {one_line(r['environment'])}, {r['environment']['command']}" for r in found["rows"]
    )
    return f"# Structured output\n\n{about}\n\n{markdown(head, rows)}\n{stamps}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write JSON and table; results of other models in the same files stay."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.guided", description=__doc__.splitlines()[0])
    p.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    p.add_argument("--model", default="lab:large", help="lab:large, lab:small, or a folder")
    p.add_argument("--name", default="", help="of the row")
    p.add_argument(
        "--random", action="store_true", help="random weights with the model's tokenizer: its vocabulary alone"
    )
    p.add_argument("--schemas", type=int, default=500)
    p.add_argument("--concurrency", type=int, default=16)
    p.add_argument("--max-tokens", type=int, default=400)
    p.add_argument("--rounds", type=int, default=12)
    p.add_argument("--cost-tokens", type=int, default=0, help="max_tokens of the rounds; default: as for the schemas")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--dtype", default="float32")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    args.name = args.name or (args.model if args.engine == "transformers" else f"{args.model} in vLLM")
    stamp = environment()
    row = asyncio.run(measured(args)) | {"environment": stamp}
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "guided.json"
    others = json.loads(path.read_text("utf-8"))["rows"] if path.is_file() else []
    found = {"rows": sorted([*(r for r in others if r["model"] != args.name), row], key=lambda r: r["model"])}
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "guided.md").write_text(text(found), "utf-8")
    print(text(found))
    return 0 if row["valid"] == row["finished"] == row["schemas"] else 1


if __name__ == "__main__":
    sys.exit(main())
