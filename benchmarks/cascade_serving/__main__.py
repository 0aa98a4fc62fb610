"""`python -m benchmarks.cascade_serving`: the lab's cascades over HTTP, on unseen queries, next to its pools.

python -m benchmarks.cascade_serving                             starts the lab profile itself, three times
python -m benchmarks.cascade_serving --url http://127.0.0.1:8000 --n 1500
"""

import argparse
import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.application import application, profile
from benchmarks.arguments import parsed, parser
from benchmarks.cascade_serving.ask import Endpoint, ask_all
from benchmarks.cascade_serving.figures import FEWEST_HELD, FEWEST_SHOWN, MOST_RATIO, Run, figures, missed
from benchmarks.cascade_serving.plot import draw
from benchmarks.process import BUILD, free_port, stop_in_order_on_sigterm
from benchmarks.progress import progress
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.data.collection.lab import unseen_queries
from serve_app.lab.tasks import Item

CASCADE, STREAM = "jethro-cascade", "jethro-cascade-stream"
KINDS = ("accepted", "escalated", "escalated_after_probe")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = parser("cascade_serving", __doc__ or "", n=1500, concurrency=4)
    p.add_argument("--probe-tokens", type=int, default=1, help="as the streaming chain was fitted")
    p.add_argument("--race", type=float, nargs=3, default=(0.05, 1.0, 0.05), metavar=("LOW", "HIGH", "SHARE"))
    return parsed(p, argv)


def main(argv: list[str] | None = None) -> int:
    """Ask, grade, write JSON, table and plot; 1 if the cascades do not keep what they are held to."""
    stop_in_order_on_sigterm()
    args = arguments(argv)
    stamp = environment()
    items = unseen_queries(args.n, args.seed, "measure")
    runs: dict[str, Run] = {}
    if args.url is not None:
        runs["as it runs"] = measured(args, items, args.url, [CASCADE, STREAM])
    else:
        low, high, share = args.race
        probed = {"skip_hopeless": False}
        raced = {**probed, "streaming": {"race": {"low": low, "high": high, "wasted_share": share}}}
        runs["as shipped"] = started(args, items, {}, [CASCADE, STREAM])
        runs["all probed"] = started(args, items, probed, [STREAM])
        runs["all probed, raced"] = started(args, items, raced, [STREAM])
    found = {title: figures(run, args.seed) for title, run in runs.items()}
    short = [f"{title}: {line}" for title, run in runs.items() for line in missed(found[title], run)]
    write(args, runs, found, {"environment": stamp, "seed": args.seed, "race": list(args.race), "missed": short})
    return 1 if short else 0


def started(args: argparse.Namespace, items: list[Item], cascade: dict[str, Any], models: list[str]) -> Run:
    """The lab profile with these settings of `cascade`, started for this and stopped again."""
    port = free_port()
    config = profile(port, BUILD / "cascade_serving.sqlite3")
    config["cascade"] = cascade
    with application(config, "cascade_serving"):
        return measured(args, items, f"http://127.0.0.1:{port}", models)


def measured(args: argparse.Namespace, items: list[Item], url: str, cascades: list[str]) -> Run:
    """Every query of every model; a tenth of them first, uncounted, as a warm-up."""
    key = os.environ[args.api_key_env] if args.api_key_env else None
    endpoint = Endpoint(url, key, args.concurrency, probe_tokens=args.probe_tokens)
    models = [args.weak, args.strong, *cascades]
    warm = items[: max(20, len(items) // 10)]
    asyncio.run(ask_all(endpoint, models, warm, args.seed + 1, lambda done: None))
    report = progress(", ".join(models), len(items) * len(models))
    replies = asyncio.run(ask_all(endpoint, models, items, args.seed, report))
    return Run([item.prompt for item in items], args.weak, args.strong, replies)


def table(found: dict[str, dict[str, Any]], more: dict[str, Any], args: argparse.Namespace) -> str:
    """The results as Markdown tables with the sentences that explain them."""
    quality, times = [], []
    for title, models in found.items():
        for name, f in models.items():
            low, high = f["quality_drop_interval_95"]
            drop = f"{100 * f['quality_drop']:.2f} ({100 * low:.2f} to {100 * high:.2f})"
            shares = [f"{100 * f[k]:.1f}" for k in ("quality", "strong_calls", "wasted_tokens_share", "raced_share")]
            cost = f"{f['cost_usd_per_1000']:.4f}"
            quality.append((f"{name}, {title}", shares[0], drop, *shares[1:], cost))
            times += [_time(f"{name}, {title}", kind, f) for kind in KINDS if f.get(kind)]
    head = (
        "",
        "exact, %",
        "quality drop, % (95 %)",
        "strong calls, %",
        "wasted tokens, %",
        "raced in vain, %",
        "USD per 1,000",
    )
    heads = (
        "time to first token, p50, ms",
        "queries",
        "of these probed",
        "cascade",
        "pool alone",
        "ratio",
        "probe",
        "without the probe (95 %)",
    )
    kept = "all kept" if not more["missed"] else "not kept: " + "; ".join(more["missed"])
    return (
        f"{markdown(head, quality)}\n{markdown(heads, times)}\n"
        f"{args.n:,} unseen lab queries, greedy, streamed over HTTP by {args.concurrency} callers, every model called "
        "every query in one shuffled order. Quality drop = (always large - cascade) / always large. Accepted: held "
        "against the weak pool alone on the same queries; escalated: against the strong pool alone, plainly and less "
        f"the weak pool's probe. The ratio without the probe is limited to {MOST_RATIO:g} for {STREAM} ({CASCADE} "
        f"waits for the whole weak answer) where there are {FEWEST_HELD} streams or more. As shipped the weak pool is "
        "not called where the router's score alone escalates the query: those queries were never probed, and the time "
        "of `escalated` is mostly theirs; `escalated after probe` is what a query pays that was probed first. All "
        f"probed: every query goes to the weak pool first. Raced: scores from {args.race[0]:g} to {args.race[1]:g} "
        "start the strong call at once; races waste at most "
        f"{args.race[2]:.0%} of all tokens. Wasted: tokens that are in no answer. Targets: {kept}.\n\n"
        f"{one_line(more['environment'])}, seed {more['seed']}\n"
    )


def _time(name: str, kind: str, figures: Any) -> tuple[str, ...]:
    f, probed = figures[kind], figures["escalated_after_probe"]
    low, high = f["ratio_interval_95"]
    got, alone, probe = (f"{f[key]:.1f}" for key in ("ttft_p50_ms", "alone_p50_ms", "probe_p50_ms"))
    ratio = f"{f['ratio']:.2f} ({low:.2f} to {high:.2f})"
    return (
        f"{kind.replace('_', ' ')}: {name}",
        f"{f['queries']:,}",
        "all" if kind == "accepted" else f"{probed['queries']:,}" if probed else f"under {FEWEST_SHOWN}",
        got,
        alone,
        f"{f['plain_ratio']:.2f}",
        probe,
        ratio,
    )


def write(args: argparse.Namespace, runs: dict[str, Run], found: dict[str, Any], more: dict[str, Any]) -> None:
    """`cascade_serving.json`, `.md` and `.png`; the raw replies go to the build folder, not into the repository."""
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "cascade_serving.json").write_text(json.dumps({**more, "runs": found}, indent=1) + "\n", "utf-8")
    (out / "cascade_serving.md").write_text(table(found, more, args), "utf-8")
    draw(runs, found, f"{one_line(more['environment'])}, seed {more['seed']}", out / "cascade_serving.png")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "cascade_serving.jsonl").open("w", encoding="utf-8") as raw:
        for title, run in runs.items():
            for name, replies in run.replies.items():
                for query, reply in zip(run.queries, replies, strict=True):
                    raw.write(json.dumps([title, name, query, asdict(reply)]) + "\n")
    print(table(found, more, args))


if __name__ == "__main__":
    sys.exit(main())
