"""`python -m benchmarks.load`: load on a running endpoint, closed loop or open loop.

python -m benchmarks.load --num-prompts 10000 --max-concurrency 64
python -m benchmarks.load --request-rate 50 --burstiness 0.5 --goodput "ttft:200 e2el:1000"
"""

import argparse
import asyncio
import os
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson

from benchmarks.arrivals import arrival_times_s
from benchmarks.goodput import parse_goodput
from benchmarks.load import report, result
from benchmarks.load.ask import Target, reachable
from benchmarks.load.loops import Plan, Run, run_plan
from benchmarks.load.prompts import file_prompts, lab_prompts
from benchmarks.stamp import environment


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    p.add_argument("--url", default="http://127.0.0.1:8000", help="endpoint, without /v1 (default: %(default)s)")
    p.add_argument("--model", default="jethro")
    p.add_argument("--num-prompts", type=_positive, default=1000)
    p.add_argument(
        "--max-concurrency", type=_positive, help="most requests at once; closed loop if no rate is given (64)"
    )
    p.add_argument("--request-rate", type=float, help="open loop: mean requests a second, `inf` for all at once")
    p.add_argument(
        "--burstiness", type=float, default=1.0, help="gamma shape of the gaps: 1 is Poisson, below 1 bursty"
    )
    p.add_argument("--dataset", default="lab", help="`lab` (unseen queries, graded) or a JSONL file of prompts")
    p.add_argument("--max-tokens", type=_positive, default=64)
    p.add_argument("--temperature", type=float, default=0.0)
    p.add_argument("--seed", type=int, default=0, help="of the queries and of the arrival times")
    p.add_argument("--num-warmups", type=int, default=32)
    p.add_argument("--goodput", type=parse_goodput, default={}, help='limits in ms, as "ttft:200 tpot:50 e2el:1000"')
    p.add_argument("--percentiles", type=_percentiles, default=(90.0, 95.0, 99.0), help="default: 90,95,99")
    p.add_argument("--processes", type=_positive, default=1, help="client processes; more if the client falls behind")
    p.add_argument("--timeout", type=float, default=120.0, help="of one request, in s")
    p.add_argument("--api-key-env", help="environment variable that holds the key")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    p.add_argument("--label", help="name of the result files")
    p.add_argument("--save-detailed", action="store_true", help="keep per-request lists")
    args = p.parse_args(argv)
    if args.request_rate is None and args.max_concurrency is None:
        args.max_concurrency = 64
    if args.dataset != "lab" and not Path(args.dataset).is_file():
        p.error(f"--dataset {args.dataset}: neither `lab` nor a file")
    if args.api_key_env and not os.environ.get(args.api_key_env):
        p.error(f"--api-key-env {args.api_key_env}: the variable is not set")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run, print the table, write JSON, table and plot; 1 if any request failed."""
    args = arguments(argv)
    asyncio.run(reachable(args.url))
    n, warm = args.num_prompts, args.num_warmups
    prompts = lab_prompts(n, args.seed) if args.dataset == "lab" else file_prompts(Path(args.dataset), n)
    key = os.environ[args.api_key_env] if args.api_key_env else None
    target = Target(args.url, args.model, args.max_tokens, args.temperature, args.timeout, key)
    plan = Plan(target, prompts, args.max_concurrency)
    if warm:
        run_plan(replace(plan, prompts=prompts[:warm], max_concurrency=8), 1, lambda done, failed: None)
    if args.request_rate is not None:
        plan = replace(plan, due_s=arrival_times_s(n, args.request_rate, args.burstiness, args.seed).tolist())
    stamp = environment()
    run = run_plan(plan, args.processes, Progress(n))
    found = describe(args, run, stamp)
    found["pools"] = result.by_pool(run.records, prompts)
    if args.save_detailed:
        found |= result.details(run.records, run.start_s)
    write(args, run, found)
    return 1 if found["failed"] else 0


def describe(args: argparse.Namespace, run: Run, stamp: dict[str, Any]) -> dict[str, Any]:
    """The result file's content: the request, the numbers, the client and the machine."""
    loop = f"c{args.max_concurrency}" if args.request_rate is None else f"{args.request_rate:g}qps"
    return {
        "date": stamp["date"],
        "backend": "openai-chat",
        "label": args.label or f"load-{loop}-{args.model}",
        "model_id": args.model,
        "num_prompts": args.num_prompts,
        "request_rate": "inf" if args.request_rate in (None, float("inf")) else args.request_rate,
        "burstiness": args.burstiness,
        "max_concurrency": args.max_concurrency,
        "latency_from": "send" if args.request_rate is None else "scheduled send",
        **result.result(run, args.percentiles, args.goodput),
        "failures": result.failures(run.records),
        "client": result.client(run),
        "environment": stamp,
    }


def write(args: argparse.Namespace, run: Run, found: dict[str, Any]) -> None:
    """JSON, markdown and PNG side by side, named by the label."""
    args.out.mkdir(parents=True, exist_ok=True)
    base = args.out / found["label"]
    base.with_suffix(".json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    text = report.table(found, args.percentiles)
    base.with_suffix(".md").write_text(text)
    report.plot(run, found, base.with_suffix(".png"))
    print(f"\n{text}\nWritten: {base}.json, .md, .png", flush=True)


class Progress:
    """A line every five seconds."""

    def __init__(self, total: int) -> None:
        self._total, self._start_s, self._next_s = total, perf_counter(), 0.0

    def __call__(self, done: int, failed: int) -> None:
        """Say how far it is, unless it was said just now."""
        now = perf_counter() - self._start_s
        if now >= self._next_s or done == self._total:
            self._next_s = now + 5
            print(f"{now:6.0f} s  {done}/{self._total} requests, {failed} failed", flush=True)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return value


def _percentiles(text: str) -> tuple[float, ...]:
    return tuple(float(p) for p in text.split(","))


if __name__ == "__main__":
    raise SystemExit(main())
