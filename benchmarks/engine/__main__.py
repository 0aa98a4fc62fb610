"""`python -m benchmarks.engine`: tokens a second of the transformers engine at rising concurrency, in this process.

For comparison, transformers' own `generate`, one text alone and a whole batch at once: the limits from below and above.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import uvloop

from benchmarks.engine.endless import endless
from benchmarks.engine.runs import CASES, Rate, generate, queries, run
from benchmarks.process import BUILD
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app import plots
from serve_app.config.engines import TransformersSettings
from serve_app.config.pools import PoolConfig

BOUND = 6.0
"""32 requests at once must give so many times the tokens a second of one alone (long texts)."""
AT = 32


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.splitlines()[0])
    p.add_argument("--path", default="lab:large", help="folder of a model, lab:small or lab:large")
    p.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=3.0, help="of one run")
    p.add_argument("--threads", type=int, default=1, help="CPU threads of the forward passes")
    p.add_argument("--device", default="cpu")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run all, write JSON, markdown and PNG; 1 if the pass mark does not hold."""
    args = arguments(argv)
    stamp = environment()
    prompts = lab_prompts()
    folder = _folder(args.path)
    rates = uvloop.run(_engines(args, folder, prompts))
    print("  transformers' own generate: 1 alone, and a batch of 32", flush=True)
    limits = {str(n): generate(str(folder), n, args.threads, prompts, 2 * args.seconds) for n in (1, AT)}
    found = {
        "benchmark": "engine",
        "environment": stamp,
        "path": args.path,
        "threads": args.threads,
        "rates": {case: [asdict(r) for r in rows] for case, rows in rates.items()},
        "generate_tokens_per_s": limits,
        "speedup": speedup(rates[CASES[0]]),
        "bound": BOUND,
    }
    write(args.out, found, rates)
    return 0 if found["speedup"] >= BOUND else 1


def speedup(rows: Sequence[Rate]) -> float:
    """Tokens a second at AT requests over those of one alone; NaN if either was not measured."""
    by = {r.concurrency: r.tokens_per_s for r in rows}
    return by[AT] / by[1] if AT in by and by.get(1) else float("nan")


def lab_prompts(n: int = 2048) -> list[str]:
    """Unseen lab queries."""
    from serve_app.lab.sample import sample

    return [item.prompt for item in sample(n, 0, "unseen")]


async def _engines(args: argparse.Namespace, folder: Path, prompts: list[str]) -> dict[str, list[Rate]]:
    """Median of the rounds for every case and concurrency; rounds are interleaved."""
    from serve_app.engines.factory import build_engine

    folders = {CASES[0]: endless(folder, BUILD / "endless"), CASES[1]: folder}
    engines = {}
    for case, path in folders.items():
        settings = TransformersSettings(path=str(path), device=args.device, threads=args.threads)
        engines[case] = build_engine("benchmark", PoolConfig(model="benchmark", engine=settings))
        await engines[case].start()
    seen: dict[tuple[str, int], list[Rate]] = {}
    try:
        for turn in range(args.rounds):
            for case, engine in engines.items():
                for c in args.concurrency:
                    rate = await run(engine, queries(case, prompts), c, args.seconds)
                    seen.setdefault((case, c), []).append(rate)
                    print(f"  round {turn + 1}/{args.rounds}  {case}, {c}: {rate.tokens_per_s:,.0f} tok/s", flush=True)
    finally:
        for engine in engines.values():
            await engine.aclose()
    return {case: [_median(seen[case, c]) for c in args.concurrency] for case in CASES}


def _median(rates: Sequence[Rate]) -> Rate:
    columns = zip(*(asdict(r).values() for r in rates), strict=True)
    concurrency, *figures = (median(column) for column in columns)
    return Rate(int(concurrency), *figures)


def _folder(path: str) -> Path:
    if not path.startswith("lab:"):
        return Path(path)
    from serve_app.lab import models_dir

    return models_dir() / path.removeprefix("lab:")


def write(out: Path, found: dict[str, Any], rates: dict[str, list[Rate]]) -> None:
    """JSON, markdown and PNG."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "engine.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    head = ["requests at once", "tokens a second", "× one alone", "requests a second", "TTFT p50, ms", "ITL p50, ms"]
    parts = [
        "# Transformers engine",
        f"{found['path']}, {found['threads']} thread(s). {one_line(found['environment'])}",
    ]
    for case, rows in rates.items():
        one = rows[0].tokens_per_s
        cells = [
            (r.concurrency, r.tokens_per_s, r.tokens_per_s / one, r.requests_per_s, r.ttft_p50_ms, r.itl_p50_ms)
            for r in rows
        ]
        parts += [f"## {case.capitalize()}", markdown(head, cells).rstrip()]
    limits = found["generate_tokens_per_s"]
    parts.append(
        f"transformers' own generate: {limits['1']:,.0f} tokens a second alone, {limits[str(AT)]:,.0f} in a batch of "
        f"{AT} that starts and ends together.\n\nPass mark: {AT} at once over one alone, long texts: "
        f"{found['speedup']:.1f} × (bound {BOUND:g}): {'holds' if found['speedup'] >= BOUND else 'DOES NOT HOLD'}."
    )
    text = "\n\n".join(parts) + "\n"
    (out / "engine.md").write_text(text)
    _plot(out / "engine.png", found, rates)
    print(f"\n{text}\nWritten: {out}/engine.json, .md, .png", flush=True)


def _plot(path: Path, found: dict[str, Any], rates: dict[str, list[Rate]]) -> None:
    figure, axis = plots.new_figure(1, 7, 4.5)
    for case, rows in rates.items():
        axis.plot([r.concurrency for r in rows], [r.tokens_per_s for r in rows], marker="o", label=f"engine, {case}")
    for batch, rate in found["generate_tokens_per_s"].items():
        axis.axhline(rate, ls="--", lw=1, color="gray")
        axis.annotate(f"generate, batch {batch}", (1, rate), fontsize=8, va="bottom")
    axis.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="output tokens a second")
    axis.legend()
    figure.suptitle(one_line(found["environment"]), fontsize=7)
    plots.save(figure, path)


if __name__ == "__main__":
    raise SystemExit(main())
