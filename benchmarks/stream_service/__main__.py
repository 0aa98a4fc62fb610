"""`python -m benchmarks.stream_service FILE`: streams over HTTP whose Learner is killed, and whose labels change.

FILE holds texts, their true labels and an LLM's (see `jethro stream replay`); a fake expert that looks the text up
stands for the LLM. Queries are passes over the file, each in another order. Each run is a stream of its own over the
same queries: one undisturbed, one whose Learner is killed twice by SIGKILL, one whose labels change half-way, and that
again with the released algorithm, without our changes. That one has no budget of LLM calls but a price: its accuracy
compares with the others' only where it made about as many calls (see `benchmarks.online_cascade` for equal calls).
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.application import application, profile
from benchmarks.process import BUILD, free_port
from benchmarks.stamp import environment
from benchmarks.stream_service.expert import record
from benchmarks.stream_service.report import figures, passed, plot, table
from benchmarks.stream_service.serving import Pace, Plan, run
from serve_app.streams.online.settings import FIXES
from serve_app.streams.replay import ReplayRow, read_rows

RUNS = ("undisturbed", "killed", "shifted", "shifted, plain")


def plans(args: argparse.Namespace) -> list[Plan]:
    """The streams of the requested runs."""
    labels, levels = args.labels.split(","), args.levels.split(",")
    stream = {"labels": labels, "instruction": "Name the feeling.", "levels": levels, "seed": args.seed}
    share = {**stream, "llm_share": args.llm_share, "horizon": args.queries}
    plain = {**stream, "mu": args.plain_mu, "mends": dict.fromkeys(FIXES, False)}
    made = {
        "undisturbed": Plan("undisturbed", {**share, "name": "undisturbed"}),
        "killed": Plan("killed", {**share, "name": "killed"}, kills=(1 / 3, 2 / 3)),
        "shifted": Plan("shifted", {**share, "name": "shifted"}, shift_at=0.5),
        "shifted, plain": Plan("shifted, plain", {**plain, "name": "plain"}, shift_at=0.5),
    }
    return [made[name] for name in args.runs]


def warm_up(args: argparse.Namespace) -> Plan:
    """A stream whose small models answer nearly all."""
    stream = {"labels": args.labels.split(","), "instruction": "Name the feeling.", "levels": args.levels.split(",")}
    return Plan("warm-up", {**stream, "name": "warm-up", "llm_share": 0.02, "horizon": args.queries})


def queries(args: argparse.Namespace) -> list[ReplayRow]:
    """So many rows, each pass over the file in another order."""
    rows = read_rows(args.file, args.labels.split(","), args.text, args.label, args.expert)
    rng, made = random.Random(args.seed), []
    while len(made) < args.queries:
        made += rng.sample(rows, len(rows))
    return made[: args.queries]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Start the application, make the runs one after another."""
    stamp, rows, labels = environment(), queries(args), args.labels.split(",")
    stamp["command"] = stamp["command"].replace(str(args.file), args.file.name)
    record(labels, {row.text: row.expert for row in rows})
    store, folder, port = BUILD / "stream_service.sqlite3", BUILD / "stream_service", free_port()
    shutil.rmtree(folder, ignore_errors=True)
    for file in BUILD.glob(f"{store.name}*"):
        file.unlink()
    config = profile(port, store)
    config["streams"].update(enabled=True, folder=str(folder))
    config["log"]["access"] = False
    runs: dict[str, Any] = {}
    pace = Pace(args.concurrency, args.rate)
    with application(config, "stream_service", "benchmarks.stream_service.expert:build"):
        # the encoder knows the texts that it has read: without this the first run would be slower than the rest
        once = list({row.text: row for row in rows}.values())
        asyncio.run(run(f"http://127.0.0.1:{port}", warm_up(args), once, labels, Pace(args.concurrency, 1e6)))
        for plan in plans(args):
            seen = asyncio.run(run(f"http://127.0.0.1:{port}", plan, rows, labels, pace))
            runs[plan.name] = figures(plan, seen)
    return {"environment": stamp, "file": args.file.name, "texts": len(once), "runs": runs}


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write JSON, table and plot; 1 if anything does not hold."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.stream_service", description=__doc__.splitlines()[0])
    p.add_argument("file", type=Path)
    p.add_argument("--labels", default="joy,sadness,anger,guilt,shame,fear,disgust")
    p.add_argument("--text", default="text")
    p.add_argument("--label", default="label")
    p.add_argument("--expert", default="gpt35")
    p.add_argument("--queries", type=int, default=20_000)
    p.add_argument("--llm-share", type=float, default=0.2)
    p.add_argument("--plain-mu", type=float, default=2.5e-3, help="price of cost for the released algorithm")
    p.add_argument("--levels", default="logistic,encoder")
    p.add_argument("--concurrency", type=int, default=16)
    p.add_argument("--rate", type=float, default=250.0, help="queries a second at most")
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    p.add_argument("--add", action="store_true", help="keep the other runs of the result that is there")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    args = p.parse_args(argv)
    file = args.out / "stream_service.json"
    before = json.loads(file.read_text("utf-8"))["runs"] if args.add else {}
    found = measure(args)
    runs = {**before, **found["runs"]}
    found |= {"runs": runs, "held": passed(runs)}
    args.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "stream_service.md").write_text(table(found), "utf-8")
    plot(found, args.out / "stream_service.png")
    print(table(found))
    return 0 if all(found["held"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
