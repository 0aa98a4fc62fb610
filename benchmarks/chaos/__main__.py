"""`python -m benchmarks.chaos`: 10,000 requests against the application, then as many while pool replicas are killed.

It starts the application itself (profile lab, two replicas of each pool), real models included.
"""

import argparse
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import orjson

from benchmarks.application import application, profile
from benchmarks.chaos.killer import Killer, memory_mib, ready_replicas
from benchmarks.load import result
from benchmarks.load.__main__ import Progress
from benchmarks.load.ask import Target
from benchmarks.load.loops import Plan, Run, run_plan
from benchmarks.load.prompts import lab_prompts
from benchmarks.process import BUILD, free_port, stop_in_order_on_sigterm
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown

PATIENCE_S = 120.0
"""A replica that was killed should be back by then."""
PHASES = ("undisturbed", "{} replicas killed, one each {:g} s", "afterwards")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.splitlines()[0])
    p.add_argument("--num-prompts", type=int, default=10_000)
    p.add_argument("--max-concurrency", type=int, default=64)
    p.add_argument("--every", type=float, default=10.0, help="seconds between kills")
    p.add_argument("--limit", type=float, default=150.0, help="seconds after which a phase asks no more")
    p.add_argument("--replicas", type=int, default=2, help="of each pool")
    p.add_argument("--profile", default="lab")
    p.add_argument(
        "--fake-engine", action="store_true", help="no models: replicas come back at once, requests are many"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run all, write JSON and markdown; 1 if a pass mark does not hold."""
    args = arguments(argv)
    stop_in_order_on_sigterm()
    store = BUILD / "chaos-store"
    shutil.rmtree(store, ignore_errors=True)
    bounds = {"min": args.replicas, "max": args.replicas}
    config = profile(free_port(), store / "jethro.sqlite3", profile=args.profile)
    for pool in config["pools"].values():
        pool["replicas"] |= bounds
    found: dict[str, Any] = {"benchmark": "chaos", "environment": environment(), "every_s": args.every}
    factory = "benchmarks.fake_engine:build" if args.fake_engine else None
    with application(config, "chaos", factory):
        url = f"http://127.0.0.1:{config['server']['port']}"
        if _wait_for(url, args.replicas) is None:
            raise RuntimeError(f"not {args.replicas} replicas of each pool after {PATIENCE_S:.0f} s")
        found |= _phases(args, url)
    found["marks"] = marks(found)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "chaos.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    text = table(found)
    (args.out / "chaos.md").write_text(text)
    print(f"\n{text}\nWritten: {args.out}/chaos.json, .md", flush=True)
    return 0 if all(found["marks"].values()) else 1


def _phases(args: argparse.Namespace, url: str) -> dict[str, Any]:
    """Load undisturbed, load under kills, and a last look whether all is well again; memory before and after each."""
    warm = _load(args, url, min(500, args.num_prompts), seed=args.seed + 2)
    memory = {"before (warm)": memory_mib()}
    print(f"Warm after {warm['duration']:.0f} s; memory, MiB: {memory['before (warm)']}", flush=True)
    phases = {PHASES[0]: _load(args, url, args.num_prompts, seed=args.seed)}
    memory["after the undisturbed run"] = memory_mib()
    killer = Killer(url, args.every)
    killed = _load(args, url, args.num_prompts, seed=args.seed + 1, during=killer)
    phases[PHASES[1].format(len(killer.kills), args.every)] = killed
    back_s = _wait_for(url, args.replicas)
    memory["after the kills"] = memory_mib()
    phases[PHASES[2]] = _load(args, url, min(500, args.num_prompts), seed=args.seed + 2)
    return {
        "phases": phases,
        "memory_mib": memory,
        "kills": [asdict(k) for k in killer.kills],
        "postponed_s": killer.longest_wait_s,
        "whole_after_s": back_s,
    }


def _load(
    args: argparse.Namespace, url: str, n: int, seed: int, during: AbstractContextManager[Any] | None = None
) -> dict[str, Any]:
    prompts = lab_prompts(n, seed)
    with during or nullcontext():
        run = run_plan(Plan(Target(url), prompts, args.max_concurrency, limit_s=args.limit), 1, Progress(n))
    return {
        "asked": len(run.records),
        "not_asked": n - len(run.records),
        **result.result(run, (95, 99), {}),
        "failures": result.failures(run.records),
        "pools": result.by_pool(run.records, prompts),
        "longest_silence_s": longest_silence_s(run),
        "client": result.client(run),
    }


def longest_silence_s(run: Run) -> float:
    """The longest time in which no request was completed, between the first send and the last end."""
    ends = [run.start_s, *sorted(r.end_s for r in run.records if r.ok), run.end_s]
    return max(b - a for a, b in pairwise(ends))


def marks(found: dict[str, Any]) -> dict[str, bool]:
    """What has to hold over all phases."""
    phases = found["phases"].values()
    return {
        "every request was sent within the time limit": all(p["not_asked"] == 0 for p in phases),
        "no request lost before its first byte": all(p["failures"]["before_first_byte"] == 0 for p in phases),
        "every answer cut after its first byte ended with an error event": all(
            silent_cuts(p["failures"]) == 0 for p in phases
        ),
        "the endpoint never stopped answering (no silence of 5 s or more)": all(
            p["longest_silence_s"] < 5 for p in phases
        ),
        "replicas were killed": bool(found["kills"]),
        f"all replicas came back within {PATIENCE_S:.0f} s": found["whole_after_s"] is not None,
    }


def silent_cuts(failures: dict[str, Any]) -> int:
    """Answers that had begun and ended (or hung) with neither [DONE] nor an error event."""
    return int(failures["after_first_byte"] - failures["by_kind"].get("error_event", 0))


def table(found: dict[str, Any]) -> str:
    """All as markdown."""
    head = ["", "completed", "lost before first byte", "ended by error event", "cut without one", "a second"]
    head += ["p50, ms", "p99, ms", "longest silence, s", "exact, %"]
    rows = []
    for name, p in found["phases"].items():
        kinds, exact = p["failures"]["by_kind"], p["pools"]["all"]["exact"]
        counts = [p["completed"], p["failures"]["before_first_byte"], kinds.get("error_event", 0)]
        counts.append(silent_cuts(p["failures"]))
        times = [p["request_throughput"], p["median_e2el_ms"], p["p99_e2el_ms"], p["longest_silence_s"]]
        rows.append([name, *counts, *times, (exact or 0.0) * 100])
    memory = [
        [when, *(" + ".join(f"{v:.0f}" for v in sizes) for sizes in by.values())]
        for when, by in found["memory_mib"].items()
    ]
    story = f"Kills: {_kills(found['kills'])} (longest postponement {found['postponed_s']:.1f} s); all replicas back "
    back_s = found["whole_after_s"]
    story += (
        f"{'never' if back_s is None else f'{back_s:.0f} s'} after the load ended. {one_line(found['environment'])}"
    )
    parts = [
        "# Replicas killed under load",
        story,
        markdown(head, rows).rstrip(),
        "Resident memory of each process, MiB (after the kills, pool replicas are new processes):",
        markdown(["", *next(iter(found["memory_mib"].values()))], memory).rstrip(),
        "\n".join(f"- {text}: {'yes' if ok else 'NO'}" for text, ok in found["marks"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _kills(kills: list[dict[str, Any]]) -> str:
    """How many, and when: a run that ends early sees few of them."""
    return f"{len(kills)}, " + ", ".join(f"one of {k['pool']} after {k['at_s']:.0f} s" for k in kills)


def _wait_for(url: str, replicas: int) -> float | None:
    """Seconds until every pool has so many replicas that answer; None if that takes longer than PATIENCE_S."""
    start_s = perf_counter()
    while perf_counter() < start_s + PATIENCE_S:
        if min(ready_replicas(url).values()) >= replicas:
            return perf_counter() - start_s
        sleep(0.25)
    return None


if __name__ == "__main__":
    raise SystemExit(main())
