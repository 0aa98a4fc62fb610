"""`python -m benchmarks.hot_path --before REV`: what changes cost chat's hot path, against the code of another commit.

Both applications run on Ray Serve at the same time, with models of zero cost and everything switched on that is on by
default; see `benchmarks.gateway.paired` for how they are measured. The other commit is checked out below `build/`.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
import yaml

from benchmarks.application import PATIENCE
from benchmarks.gateway.paired import Compared, one_round, tables
from benchmarks.gateway.rounds import ONE_SHOT, STREAM, Target, warm_up
from benchmarks.gateway.wrk import require_wrk
from benchmarks.process import BUILD, ROOT, Server, free_port, stop_in_order_on_sigterm
from benchmarks.stamp import environment, one_line
from benchmarks.stats import median

AT_LEAST = 0.97
"""Answers per second of this code, as a part of the other's: the pass mark."""
THIS, BEFORE = "this code", "before"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.hot_path", description=__doc__.splitlines()[0])
    p.add_argument("--before", required=True, metavar="REV", help="the commit to compare with")
    p.add_argument("--concurrency", type=int, default=16)
    p.add_argument("--rounds", type=int, default=10)
    p.add_argument("--seconds", type=float, default=2, help="of one run of wrk")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run all, write JSON and markdown; 1 if the pass mark does not hold."""
    args = arguments(argv)
    stop_in_order_on_sigterm()
    require_wrk()
    stamp, begin_s = environment(), perf_counter()
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(checked_out(args.before))
        this, this_server = endpoint(THIS, ROOT)
        before, before_server = endpoint(BEFORE, other)
        for server in (this_server, before_server):
            stack.callback(server.stop)
            server.start()
            server.wait_ready()
        print(f"Both answer after {perf_counter() - begin_s:.0f} s", flush=True)
        warm_up([this, before])
        cells = [Compared(case, args.concurrency, (THIS, BEFORE)) for case in (ONE_SHOT, STREAM)]
        for turn in range(args.rounds):
            for cell in cells:
                one_round(cell, (this, this_server), (before, before_server), turn, args.seconds)
    args.out.mkdir(parents=True, exist_ok=True)
    found = {"before": args.before, "cells": [asdict(cell) for cell in cells], "stamp": stamp}
    (args.out / "hot_path.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    text = report(cells, args.before, stamp)
    (args.out / "hot_path.md").write_text(text)
    print(f"\n{text}\n{perf_counter() - begin_s:.0f} s", flush=True)
    return 0 if passed(cells) else 1


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A folder with the code of a commit, which is removed afterwards."""
    folder = BUILD / "hot-path-before"
    git = ("git", "-C", str(ROOT), "worktree")
    if folder.exists():  # of a run that was killed
        shutil.rmtree(folder)
        subprocess.run([*git, "prune"], check=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def endpoint(name: str, root: Path) -> tuple[Target, Server]:
    """An application of the code below `root` with fake engines; not started yet. Its config is the code's own."""
    port, short = free_port(), name.replace(" ", "-")
    store = BUILD / f"hot-path-{short}-store"
    shutil.rmtree(store, ignore_errors=True)
    config = _lab_profile(root)
    config["server"]["port"] = port
    config["store"]["path"] = str(store / "jethro.sqlite3")
    config["streams"]["folder"] = str(store / "streams")
    config["pools"].pop("embed", None)
    for pool in config["pools"].values():
        if pool["engine"]["kind"] == "transformers":
            pool["engine"] = {"kind": "transformers", "path": "none: the fake engine takes its place"}
            pool |= {"max_ongoing_requests": 1024, "max_queued_requests": 1024}
    path = BUILD / f"hot-path-{short}.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "benchmarks.application", str(path), "benchmarks.fake_engine:build"]
    ready = f"http://127.0.0.1:{port}/health/ready"
    server = Server(f"hot-path-{short}", command, ready, PATIENCE, timeout_s=300, root=root)
    return Target(name, f"http://127.0.0.1:{port}", "jethro"), server


def _lab_profile(root: Path) -> dict[str, Any]:
    """The tree of the profile lab as the code below `root` reads it."""
    program = "import sys, yaml; from serve_app.config import load; "
    program += "yaml.safe_dump(load('lab', env={}).model_dump(mode='json'), sys.stdout)"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, check=True
    )
    tree: dict[str, Any] = yaml.safe_load(ran.stdout)
    return tree


def passed(cells: Sequence[Compared]) -> bool:
    """Whether the pass mark holds in every case, and nothing failed."""
    return all(median(cell.ratios) >= AT_LEAST and not cell.errors for cell in cells)


def report(cells: Sequence[Compared], before: str, stamp: dict[str, Any]) -> str:
    """Tables and what they mean."""
    mark = "holds" if passed(cells) else "does not hold"
    rounds, failed = len(cells[0].rates[THIS]) // 2, sum(cell.errors for cell in cells)
    return (
        "# What a change costs chat's hot path\n\n"
        f"{__doc__.split(chr(10) * 2, 1)[1].strip()}\n\n"
        f"Before: commit `{before}`. Medians of {rounds} rounds. Pass mark: at least {AT_LEAST} of its answers per "
        f"second in every case: {mark}. {failed} answers failed.\n\n"
        f"{tables(cells)}\n"
        f"{one_line(stamp)}. The ratios are of one round each.\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
