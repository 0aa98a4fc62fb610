"""`python -m benchmarks.routing_quality`: what the default router gives up and saves, on unseen lab queries over HTTP.

python -m benchmarks.routing_quality                             starts the lab profile itself
python -m benchmarks.routing_quality --url http://127.0.0.1:8000 --n 2000
"""

import argparse
import asyncio
import json
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.application import application, profile
from benchmarks.arguments import parsed, parser
from benchmarks.process import BUILD, free_port
from benchmarks.progress import progress
from benchmarks.routing_quality.ask import Endpoint, Reply, ask_all
from benchmarks.routing_quality.figures import Answers, figures
from benchmarks.routing_quality.plot import draw
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.data.collection.lab import unseen_queries
from serve_app.lab.tasks import Item


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = parser("routing_quality", __doc__ or "", n=2000, concurrency=32)
    p.add_argument("--model", default="jethro", help="the name that the router answers for")
    return parsed(p, argv)


def main(argv: list[str] | None = None) -> int:
    """Ask, grade, write JSON, table and plot; 1 if the router does no better than random."""
    args = arguments(argv)
    stamp = environment()
    items = unseen_queries(args.n, args.seed, "measure")
    with ExitStack() as stack:
        url = args.url
        if url is None:
            port = free_port()
            config = profile(port, BUILD / "routing_quality.sqlite3")
            stack.enter_context(application(config, "routing_quality"))
            url = f"http://127.0.0.1:{port}"
        key = os.environ[args.api_key_env] if args.api_key_env else None
        answers = asyncio.run(ask(Endpoint(url, key, args.concurrency), args, items))
    found = {"environment": stamp, "seed": args.seed, **figures(answers, args.seed)}
    write(args.out, answers, found)
    return 0 if found["points"]["router"]["quality"] > found["points"]["random"]["quality"] else 1


async def ask(endpoint: Endpoint, args: argparse.Namespace, items: list[Item]) -> Answers:
    """Both pools, the router, then random at the share of strong calls that the router took."""
    weak = await ask_all(endpoint, args.weak, items, progress(args.weak, len(items)))
    strong = await ask_all(endpoint, args.strong, items, progress(args.strong, len(items)))
    routed = await ask_all(endpoint, args.model, items, progress(args.model, len(items)))
    share = sum(r.pool == "large" for r in routed) / len(routed)
    name = f"router-random-{1 - share:.4f}"
    random = await ask_all(endpoint, name, items, progress(name, len(items)))
    return Answers([item.prompt for item in items], weak, strong, routed, random)


def table(found: dict[str, Any]) -> str:
    """The results as a Markdown table with the sentences that explain it."""
    rows = []
    for name, point in found["points"].items():
        low, high = point["quality_drop_interval_95"]
        rows.append(
            (
                name,
                f"{100 * point['strong_share']:.1f}",
                f"{100 * point['quality']:.1f}",
                f"{100 * point['quality_drop']:.2f} ({100 * low:.2f} to {100 * high:.2f})",
                f"{point['cost_usd_per_1000']:.4f}",
                "–" if point["cost_of_always_large"] is None else f"{100 * point['cost_of_always_large']:.0f}",
            )
        )
    head = ("", "strong calls, %", "exact, %", "quality drop, % (95 %)", "USD per 1,000", "cost, % of always large")
    ratio = found["drop_ratio_random_to_router"]
    lost = (
        "the router lost nothing"
        if ratio is None
        else f"random at exactly its share is expected to lose {ratio:.1f} times as much"
    )
    return (
        f"{markdown(head, rows)}\n{found['queries']:,} lab queries ({found['distinct_queries']:,} distinct) that "
        f"neither the models nor the router were trained on, greedy, over HTTP; "
        f"quality drop = (always large - routed) / always large; {lost}. "
        f"APGR {found['apgr']:.3f} (oracle {found['apgr_oracle']:.3f}), CPT(50 %) {100 * found['cpt50']:.1f} %, "
        f"CPT(80 %) {100 * found['cpt80']:.1f} %, AUC {found['auc']:.3f}.\n\n{one_line(found['environment'])}, "
        f"seed {found['seed']}\n"
    )


def write(out: Path, answers: Answers, found: dict[str, Any]) -> None:
    """`routing_quality.json`, `.md` and `.png`; the raw replies go to the build folder, not into the repository."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "routing_quality.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (out / "routing_quality.md").write_text(table(found), "utf-8")
    draw(answers, found, f"{one_line(found['environment'])}, seed {found['seed']}", out / "routing_quality.png")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "routing_quality.jsonl").open("w", encoding="utf-8") as raw:
        for row in zip(answers.queries, answers.weak, answers.strong, answers.routed, answers.random, strict=True):
            raw.write(json.dumps([row[0], *map(_plain, row[1:])]) + "\n")
    print(table(found))


def _plain(reply: Reply) -> dict[str, Any]:
    return asdict(reply)


if __name__ == "__main__":
    sys.exit(main())
