"""Load time, memory and tokens per second of the profile `assistant`'s small model, by number format and threads.

    python -m benchmarks.assistant_speed [--model package:smollm2-135m-instruct] [--rounds 2]

Each setting runs in a process of its own, the engine that serves it inside, and the settings take turns, so that a busy
machine is equally busy for all. Tokens per CPU second do not depend on what else runs: on one thread they are what a
quiet core writes in a second.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.config.engines import TransformersSettings
from serve_app.engines.packaged.catalogue import PREFIX, find
from serve_app.engines.packaged.fetch import ensure
from serve_app.errors import JethroError
from serve_app.types import Message, Query, Sampling

DTYPES = ("float32", "bfloat16")
CONCURRENT = (1, 8)
TOKENS = 48
_PROMPT = "Tell me a story about a dog that finds a key in the garden, number {i}."
_LONG = "The quick brown fox jumps over the lazy dog. " * 40


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.assistant_speed", description=__doc__.splitlines()[0])
    p.add_argument("--model", default="package:smollm2-135m-instruct", help="package:NAME or a folder")
    p.add_argument("--rounds", type=int, default=2, help="turns of each setting; medians are reported")
    p.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="threads of the forward passes, each measured"
    )
    p.add_argument("--one", nargs=2, metavar=("DTYPE", "THREADS"), help=argparse.SUPPRESS)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write JSON and table."""
    args = arguments(argv)
    if args.one:
        print(json.dumps(asyncio.run(measured(args.model, args.one[0], int(args.one[1])))))
        return 0
    stamp = environment()
    try:
        packaged = args.model.startswith(PREFIX)
        folder = ensure(find(args.model, "--model"), tell) if packaged else Path(args.model)
    except JethroError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    settings = [(dtype, threads) for threads in args.threads for dtype in DTYPES]
    runs: dict[tuple[str, int], list[dict[str, float]]] = {setting: [] for setting in settings}
    for number in range(args.rounds):
        for dtype, threads in settings:
            tell(f"round {number + 1} of {args.rounds}: {dtype}, {threads} threads")
            runs[dtype, threads].append(in_a_process(folder, dtype, threads))
    rows = [
        {"dtype": dtype, "threads": threads, **{name: median(run[name] for run in found) for name in found[0]}}
        for (dtype, threads), found in runs.items()
    ]
    stamp["command"] = ""
    result = {"environment": stamp, "rounds": args.rounds, "tokens": TOKENS, "settings": rows}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "assistant_speed.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (args.out / "assistant_speed.md").write_text(text(result), "utf-8")
    print(text(result))
    return 0


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def in_a_process(folder: Path, dtype: str, threads: int) -> dict[str, float]:
    """One setting's figures. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "benchmarks.assistant_speed", "--model", str(folder), "--one", dtype, str(threads)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


async def measured(path: str, dtype: str, threads: int) -> dict[str, float]:
    """Seconds to load, peak memory in MB, tokens per second: read, and written at each concurrency."""
    from serve_app.engines.transformers import HFEngine

    started = perf_counter()
    settings = {"path": path, "dtype": dtype, "threads": threads, "max_batch": max(CONCURRENT)}
    engine = HFEngine("m", TransformersSettings.model_validate(settings))
    await engine.start()
    found = {"load_s": perf_counter() - started}
    await _written(engine, 1, 4)
    found["prompt_tokens_s"], found["prompt_tokens_cpu_s"] = await _read(engine)
    for concurrent in CONCURRENT:
        rates = await _written(engine, concurrent, TOKENS)
        found[f"tokens_s_{concurrent}"], found[f"tokens_cpu_s_{concurrent}"] = rates
    await engine.aclose()
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return found


async def _read(engine: Any) -> tuple[float, float]:
    """Prompt tokens per second, and per CPU second: a long prompt, and one token of an answer."""
    wall, cpu = perf_counter(), _cpu_s()
    usage = await _answer(engine, _LONG, 1)
    return usage / (perf_counter() - wall), usage / (_cpu_s() - cpu)


async def _written(engine: Any, concurrent: int, tokens: int) -> tuple[float, float]:
    """Tokens per second, and per CPU second, of as many answers at once; their short prompts included."""
    wall, cpu = perf_counter(), _cpu_s()
    await asyncio.gather(*(_answer(engine, _PROMPT.format(i=i), tokens) for i in range(concurrent)))
    written = concurrent * tokens
    return written / (perf_counter() - wall), written / (_cpu_s() - cpu)


async def _answer(engine: Any, prompt: str, tokens: int) -> int:
    """The prompt's tokens. The answer may not end before its limit: a stopped one would flatter the rate."""
    sampling = Sampling(temperature=0.0, max_tokens=tokens)
    usage = None
    async for chunk in engine.stream(Query((Message("user", prompt),), sampling)):
        usage = chunk.usage or usage
    assert usage is not None and usage.completion_tokens == tokens, "the answer ended early: take another prompt"
    return int(usage.prompt_tokens)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def text(found: dict[str, Any]) -> str:
    """The table and the sentences that explain it."""
    head = ("setting", "load, s", "peak memory, MB", "prompt tokens per CPU s")
    head += tuple(f"tokens per {what}s, {n} at once" for n in CONCURRENT for what in ("", "CPU "))
    rows = [
        (
            f"{one['dtype']}, {one['threads']} thread{'s' * (one['threads'] > 1)}",
            f"{one['load_s']:.0f}",
            f"{one['peak_mb']:.0f}",
            f"{one['prompt_tokens_cpu_s']:.0f}",
            *(f"{one[f'tokens_{kind}_{n}']:.1f}" for n in CONCURRENT for kind in ("s", "cpu_s")),
        )
        for one in found["settings"]
    ]
    return (
        f"# Speed of SmolLM2-135M-Instruct in the transformers engine\n\n{markdown(head, rows)}\n"
        f"Answers of {found['tokens']} tokens, greedy, medians of {found['rounds']} rounds in which the settings took "
        "turns. Rates per second are of this machine as busy as it was; those per CPU second depend on it far less.\n\n"
        f"{one_line(found['environment'])}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
