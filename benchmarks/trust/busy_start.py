"""`python -m benchmarks.trust.busy_start`: starts of an endpoint on a machine that is busy with other programs.

So many processes that only compute run alongside; or a process that Ray waits for is held up, as a machine with too
much to do may. Each start must succeed, or end in one sentence that names the logs.
It loads the whole machine: nothing else can be measured meanwhile.
"""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from benchmarks.process import ROOT, stop_in_order_on_sigterm
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from benchmarks.trust.endpoint import Endpoint
from benchmarks.trust.remote import tree, upstream, url_of
from benchmarks.trust.results import FOLDER, write

LOADS, STARTS, LIMIT_S = (24, 48), 2, 300.0
HELD = {"runtime environment agent": "runtime_env/agent/main.py"}
"""A process that the raylet waits for, by a part of its first command line."""
HELD_S = 150.0
"""Longer than a start waits for it: 120 s."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start. `niceness` is the Gateway's, None without one; `end` is the last line of a start that failed."""

    load: int
    held: str
    """The process that was stopped for HELD_S as soon as it was there; empty for none."""
    ready: bool
    seconds: float
    status: int | None
    traceback: bool
    attempts: int
    niceness: int | None
    end: str


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that compute, at the niceness of this one."""
    running = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def hold(served: Endpoint, held: str) -> None:
    """Stop the process for a while when it appears."""
    found: list[psutil.Process] = []
    while not found and served.process.poll() is None:
        sleep(0.05)
        for _, process in served.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if HELD[held] in " ".join(process.cmdline()):
                    found.append(process)
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        found[0].suspend()
        sleep(HELD_S)
        found[0].resume()


def start(url: str, checkout: Path, load: int, held: str, limit_s: float) -> Start:
    """Start one and stop it again; the load of others continues meanwhile."""
    served = Endpoint("busy", tree(url, gateway={"replicas": 1}), checkout=checkout)
    with busy(load):
        began_s = monotonic()
        served.start()
        if held:
            hold(served, held)
        ready = False
        with contextlib.suppress(RuntimeError):
            served.wait_ready(limit_s)
            ready = True
        seconds = monotonic() - began_s
        status = served.process.poll()
        gateways = served.of("Gateway") if ready else []
        niceness = int(gateways[-1].nice()) if gateways else None
    served.end(120)
    text = served.tail(100_000)
    end = "" if ready else text.rstrip().rpartition("\n")[2]
    return Start(
        load,
        held,
        ready,
        round(seconds, 1),
        status,
        "Traceback" in text,
        1 + text.count("trying once more"),
        niceness,
        end,
    )


def marks(found: Sequence[Start]) -> dict[str, bool]:
    """What has to hold."""
    failed = [f for f in found if not f.ready]
    return {
        "every start succeeds": not failed,
        "no traceback": not any(f.traceback for f in found),
        "one that fails ends with a status and names the logs": all(f.status and "logs" in f.end for f in failed),
        "Gateways run at niceness 0": all(f.niceness == 0 for f in found if f.ready),
    }


def table(found: dict[str, Any]) -> str:
    """All as markdown."""
    rows = []
    for case in dict.fromkeys(map(_case, found["starts"])):
        starts = [s for s in found["starts"] if _case(s) == case]
        ready = sorted(s["seconds"] for s in starts if s["ready"])
        shown = f"{ready[0]:.0f} to {ready[-1]:.0f}" if ready else "–"
        again = sum(s["attempts"] > 1 for s in starts)
        rows.append([case, len(starts), len(ready), shown, again, sum(s["traceback"] for s in starts)])
    head = ["", "starts", "ready", "after, s", "in a second attempt", "with a traceback"]
    ends = [f"- {_case(s)}, exit status {s['status']}: {s['end']}" for s in found["starts"] if not s["ready"]]
    return "\n\n".join(
        [
            "# Starts on a busy machine",
            one_line(found["environment"]),
            markdown(head, rows).rstrip(),
            *(["How the others ended:\n\n" + "\n".join(ends)] if ends else []),
            "\n".join(f"- {text}: {'yes' if ok else 'NO'}" for text, ok in found["marks"].items()) + "\n",
        ]
    )


def _case(start: dict[str, Any]) -> str:
    return f"{start['held']} held for {HELD_S:g} s" if start["held"] else f"{start['load']} busy processes alongside"


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write JSON and markdown; 1 if a mark does not hold."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.trust.busy_start", description=__doc__.splitlines()[0])
    p.add_argument("--checkout", type=Path, default=ROOT, help="the checkout that serves")
    p.add_argument("--loads", type=int, nargs="*", default=LOADS, help="busy processes alongside")
    p.add_argument("--starts", type=int, default=STARTS, help="at each load")
    p.add_argument("--limit", type=float, default=LIMIT_S, help="seconds; a start that takes longer has failed")
    p.add_argument("--out", type=Path, default=FOLDER)
    args = p.parse_args(argv)
    stop_in_order_on_sigterm()
    found: dict[str, Any] = {"benchmark": "trust_busy_start", "environment": environment()}
    starts = []
    with upstream("trust_busy_upstream") as server:
        cases = [(load, "") for load in args.loads for _ in range(args.starts)]
        for load, held in [*cases, *((0, held) for held in HELD)]:
            starts.append(start(url_of(server), args.checkout.resolve(), load, held, args.limit))
            print(starts[-1], file=sys.stderr, flush=True)
    found |= {"starts": [asdict(s) for s in starts], "marks": marks(starts)}
    write(args.out, "trust_busy_start", found, table(found))
    return 0 if all(found["marks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
