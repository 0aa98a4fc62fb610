"""`python -m benchmarks.hot_swap`: a hundred versions of a router taken into service under load, over HTTP.

Starts the lab profile with a registry of its own, keeps 32 requests open at once (every other one a stream), and
meanwhile has `Registry.use` choose between two versions, and once a broken one. No request may fail, and every
decision must name a version that existed and be in the decision log under the same name.
"""

import argparse
import asyncio
import json
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp

from benchmarks.application import application, profile
from benchmarks.process import BUILD, free_port
from benchmarks.stamp import environment, one_line
from benchmarks.stats import percentile
from benchmarks.table import markdown
from serve_app.data.collection.lab import unseen_queries
from serve_app.decision.threshold import Threshold
from serve_app.routing.kinds.complexity.router import ComplexityRouter
from serve_app.routing.registry import Registry

NAME = "swapped"
RELOAD_S = 0.05
_PATIENCE_S = 60.0
"""Longest wait for one swap to be seen."""


@dataclass(slots=True)
class Seen:
    """What the callers saw: seconds of each answer, decision id to policy version, and whatever went wrong."""

    seconds: list[float] = field(default_factory=list)
    decided: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def two_versions(registry: Registry) -> list[str]:
    """The shipped router, and the same with all scores shifted by half a log-odd; the first one serves."""
    shipped = registry.load("complexity")
    calibration, models = shipped.calibration, shipped.models
    assert calibration is not None and models is not None and isinstance(shipped.router, ComplexityRouter)
    versions = []
    for _ in range(2):
        threshold = Threshold.for_share(calibration, 0.4)
        versions.append(
            registry.register(
                shipped.router,
                name=NAME,
                calibration=calibration,
                threshold=threshold,
                models=models,
                data=shipped.card["data"],
                metrics=shipped.card["metrics"],
                use=not versions,
            )
        )
        shipped.router.bias_ += 0.5
    return versions


def broken_version(registry: Registry, version: str) -> str:
    """A copy of a version whose weights are cut in the middle."""
    folder = registry.path(NAME, version)
    name = f"{version}-cut"
    shutil.copytree(folder, folder.with_name(name))
    card = json.loads((folder / "card.json").read_text("utf-8"))
    (folder.with_name(name) / "card.json").write_text(json.dumps({**card, "version": name}), "utf-8")
    weights = folder.with_name(name) / "router.json"
    weights.write_bytes(weights.read_bytes()[:5000])
    return name


async def callers(url: str, concurrency: int, over: asyncio.Event, seen: Seen) -> None:
    """Ask one query after another from so many callers until it is over."""
    prompts = cycle([item.prompt for item in unseen_queries(500, 0, "measure")])
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:

        async def one(stream: bool) -> None:
            while not over.is_set():
                body = {"model": "jethro", "messages": [{"role": "user", "content": next(prompts)}], "stream": stream}
                await ask(session, {**body, "temperature": 0, "max_tokens": 32}, seen)

        await asyncio.gather(*(one(bool(i % 2)) for i in range(concurrency)))


async def ask(session: aiohttp.ClientSession, body: dict[str, Any], seen: Seen) -> None:
    """One request; its answer must be whole and its header and body must name the same policy."""
    started = perf_counter()
    try:
        async with session.post("/v1/chat/completions", json=body) as reply:
            text = await reply.text()
            version = reply.headers.get("x-jethro-policy", "")
            whole = text.rstrip().endswith("data: [DONE]") if body["stream"] else text.endswith("}")
            if reply.status != 200 or not whole or f'"policy_version":"{version}"' not in text or not version:
                seen.failures.append(f"{reply.status}: {text[-300:]}")
                return
            seen.decided[reply.headers["x-jethro-decision-id"]] = version
    except (aiohttp.ClientError, TimeoutError) as e:
        seen.failures.append(f"{type(e).__name__}: {e}")
    seen.seconds.append(perf_counter() - started)


async def swaps(url: str, registry: Registry, versions: Sequence[str], count: int, dwell_s: float) -> dict[str, Any]:
    """Choose the versions in turn, wait until the endpoint serves each, and once choose a broken one."""
    broken = broken_version(registry, versions[0])
    waits: list[float] = []
    async with aiohttp.ClientSession(url) as session:
        for turn in range(1, count + 1):
            if turn == count // 2:
                registry.use(NAME, broken)
                await until(session, lambda router: router["refused"] is not None)
            version = versions[turn % 2]
            registry.use(NAME, version)
            started = perf_counter()
            await until(session, lambda router, v=version: router["version"] == v and router["refused"] is None)
            waits.append(perf_counter() - started)
            await asyncio.sleep(dwell_s)
        served = await routers(session)
    return {
        "swaps": served[NAME]["swaps"],
        "refusals": served[NAME]["refusals"],
        "seconds_to_serve_p50": percentile(waits, 50),
        "seconds_to_serve_max": max(waits),
    }


async def until(session: aiohttp.ClientSession, served: Any) -> None:
    """Until the router, as the endpoint lists it, is as requested. Raises TimeoutError."""
    async with asyncio.timeout(_PATIENCE_S):
        while not served((await routers(session))[NAME]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # another process has no event to wait for


async def routers(session: aiohttp.ClientSession) -> dict[str, Any]:
    """All routers as the endpoint lists them, by name."""
    async with session.get("/v1/routers") as reply:
        return {router["id"]: router for router in (await reply.json())["data"]}


async def run(url: str, registry: Registry, versions: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """First a while without swaps, then the swaps, under the same load."""
    steady, swapping = Seen(), Seen()
    for seen in (steady, swapping):
        over = asyncio.Event()
        calling = asyncio.create_task(callers(url, args.concurrency, over, seen))
        started = perf_counter()
        if seen is steady:
            await asyncio.sleep(args.steady_s)
        else:
            swapped = await swaps(url, registry, versions, args.swaps, args.dwell_s)
        over.set()
        await calling
        print(f"{len(seen.seconds):,} answers in {perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return {"steady": steady, "swapping": swapping, **swapped}


def figures(found: dict[str, Any], versions: Sequence[str], store: Path) -> dict[str, Any]:
    """Counts and latencies, and what the decision log says of the same decisions."""
    steady, swapping = found.pop("steady"), found.pop("swapping")
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as log:
        logged = dict(log.execute("SELECT decision_id, policy_version FROM decisions").fetchall())
    decided = {**steady.decided, **swapping.decided}
    by_version = Counter(policy.partition("@")[0] for policy in swapping.decided.values())
    phases = {"steady": steady, "swapping": swapping}
    return {
        **found,
        "requests": sum(len(s.seconds) + len(s.failures) for s in phases.values()),
        "failed": sum(len(s.failures) for s in phases.values()),
        "first_failures": [*steady.failures, *swapping.failures][:5],
        "decisions_by_version": dict(by_version),
        "decisions_of_unknown_version": sum(n for v, n in by_version.items() if v not in versions),
        "decisions_not_logged": sum(logged.get(i) is None for i in decided),
        "decisions_logged_otherwise": sum(logged.get(i, policy) != policy for i, policy in decided.items()),
        "latency_ms": {name: {f"p{p}": 1e3 * percentile(s.seconds, p) for p in (50, 99)} for name, s in phases.items()},
    }


def passed(found: dict[str, Any]) -> bool:
    """Whether no request was lost and every decision named its version."""
    wrong = ("failed", "decisions_of_unknown_version", "decisions_not_logged", "decisions_logged_otherwise")
    both = len(found["decisions_by_version"]) == 2
    return both and found["refusals"] > 0 and not any(found[name] for name in wrong)


def table(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = [(name.replace("_", " "), found[name]) for name in found if isinstance(found[name], int | float)]
    for phase, at in found["latency_ms"].items():
        rows += [(f"latency {p}, {phase}, ms", value) for p, value in at.items()]
    rows += [(f"decisions of {version}", n) for version, n in found["decisions_by_version"].items()]
    return f"{markdown(('', 'value'), rows)}\n{one_line(found['environment'])}\n"


def main(argv: list[str] | None = None) -> int:
    """Run, write JSON and table; 1 if anything was lost."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.hot_swap", description=__doc__.splitlines()[0])
    p.add_argument("--swaps", type=int, default=100)
    p.add_argument("--concurrency", type=int, default=32)
    p.add_argument("--dwell-s", type=float, default=0.1, help="pause after each swap was seen")
    p.add_argument("--steady-s", type=float, default=15.0, help="load without swaps, for comparison")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    stamp = environment()
    folder, store = BUILD / "hot_swap_routers", BUILD / "hot_swap.sqlite3"
    shutil.rmtree(folder, ignore_errors=True)
    for file in BUILD.glob(f"{store.name}*"):
        file.unlink()
    registry, port = Registry(folder), free_port()
    versions = two_versions(registry)
    config = profile(port, store)
    config["routing"].update(registry=str(folder), router=NAME, reload_s=RELOAD_S)
    with application(config, "hot_swap"):
        found = asyncio.run(run(f"http://127.0.0.1:{port}", registry, versions, args))
    found = {"environment": stamp, **figures(found, versions, store)}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "hot_swap.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "hot_swap.md").write_text(table(found), "utf-8")
    print(table(found))
    return 0 if passed(found) else 1


if __name__ == "__main__":
    sys.exit(main())
