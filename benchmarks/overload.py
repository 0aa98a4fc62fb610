"""`python -m benchmarks.overload`: the real application at three times what it can bear, and a large pool that is full.

The fake engine answers with a known time of service, so the most that the pools can answer is known. First 3 x that
for `--seconds`: answers a second, what refusals say, what memory does. Then demand for the large pool alone is twice as
often as it can answer, with capacity in the decision and without: refusals by its replicas (the small pool then answers
by fallback), waits, and what quality is to be expected of the pool that answered.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np

from benchmarks.application import GATEWAY, LARGE, SMALL, application, profile, replicas
from benchmarks.arrivals import arrival_times_s
from benchmarks.fake_engine import FakeEngine
from benchmarks.process import BUILD, free_port, stop_in_order_on_sigterm
from benchmarks.scaling_live import PACE_MS, queries
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.decision.threshold import ExpectedOutcome
from serve_app.engines.local_pool import LocalPool
from serve_app.routing.registry import load_router

TOKENS = 16
SERVICE_S = PACE_MS * TOKENS / 1e3
PLACES = {"small": 4, "large": 2}
QUEUES = {"small": 8, "large": 4}
MOST_PER_S = {name: places / SERVICE_S for name, places in PLACES.items()}
THRESHOLD, SLO_S = 0.5, 10.0
CAPACITY = {"enabled": True, "from_utilisation": 0.7, "to_utilisation": 1.4, "max_threshold_shift": 0.49}
_ENGINE = "benchmarks.fake_engine:build"


@dataclass(slots=True)
class Seen:
    """What the callers saw, and the resident memory of Gateway and replicas over time."""

    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0
    in_time: list[float] = field(default_factory=list)
    """When answers came that were in time, seconds from the start."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"small": [], "large": []})
    answered: list[tuple[float, str]] = field(default_factory=list)
    moved: int = 0
    fallbacks: int = 0
    memory_mib: list[float] = field(default_factory=list)


def config(port: int, capacity: bool) -> dict[str, Any]:
    """The lab profile with one replica a pool and short queues."""
    store = BUILD / "overload.sqlite3"
    for file in BUILD.glob(f"{store.name}*"):
        file.unlink()
    tree = profile(port, store)
    tree["routing"].update(router="complexity", threshold=THRESHOLD, strong_share=None, max_quality_drop=None)
    tree["routing"]["capacity"] = {**CAPACITY, "enabled": capacity}
    tree["log"]["access"] = False
    for name in PLACES:
        tree["pools"][name].update(
            replicas={"min": 1, "max": 1}, max_ongoing_requests=PLACES[name], max_queued_requests=QUEUES[name]
        )
        tree["pools"][name]["resources"]["num_cpus"] = 0.05
    return tree


async def ask(session: aiohttp.ClientSession, text: str, began: float, seen: Seen) -> None:
    """One request; refusals must say when to come again."""
    body = {"model": "jethro", "messages": [{"role": "user", "content": text}], "max_tokens": TOKENS}
    started = perf_counter()
    status = 599  # no answer at all
    with suppress(aiohttp.ClientError, TimeoutError):
        async with session.post("/v1/chat/completions", json=body) as reply:
            status, reply_body = reply.status, await reply.json()
            if status in (429, 503):
                seen.without_retry_after += int(reply.headers.get("retry-after", "0")) < 1
            if status == 200:
                decided, took_s = reply_body["jethro"], perf_counter() - started
                seen.in_time += [perf_counter() - began] if took_s <= SLO_S else []
                seen.seconds[decided["pool"]].append(took_s)
                seen.answered.append((decided["score"], decided["pool"]))
                seen.fallbacks += "; fallback to" in decided["reason"]
                seen.moved += "is full" in decided["reason"]
    seen.statuses[status] += 1


async def remember(seen: Seen) -> None:
    """Note the memory of Gateway and replicas, MiB, once a second until cancelled."""
    processes = [p for name in (GATEWAY, SMALL, LARGE) for p in replicas(name)]
    while True:
        seen.memory_mib.append(sum(p.memory_info().rss for p in processes) / 2**20)
        await asyncio.sleep(1.0)


async def drive(url: str, rate: float, hard_share: float, seconds: float, seed: int) -> Seen:
    """Poisson arrivals in an open loop, until the last one is answered."""
    easy, hard = queries(THRESHOLD)
    rng, seen = np.random.default_rng(seed), Seen()
    remembering = asyncio.create_task(remember(seen))
    connections = aiohttp.TCPConnector(limit=0)
    started = perf_counter()
    async with aiohttp.ClientSession(url, connector=connections, timeout=aiohttp.ClientTimeout(60)) as session:
        requests = []
        for at_s in arrival_times_s(int(rate * seconds), rate, 1.0, seed):
            await asyncio.sleep(max(0.0, started + at_s - perf_counter()))
            text = next(hard if rng.random() < hard_share else easy)
            requests.append(asyncio.create_task(ask(session, text, started, seen)))
        await asyncio.gather(*requests)
    remembering.cancel()
    return seen


def growth(memory_mib: Sequence[float]) -> float:
    """Growth of memory from the second fifth of the run to the last, as a share."""
    fifth = max(1, len(memory_mib) // 5)
    return float(np.mean(memory_mib[-fifth:]) / np.mean(memory_mib[fifth : 2 * fifth]) - 1)


def storm(seen: Seen, seconds: float, rate: float) -> dict[str, Any]:
    """Figures of the run at three times the most; goodput is that of the `seconds` in which requests came."""
    most = sum(MOST_PER_S.values())
    goodput = sum(at_s <= seconds for at_s in seen.in_time) / seconds
    refused = seen.statuses[429] + seen.statuses[503]
    return {
        "offered_per_s": rate,
        "most_per_s": most,
        "goodput_per_s": goodput,
        "goodput_of_most": goodput / most,
        "seconds": seconds,
        "statuses": dict(sorted(seen.statuses.items())),
        "refused": refused,
        "refused_without_retry_after": seen.without_retry_after,
        "slowest_answer_s": max(max(times, default=0.0) for times in seen.seconds.values()),
        "memory_mib": [round(m, 1) for m in (seen.memory_mib[0], max(seen.memory_mib), seen.memory_mib[-1])],
        "memory_growth": growth(seen.memory_mib),
    }


def relief(seen: Seen, outcome: ExpectedOutcome) -> dict[str, Any]:
    """Figures of a run in which only the large pool is short."""
    quality = [outcome.at(score)[pool]["quality"] for score, pool in seen.answered]
    with_room = [outcome.at(score)["large" if score >= THRESHOLD else "small"]["quality"] for score, _ in seen.answered]
    return {
        "statuses": dict(sorted(seen.statuses.items())),
        "refused_by_large_replicas": seen.fallbacks + seen.statuses[429],
        "redirected_by_capacity": seen.moved,
        "answered_by_large": len(seen.seconds["large"]),
        "large_p50_s": float(np.quantile(seen.seconds["large"], 0.5)),
        "large_p95_s": float(np.quantile(seen.seconds["large"], 0.95)),
        "expected_quality": float(np.mean(quality)),
        "expected_quality_with_room": float(np.mean(with_room)),
    }


def known_outcome() -> ExpectedOutcome:
    """What the router's calibration data let expect of both pools."""
    weak, strong = (LocalPool(name, FakeEngine(name)) for name in PLACES)
    calibration = load_router("complexity", seed=0).calibration
    assert calibration is not None
    return ExpectedOutcome(calibration, weak, strong)


async def run(url: str, capacity: bool, args: argparse.Namespace) -> dict[str, Any]:
    """The storm, once; and the full large pool."""
    found: dict[str, Any] = {}
    if capacity:
        rate = 3 * sum(MOST_PER_S.values())
        found["storm"] = storm(await drive(url, rate, 0.6, args.seconds, args.seed), args.seconds, rate)
        await asyncio.sleep(3.0)
    share = 0.75
    rate = 2 * MOST_PER_S["large"] / share
    seen = await drive(url, rate, share, args.relief_seconds, args.seed + 1)
    found["relief"] = relief(seen, known_outcome())
    return found


def passed(found: Mapping[str, Any]) -> bool:
    """Goodput, Retry-After, no other statuses, flat memory; and 30 % fewer refusals with capacity in the decision."""
    s, on, off = found["storm"], found["capacity_on"], found["capacity_off"]
    sound = set(s["statuses"]) <= {200, 429, 503} and s["refused_without_retry_after"] == 0
    fewer = on["refused_by_large_replicas"] <= 0.7 * off["refused_by_large_replicas"]
    return sound and s["goodput_of_most"] >= 0.9 and s["memory_growth"] < 0.05 and fewer


def table(found: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    rows = [(name.replace("_", " "), str(value) if isinstance(value, dict | list) else value)
            for name, value in found["storm"].items()]  # fmt: skip
    on, off = found["capacity_on"], found["capacity_off"]
    compared = [(name.replace("_", " "), str(off[name]) if isinstance(off[name], dict) else off[name],
                 str(on[name]) if isinstance(on[name], dict) else on[name]) for name in on]  # fmt: skip
    return (
        f"Three times what the pools can answer:\n\n{markdown(('', 'value'), rows)}\n"
        f"Demand for the large pool is twice what it can answer, the small one has room:\n\n"
        f"{markdown(('', 'capacity off', 'capacity in the decision'), compared)}\n"
        f"{found['setting']}\n\n{one_line(found['environment'])}\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write JSON and table; 1 if anything is not as it should be."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__.splitlines()[0])
    p.add_argument("--seconds", type=float, default=300.0, help="of the run at three times the most")
    p.add_argument("--relief-seconds", type=float, default=60.0, help="of each run with a full large pool")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    stop_in_order_on_sigterm()
    setting = (
        f"one replica a pool, places {PLACES}, queues {QUEUES}, {SERVICE_S:g} s of service by the benchmarks' fake "
        f"engine; capacity: {CAPACITY}; quality is what the router's calibration data let expect"
    )
    found: dict[str, Any] = {"environment": environment(), "setting": setting}
    for capacity in (True, False):
        port = free_port()
        with application(config(port, capacity), f"overload_{capacity}", _ENGINE):
            measured = asyncio.run(run(f"http://127.0.0.1:{port}", capacity, args))
        found |= {"storm": measured["storm"]} if capacity else {}
        found["capacity_on" if capacity else "capacity_off"] = measured["relief"]
        print(measured, file=sys.stderr, flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "overload.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "overload.md").write_text(table(found), "utf-8")
    print(table(found))
    return 0 if passed(found) else 1


if __name__ == "__main__":
    sys.exit(main())
