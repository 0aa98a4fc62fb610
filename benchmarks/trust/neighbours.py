"""`python -m benchmarks.trust.neighbours`: two endpoints on one machine, whose processes are killed or stopped in turn.

Each has its own keys, threshold, models and decision log, so that every answer and every logged request shows whose it
is. Requests come with the endpoint's key, with the other's, and with none. Not one may be answered by the other
endpoint, and none without its key; an endpoint that is left alone answers all.
"""

import argparse
import asyncio
import contextlib
import itertools
import signal
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import aiohttp
import psutil

from benchmarks.process import ROOT, stop_in_order_on_sigterm
from benchmarks.script import prompt
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from benchmarks.trust.endpoint import Endpoint
from benchmarks.trust.remote import tree, upstream, url_of
from benchmarks.trust.results import FOLDER, write

ROLES = ("Gateway", "HAProxy", "front", "HAProxy manager", "proxy", "controller")
FAULT_S, STOP_S, EVERY_S = 20.0, 6.0, 12.5
"""Failures of an endpoint count as those of its fault for FAULT_S from its begin."""
THRESHOLDS = {"left": 0.3, "right": 0.7}
_KEYS = {name: f"key-of-the-{name}-one-{'x' * 16}" for name in THRESHOLDS}
_LIMIT_S = 30.0
_REFUSED = b"answers its own endpoint alone"

Key = Literal["own", "none", "other"]
_KINDS: tuple[Key, ...] = ("own", "own", "none", "own", "other")


@dataclass(slots=True)
class Fault:
    """What was done to one process of an endpoint."""

    at_s: float
    endpoint: str
    role: str
    how: str
    failed: int = 0
    """Requests of the endpoint with its key that were not answered within the time of the fault."""


@dataclass(slots=True)
class Seen:
    """What one endpoint's callers saw."""

    name: str
    sent: int = 0
    answered: int = 0
    """With its key, by it."""
    foreign: int = 0
    """Answers by the other endpoint, whatever the key."""
    without_key: int = 0
    """Answers to requests without a key."""
    with_other_key: int = 0
    """Answers to requests with the other endpoint's key."""
    reached_other: int = 0
    """Requests that the other endpoint's Gateway refused since they came by another way."""
    refusals: dict[str, int] = field(default_factory=dict)
    """Outcomes of requests without the right key."""
    failures: list[tuple[float, str]] = field(default_factory=list)
    """Of requests with its key: when they began, and what became of them."""
    outside_faults: list[tuple[float, str]] = field(default_factory=list)
    """Those that began at no time of a fault of its own."""
    logged: int = 0
    foreign_logged: int = 0
    """Requests in its decision log that were sent to the other endpoint."""


class Neighbour:
    """One endpoint, and its callers."""

    def __init__(self, name: str, url: str, checkout: Path, *, keyed: bool) -> None:
        server = {"keys": [{"name": name, "env": f"TRUST_KEY_{name.upper()}"}]} if keyed else {}
        self._kinds = _KINDS if keyed else ("own",)
        config = tree(url, model=name, threshold=THRESHOLDS[name], server=server, gateway={"replicas": 1})
        env = {f"TRUST_KEY_{n.upper()}": key for n, key in _KEYS.items()}
        self.endpoint = Endpoint(name, config, checkout=checkout, env=env)
        self.seen = Seen(name)

    async def load(self, session: aiohttp.ClientSession, per_second: float, began_s: float) -> None:
        """Requests at a fixed rate until cancelled, then until all of them are over."""
        running: set[asyncio.Task[None]] = set()
        try:
            for number in itertools.count():
                await asyncio.sleep(max(0.0, began_s + number / per_second - monotonic()))
                task = asyncio.create_task(self._ask(session, number, began_s))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            if running:
                await asyncio.wait(running)

    async def _ask(self, session: aiohttp.ClientSession, number: int, began_s: float) -> None:
        kind, at_s, name = self._kinds[number % len(self._kinds)], monotonic() - began_s, self.seen.name
        other = next(n for n in THRESHOLDS if n != name)
        key = {"own": _KEYS[name], "other": _KEYS[other], "none": None}[kind]
        headers = {"x-request-id": f"{name}-{number}"} | ({"authorization": f"Bearer {key}"} if key else {})
        body = {"model": "jethro", "messages": [{"role": "user", "content": prompt()}], "stream": number % 2 == 0}
        outcome, text = "no answer", b""
        url = f"{self.endpoint.url}/v1/chat/completions"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.post(url, json={**body, "max_tokens": 4}, headers=headers) as reply:
                outcome = str(reply.status)
                text = await reply.read()
                if reply.status == 200:
                    outcome = self._whose(reply.headers) if text.endswith((b"[DONE]\n\n", b"}")) else "cut"
        self._count(kind, at_s, outcome, text)

    def _whose(self, headers: Any) -> str:
        threshold, model = float(headers["x-jethro-threshold"]), headers["x-jethro-model"]
        own = abs(threshold - THRESHOLDS[self.seen.name]) < 0.01 and model.startswith(f"{self.seen.name}-")
        return "answered" if own else "foreign"

    def _count(self, kind: Key, at_s: float, outcome: str, text: bytes) -> None:
        seen = self.seen
        seen.sent += 1
        seen.foreign += outcome == "foreign"
        seen.reached_other += _REFUSED in text or (kind == "own" and outcome == "401")
        given = outcome in ("answered", "foreign", "cut")
        seen.without_key += kind == "none" and given
        seen.with_other_key += kind == "other" and given
        if kind != "own":
            seen.refusals[outcome] = seen.refusals.get(outcome, 0) + 1
        elif outcome == "answered":
            seen.answered += 1
        else:
            seen.failures.append((round(at_s, 2), outcome))

    def read_log(self) -> None:
        """Whose requests its decision log has."""
        with contextlib.closing(sqlite3.connect(self.endpoint.folder / "jethro.sqlite3")) as database:
            ids = [row[0] for row in database.execute("SELECT request_id FROM decisions")]
        other = next(n for n in THRESHOLDS if n != self.seen.name)
        self.seen.logged = len(ids)
        self.seen.foreign_logged = sum(i.startswith(f"{other}-") for i in ids)


def faults() -> Iterator[tuple[str, str, str]]:
    """Endpoint, role and kind, in turn for ever."""
    kinds = [(role, how) for how in ("killed", "stopped") for role in ROLES]
    yield from ((name, role, how) for role, how in itertools.cycle(kinds) for name in THRESHOLDS)


async def disturb(pair: dict[str, Neighbour], duration_s: float, every_s: float, began_s: float) -> list[Fault]:
    """A fault every so often, the last one early enough for its end to be seen."""
    done: list[Fault] = []
    for at_s, (name, role, how) in zip(itertools.count(every_s, every_s), faults(), strict=False):
        if at_s + FAULT_S > duration_s:
            break
        await asyncio.sleep(max(0.0, began_s + at_s - monotonic()))
        found = await asyncio.to_thread(pair[name].endpoint.of, role)
        if not found:
            continue
        fault = Fault(round(monotonic() - began_s, 1), name, role, how)
        print(f"{fault.at_s:.0f} s: {role} of {name} {how}", file=sys.stderr, flush=True)
        with contextlib.suppress(psutil.NoSuchProcess):
            found[-1].send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            done.append(fault)
            if how == "stopped":
                await asyncio.sleep(STOP_S)
                found[-1].send_signal(signal.SIGCONT)
    await asyncio.sleep(max(0.0, began_s + duration_s - monotonic()))
    return done


async def measure(pair: dict[str, Neighbour], args: argparse.Namespace) -> list[Fault]:
    """Load on both, faults on each in turn."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # each request chooses its way anew
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(_LIMIT_S)) as session:
        began_s = monotonic()
        loads = [asyncio.create_task(n.load(session, args.rate, began_s)) for n in pair.values()]
        done = await disturb(pair, args.duration, args.every, began_s)
        for load in loads:
            load.cancel()
        await asyncio.wait(loads)
    for neighbour in pair.values():
        own = [fault for fault in done if fault.endpoint == neighbour.seen.name]
        for failure in neighbour.seen.failures:
            # those that began a moment before are open when the fault comes
            within = [f for f in own if f.at_s - 1 <= failure[0] <= f.at_s + FAULT_S]
            if within:
                within[-1].failed += 1
            else:
                neighbour.seen.outside_faults.append(failure)
    return done


def marks(found: dict[str, Any]) -> dict[str, bool]:
    """What has to hold."""
    seen = found["endpoints"]
    return {
        "no answer by the other endpoint": all(s["foreign"] == 0 for s in seen),
        "no answer without a key": all(s["without_key"] == 0 for s in seen),
        "no answer with the other endpoint's key": all(s["with_other_key"] == 0 for s in seen),
        "no request reached the other endpoint": all(s["reached_other"] == s["foreign_logged"] == 0 for s in seen),
        "an endpoint with no fault of its own answers all": all(not s["outside_faults"] for s in seen),
        "both endpoints outlive every fault": all(status is None for status in found["ended"].values()),
        "both were called, and their processes hit": all(s["answered"] > 0 for s in seen) and bool(found["faults"]),
    }


def table(found: dict[str, Any]) -> str:
    """All as markdown."""
    head = ["endpoint", "requests", "answered with its key", "by the other", "without a key", "with the other's key"]
    head += ["reached the other", "logged", "logged by the other's callers", "failed", "of these outside its faults"]
    rows = [
        [s["name"], s["sent"], s["answered"], s["foreign"], s["without_key"], s["with_other_key"], s["reached_other"],
         s["logged"], s["foreign_logged"], len(s["failures"]), len(s["outside_faults"])]
        for s in found["endpoints"]
    ]  # fmt: skip
    kinds: dict[tuple[str, str], list[int]] = {}
    for fault in found["faults"]:
        kinds.setdefault((fault["role"], fault["how"]), []).append(fault["failed"])
    failed = [[role, how, len(each), max(each)] for (role, how), each in kinds.items()]
    return "\n\n".join(
        [
            "# Two endpoints on one machine",
            f"{found['setting']} {one_line(found['environment'])}",
            markdown(head, rows).rstrip(),
            markdown(["process", "", "times", f"most requests failed within {FAULT_S:g} s"], failed).rstrip(),
            "\n".join(f"- {text}: {'yes' if ok else 'NO'}" for text, ok in found["marks"].items()) + "\n",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write JSON and markdown; 1 if a mark does not hold."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.trust.neighbours", description=__doc__.splitlines()[0])
    p.add_argument("--checkout", type=Path, default=ROOT, help="the checkout that serves")
    p.add_argument("--duration", type=float, default=600.0, help="seconds")
    p.add_argument("--every", type=float, default=EVERY_S, help="seconds from one fault to the next")
    p.add_argument("--open", action="store_true", help="the left endpoint requires no key")
    p.add_argument("--rate", type=float, default=5.0, help="requests a second to each endpoint")
    p.add_argument("--out", type=Path, default=FOLDER)
    args = p.parse_args(argv)
    stop_in_order_on_sigterm()
    setting = (
        f"{args.duration:g} s, {args.rate:g} requests a second to each (streams and whole answers; one in five without "
        f"a key, one with the other's), one Gateway each; a process killed, or stopped for {STOP_S:g} s, each "
        f"{args.every:g} s.{' The left endpoint requires no key.' if args.open else ''}"
    )
    name = "trust_neighbours_open" if args.open else "trust_neighbours"
    found: dict[str, Any] = {"benchmark": name, "environment": environment(), "setting": setting}
    with upstream("trust_neighbours_upstream") as server, contextlib.ExitStack() as stack:
        pair = {
            n: Neighbour(n, url_of(server), args.checkout.resolve(), keyed=not args.open or n != "left")
            for n in THRESHOLDS
        }
        for neighbour in pair.values():
            stack.enter_context(neighbour.endpoint)
        found["faults"] = [asdict(fault) for fault in asyncio.run(measure(pair, args))]
        found["ended"] = {n: each.endpoint.process.poll() for n, each in pair.items()}
    for neighbour in pair.values():
        neighbour.read_log()
    found["endpoints"] = [asdict(n.seen) for n in pair.values()]
    found["marks"] = marks(found)
    write(args.out, name, found, table(found))
    return 0 if all(found["marks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
