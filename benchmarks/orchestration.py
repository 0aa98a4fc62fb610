"""`jethro-orchestrate` on the embedded models, next to the router and to each model alone: quality, cost, large calls.

The strategies of the profile `lab` answer unseen queries in this process, by the engines that serve; queries of the
tasks that have an adapter are reported apart. Tokens have the prices of the profile, small 0.1 and large 1.0 USD per
million; a token of small with an adapter costs as much more as the adapter adds parameters. Calls whose answer was not
sent are paid.

python -m benchmarks.orchestration
python -m benchmarks.orchestration -n 500 --seed 9
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.adapters.registry import AdapterRegistry
from serve_app.arrays import wilson
from serve_app.config import load
from serve_app.config.adapters import AdaptersConfig
from serve_app.engines.factory import build_engine
from serve_app.engines.local_pool import LocalPool
from serve_app.gateway.adapters import GatewayAdapters
from serve_app.gateway.catalogue import Catalogue
from serve_app.gateway.orchestration import ORCHESTRATE
from serve_app.lab.sample import sample
from serve_app.lab.tasks import TASKS, Item
from serve_app.pools.base import Pool
from serve_app.strategy import Context, Spent, Strategy
from serve_app.types import Decision, Message, Price, Query, Sampling
from serve_app.wire.frames import Answer, Call

NAMES = (ORCHESTRATE, "jethro-route", "jlab-small", "jlab-large")
AT_ONCE = 32


async def answered(strategy: Strategy, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Of each query: whether the answer is exact, its cost in USD, its pool, and its task."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, item: Item) -> dict[str, Any]:
        query = Query((Message("user", item.prompt),), Sampling(temperature=0.0))
        row: dict[str, Any] = {"task": item.task}
        async with room, aclosing(strategy.run(query, Context(Call(f"d{number}", "", 0), stream=False))) as events:
            async for event in events:
                if isinstance(event, Decision):
                    row |= {"pool": event.pool, "adapter": event.adapter, "named": event.task}
                elif isinstance(event, Answer):
                    text = event.parsed["choices"][0]["message"]["content"]
                    row["right"] = TASKS[item.task].grade(item, text) == 1.0
                elif isinstance(event, Spent):
                    row["usd"] = event.cost_usd
                    row["large"] = any(s.pool == "large" for s in event.steps)
        return row

    return list(await asyncio.gather(*(one(i, item) for i, item in enumerate(items))))


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Exact answers with Wilson's 95 % interval, mean cost of a thousand, and the share that called large."""
    right, n = sum(row["right"] for row in rows), len(rows)
    return {
        "n": n,
        "exact": right / n,
        "exact_95": list(wilson(right, n)),
        "usd_per_thousand": 1e3 * sum(row["usd"] for row in rows) / n,
        "large_share": sum(row["large"] for row in rows) / n,
    }


async def measure(n: int, seed: int) -> dict[str, Any]:
    """Every strategy's figures over the tasks with an adapter, `n` queries of each, and over all tasks, `n` times 4."""
    config = load("lab")
    adapters = AdapterRegistry(AdaptersConfig(registry="nowhere")).all()
    pools: dict[str, Pool] = {}
    for name in ("small", "large"):
        engine = build_engine(name, config.pools[name])
        await engine.start()
        pools[name] = LocalPool(name, engine, Price(**config.pools[name].price.model_dump()))
    await GatewayAdapters(config, pools).look()  # the prices of the adapters
    catalogue = Catalogue.from_config(config, pools)
    with_adapter = sample(n * len(adapters), seed, "unseen", tuple(adapters))
    every = sample(4 * n, seed + 1, "unseen")
    found: dict[str, Any] = {"adapters": sorted(adapters), "seed": seed, "with_adapter": {}, "all": {}}
    for name in NAMES:
        strategy = catalogue.resolve(name)
        found["with_adapter"][name] = figures(await answered(strategy, with_adapter))
        found["all"][name] = figures(await answered(strategy, every))
        print(
            f"{name}: {found['with_adapter'][name]['exact']:.3f} of its tasks, {found['all'][name]['exact']:.3f} of all"
        )
    for pool in pools.values():
        await pool.aclose()
    return found


def text(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    parts = ["# Orchestration of the embedded models\n"]
    for key, title in (
        ("with_adapter", f"Tasks with an adapter: {', '.join(found['adapters'])}"),
        ("all", "All tasks"),
    ):
        part = found[key]
        large = part["jlab-large"]
        rows = [
            [
                name,
                f"{100 * one['exact']:.1f} ({100 * one['exact_95'][0]:.1f} to {100 * one['exact_95'][1]:.1f})",
                f"{100 * one['exact'] / large['exact']:.1f}",
                f"{one['usd_per_thousand']:.4f}",
                f"{100 * one['usd_per_thousand'] / large['usd_per_thousand']:.1f}",
                f"{100 * one['large_share']:.1f}",
            ]
            for name, one in part.items()
        ]
        head = ("model", "exact, % (95 %)", "of large's, %", "USD per 1,000", "of large's cost, %", "calls large, %")
        parts += [f"## {title}\n", f"{large['n']:,} unseen queries.\n", markdown(head, rows)]
    parts.append(
        "Tokens are paid at 0.1 (small) and 1.0 USD (large) per million, small with an adapter at 0.1 times its larger "
        "number of parameters; answers that were not sent are paid too. The router's threshold is the profile's.\n"
    )
    return "\n".join([*parts, one_line(found["environment"]) + "\n"])


def main(argv: list[str] | None = None) -> int:
    """Measure, and write JSON and table."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.orchestration", description=__doc__.splitlines()[0])
    p.add_argument("-n", type=int, default=500, help="queries of each task with an adapter; four times as many of all")
    p.add_argument("--seed", type=int, default=21)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    found = {"environment": environment()} | asyncio.run(measure(args.n, args.seed))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "orchestration.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "orchestration.md").write_text(text(found), "utf-8")
    print(text(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
