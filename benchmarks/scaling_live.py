"""`python -m benchmarks.scaling_live`: pools of the real application that follow a step in the difficulty of queries.

The fake engine answers with a known time of service, so that two cores suffice and the policy's targets can be
computed; everything else is real: HAProxy, Gateway, router, replicas, Serve's autoscaling. At a constant rate the
share of hard queries steps from 5 % to 60 %, first with the share policy, then with Serve's rule on the same requests
in flight: with its default delays, and with delays as short as the share policy's patience. With the share policy
traffic then ends until the large pool sleeps, and one hard query must be answered.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np

from benchmarks.application import application, profile
from benchmarks.arrivals import arrival_times_s
from benchmarks.process import BUILD, free_port, stop_in_order_on_sigterm
from benchmarks.scaling_recording import Recording
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app import plots
from serve_app.autoscaling.policy import places
from serve_app.autoscaling.traces import PoolCall
from serve_app.data.collection.lab import unseen_queries
from serve_app.routing.registry import load_router
from serve_app.types import Message, Query

POOLS = ("small", "large")
PACE_MS, TOKENS = 60, 16
SERVICE_S = PACE_MS * TOKENS / 1e3
CONCURRENCY, TARGET_ONGOING = 4, 3
"""Places of a replica; and Serve's target, which with these loads requires as many replicas in the end as the share."""
HEADROOM, HOLD_S, IDLE_S = 1.0, 15.0, 20.0
DELAYS_S = {"share": (0.0, 0.0), "in_flight": (30.0, 600.0), "in_flight_quick": (10.0, HOLD_S)}
"""Serve's delays up and down by run: of its rule its defaults, then some as short as the share policy's patience."""
BOUNDS = {"small": (1, 5), "large": (0, 5)}
SHARES = (0.05, 0.6)
LABELS = {
    "share": "share policy",
    "in_flight": "Serve's rule, its default delays (30 s up, 600 s down)",
    "in_flight_quick": f"Serve's rule, {DELAYS_S['in_flight_quick'][0]:g} s up, {HOLD_S:g} s down",
}
_WAKE_S, _SLEEP_S = 60.0, 120.0
_ENGINE = "benchmarks.fake_engine:build"


@dataclass(slots=True)
class Seen:
    """What one run showed: calls, HTTP statuses, and the replicas that answer by pool over time."""

    calls: list[PoolCall] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    misrouted: int = 0
    at_s: list[float] = field(default_factory=list)
    replicas: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in POOLS})


def queries(threshold: float) -> tuple[Iterator[str], Iterator[str]]:
    """Endless easy and hard prompts: those that the router sends to the small and to the large pool."""
    router = load_router("complexity", seed=0).router
    texts = [f"{item.prompt} [pace {PACE_MS} ms]" for item in unseen_queries(400, 0, "measure")]
    scores = router.score([Query((Message("user", text),)) for text in texts])
    easy = [text for text, score in zip(texts, scores, strict=True) if score < threshold]
    hard = [text for text, score in zip(texts, scores, strict=True) if score >= threshold]
    return cycle(easy), cycle(hard)


def config(policy: str, port: int, store: Path, threshold: float) -> dict[str, Any]:
    """The lab profile with both pools between bounds."""
    tree = profile(port, store, max_ongoing_requests=CONCURRENCY, wait_s=_WAKE_S)
    tree["routing"].update(router="complexity", threshold=threshold, strong_share=None, max_quality_drop=None)
    tree["log"]["access"] = False
    for name, (fewest, most) in BOUNDS.items():
        tree["pools"][name]["resources"]["num_cpus"] = 0.05
        tree["pools"][name]["replicas"] = {
            "min": fewest, "max": most, "policy": policy.removesuffix("_quick"),
            "concurrency": CONCURRENCY, "headroom": HEADROOM, "hold_s": HOLD_S, "idle_s": IDLE_S, "warm_up_s": 5.0,
            "target_ongoing_requests": TARGET_ONGOING,
            "upscale_delay_s": DELAYS_S[policy][0], "downscale_delay_s": DELAYS_S[policy][1],
        }  # fmt: skip
    return tree


def targets(rate: float, share: float) -> dict[str, int]:
    """The policy's target of each pool in the long run at this rate and share of hard queries."""
    loads = {"small": rate * (1 - share) * SERVICE_S, "large": rate * share * SERVICE_S}
    return {name: ceil(places(load, HEADROOM) / CONCURRENCY - 1e-9) for name, load in loads.items()}


async def ask(session: aiohttp.ClientSession, text: str, pool: str, at_s: float, started: float, seen: Seen) -> None:
    """One streamed answer, due at `at_s`, from the pool that is to be chosen."""
    body = {"model": "jethro", "messages": [{"role": "user", "content": text}], "max_tokens": TOKENS, "stream": True}
    first = last = float("nan")
    status = 599  # no answer at all
    with suppress(aiohttp.ClientError, TimeoutError):
        async with session.post("/v1/chat/completions", json=body) as reply:
            status = reply.status
            seen.misrouted += status == 200 and reply.headers.get("x-jethro-pool") != pool
            async for _ in reply.content.iter_any():
                last = perf_counter() - started
                first = last if first != first else first
    seen.statuses.append(status)
    gap_s, ok = PACE_MS / 1e3, status == 200
    nan = float("nan")
    times = (gap_s, last - first + gap_s, max(first - at_s - gap_s, 0.0)) if ok else (nan, nan, 0.0)
    seen.calls.append(PoolCall(at_s, pool, TOKENS, 0.0, *times))


async def watch(url: str, started: float, seen: Seen) -> None:
    """Note the replicas twice a second until cancelled."""
    async with aiohttp.ClientSession(url) as session:
        while True:
            now = await running(session)
            seen.at_s.append(perf_counter() - started)
            for name in POOLS:
                seen.replicas[name].append(now[name])
            await asyncio.sleep(0.5)


async def running(session: aiohttp.ClientSession) -> dict[str, int]:
    """Replicas that answer, by pool."""
    async with session.get("/health/ready") as reply:
        return {name: pool["replicas"] for name, pool in (await reply.json())["pools"].items()}


async def drive(url: str, args: argparse.Namespace, threshold: float, seen: Seen) -> None:
    """The step at a constant rate, in an open loop: requests do not wait for answers."""
    easy, hard = queries(threshold)
    rng = np.random.default_rng(args.seed)
    due = arrival_times_s(ceil(args.rate * (args.before_s + args.after_s)), args.rate, 1.0, args.seed)
    started = perf_counter()
    watching = asyncio.create_task(watch(url, started, seen))
    timeout = aiohttp.ClientTimeout(120)
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        requests = []
        for at_s in due:
            pool = "large" if rng.random() < SHARES[int(at_s >= args.before_s)] else "small"
            await asyncio.sleep(max(0.0, started + at_s - perf_counter()))
            text = next(hard if pool == "large" else easy)
            requests.append(asyncio.create_task(ask(session, text, pool, float(at_s), started, seen)))
        await asyncio.gather(*requests)
    watching.cancel()


async def sleep_and_wake(url: str, threshold: float) -> dict[str, Any]:
    """Without traffic until the large pool has no replica, then one hard query."""
    hard, seen, started = queries(threshold)[1], Seen(), perf_counter()
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(_WAKE_S + 60)) as session:
        async with asyncio.timeout(_SLEEP_S):
            while (await running(session))["large"] > 0:  # noqa: ASYNC110 - another process has no event to wait for
                await asyncio.sleep(0.5)
        slept_s, started = perf_counter() - started, perf_counter()
        await ask(session, next(hard), "large", 0.0, started, seen)
    woken = {"status": seen.statuses[0], "seconds": perf_counter() - started, "answered_by_large": not seen.misrouted}
    return {"seconds_to_zero": slept_s, "first_hard_query": woken}


def reached_s(seen: Seen, pool: str, goal: int, step_s: float) -> float | None:
    """Seconds from the step until the pool has the policy's target; None if it never came so far.

    Up: the first time that so many run. Down: the first time that no more do; None if fewer ran at the step already.
    """
    counts, times = np.array(seen.replicas[pool]), np.array(seen.at_s)
    if pool == "small" and counts[times < step_s][-1] <= goal:
        return None
    there = counts >= goal if pool == "large" else counts <= goal
    later = np.flatnonzero(there & (times >= step_s))
    return float(times[later[0]] - step_s) if len(later) else None


def figures(seen: Seen, args: argparse.Namespace) -> dict[str, Any]:
    """What is to be compared of a run."""
    after = targets(args.rate, SHARES[1])
    hard = [c.waited_s for c in seen.calls if c.pool == "large" and c.at_s >= args.before_s and c.service_s > 0]
    return {
        "requests": len(seen.statuses),
        "failed_5xx": sum(status >= 500 for status in seen.statuses),
        "refused_429": seen.statuses.count(429),
        "answered_by_another_pool": seen.misrouted,
        **{f"seconds_to_target_{pool}": reached_s(seen, pool, after[pool], args.before_s) for pool in POOLS},
        "hard_queries_waited_p50_s": float(np.quantile(hard, 0.5)),
        "hard_queries_waited_p95_s": float(np.quantile(hard, 0.95)),
        "series": {"at_s": [round(t, 2) for t in seen.at_s], **seen.replicas},
    }


def one_policy(policy: str, args: argparse.Namespace) -> dict[str, Any]:
    """Start the application with a policy, drive it, and stop it."""
    port, store, threshold = free_port(), BUILD / f"scaling_{policy}.sqlite3", args.threshold
    for file in BUILD.glob(f"{store.name}*"):
        file.unlink()
    seen, url = Seen(), f"http://127.0.0.1:{port}"
    with application(config(policy, port, store, threshold), f"scaling_{policy}", _ENGINE):
        asyncio.run(drive(url, args, threshold, seen))
        found = figures(seen, args)
        if policy == "share":
            found |= asyncio.run(sleep_and_wake(url, threshold))
    series = {name: tuple(map(float, counts)) for name, counts in seen.replicas.items()}
    recording = Recording(tuple(seen.calls), tuple(seen.at_s), series, args.before_s + args.after_s)
    recording.save(args.out / f"scaling_live_{policy}.recording.json")
    return found


def passed(found: Mapping[str, Any]) -> bool:
    """No 5xx; both pools reach the policy's targets, and sooner than by requests in flight; sleep and waking work."""
    share, count = found["share"], found["in_flight"]
    late = [
        share[key] is None or (count[key] is not None and share[key] >= count[key])
        for key in (f"seconds_to_target_{pool}" for pool in POOLS)
    ]
    woken = share["first_hard_query"]
    return not any(late) and share["failed_5xx"] == 0 and woken["status"] == 200 and woken["answered_by_large"]


def table(found: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    share = found["share"]
    ran = [policy for policy in DELAYS_S if policy in found]
    others = [found[policy] for policy in ran[1:]]
    rows = [
        (name.replace("_", " "), *("not reached" if one.get(name, "") is None else one.get(name, "") for one in runs))
        for runs in [(share, *others)]
        for name, value in share.items()
        if not isinstance(value, dict)
    ]
    woken = share["first_hard_query"]
    rows += [(f"first hard query after zero: {name}", str(value), *[""] * len(others)) for name, value in woken.items()]
    for when, goal in zip(("before", "after"), found["targets"], strict=True):
        rows.append((f"targets {when} the step", str(goal), *[""] * len(others)))
    shown = markdown(("", *(LABELS[policy] for policy in ran)), rows)
    return f"{shown}\n{found['setting']}\n\n{one_line(found['environment'])}\n"


def plot(found: Mapping[str, Any], step_s: float, path: Path) -> None:
    """Replicas of both pools over time under both policies, and the policy's targets."""
    figure, axes = plots.new_figure(1, 8, 3, rows=len(POOLS), sharex=True)
    for axis, pool in zip(axes, POOLS, strict=True):
        for policy in (policy for policy in LABELS if policy in found):
            series, label = found[policy]["series"], LABELS[policy]
            axis.step(series["at_s"], series[pool], where="post", label=label)
        end_s = found["share"]["series"]["at_s"][-1]
        targets = [goal[pool] for goal in found["targets"]]
        axis.step([0, step_s, end_s], [targets[0], targets[1], targets[1]], "k:", where="post", label="target")
        axis.axvline(step_s, color="grey", linewidth=0.5)
        axis.set_ylabel(f"replicas of {pool}")
    axes[0].legend(fontsize=8)
    axes[-1].set_xlabel("seconds")
    plots.save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run both, write JSON, table, plot and recordings; 1 if the share policy is not what it should be."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.scaling_live", description=__doc__.splitlines()[0])
    p.add_argument("--rate", type=float, default=12.0, help="requests a second")
    p.add_argument("--before-s", type=float, default=60.0)
    p.add_argument("--after-s", type=float, default=50.0)
    p.add_argument("--threshold", type=float, default=0.5)
    p.add_argument("--policies", nargs="+", choices=tuple(DELAYS_S), default=tuple(DELAYS_S))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    stop_in_order_on_sigterm()
    args.out.mkdir(parents=True, exist_ok=True)
    setting = (
        f"{args.rate:g} requests/s (Poisson), {SERVICE_S:g} s of service each by the benchmarks' fake engine, "
        f"{CONCURRENCY} places a replica; hard share {SHARES[0]:.0%}, from {args.before_s:g} s on {SHARES[1]:.0%}; "
        f"Serve's rule: requests in flight, target {TARGET_ONGOING}, mean of 3 s, reports every second as for the "
        f"share policy; share policy: fewer after {HOLD_S:g} s, sleeps after {IDLE_S:g} s"
    )
    goals = [targets(args.rate, share) for share in SHARES]
    found: dict[str, Any] = {"environment": environment(), "setting": setting, "targets": goals}
    for policy in args.policies:
        found[policy] = one_policy(policy, args)
        print(policy, {k: v for k, v in found[policy].items() if k != "series"}, file=sys.stderr, flush=True)
    (args.out / "scaling_live.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "scaling_live.md").write_text(table(found), "utf-8")
    plot(found, args.before_s, args.out / "scaling_live.png")
    print(table(found))
    return 0 if passed(found) else 1


if __name__ == "__main__":
    sys.exit(main())
