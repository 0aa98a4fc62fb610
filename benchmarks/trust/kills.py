"""`python -m benchmarks.trust.kills`: what callers see while a process of an endpoint is killed, or stopped for 20 s.

Two Gateways, two replicas of the small pool, streams and whole answers in turn. `--checkout` serves from another
checkout, `--label before` puts its rows next to these in the table.
"""

import argparse
import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import psutil

from benchmarks.process import ROOT
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from benchmarks.trust.endpoint import Endpoint
from benchmarks.trust.results import FOLDER, write
from benchmarks.trust.traffic import Sent, Traffic, longest_lie_s, longest_outage_s

ROLES = (
    *("Gateway", "small replica", "HAProxy", "front", "front's stem", "HAProxy manager", "proxy", "controller"),
    *("Learner", "raylet", "gcs"),
)
FAULTS = [(role, how) for role in ROLES for how in ("kill", "stop")]
FATAL = ("raylet", "gcs")
"""Without these the endpoint cannot continue: it has to end, and say so."""
SPARED = ("HAProxy",)
"""There is one: what it held goes with it."""
STOP_S = 20.0
_MODEL = "jlab-small"
_BEFORE_S = 3.0
_AFTER_S = 12.0
_EXIT_S = 40.0


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.trust.kills", description=__doc__)
    p.add_argument("--checkout", type=Path, default=ROOT, help="serve from this checkout")
    p.add_argument("--label", default="after", help="of the rows in the results file")
    p.add_argument("--rate", type=float, default=20.0, help="requests a second")
    p.add_argument("--only", nargs="*", default=[], help="roles, such as Gateway")
    p.add_argument("--out", type=Path, default=FOLDER)
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all faults, write JSON and markdown; 1 if a mark does not hold."""
    args = arguments(argv)
    stamp = environment()
    rows = list(_rows(args))
    file = args.out / "trust_kills.json"
    found = orjson.loads(file.read_bytes()) if file.exists() else {}
    known = {(r["role"], r["how"]): r for r in found.get(args.label, {}).get("rows", [])}
    known |= {(r["role"], r["how"]): r for r in rows}
    ordered = [known[fault] for fault in FAULTS if fault in known]
    found[args.label] = {"environment": stamp, "rate": args.rate, "rows": ordered}
    write(args.out, "trust_kills", found, table(found))
    return 0 if not any(broken(row) for row in rows) else 1


def _tree() -> dict[str, Any]:
    from serve_app.config import load

    tree = load("lab", env={}).model_dump(mode="json", exclude_unset=True)
    tree["gateway"] = tree.get("gateway", {}) | {"replicas": 2}
    tree["pools"]["small"]["replicas"] = {"min": 2, "max": 2}
    return tree


def _rows(args: argparse.Namespace) -> Any:
    faults = [(role, how) for role, how in FAULTS if not args.only or role in args.only]
    while faults:
        with Endpoint("kills", _tree(), checkout=args.checkout) as endpoint:
            asyncio.run(_warm(endpoint, args.rate))
            while faults:
                role, how = faults.pop(0)
                row = asyncio.run(_fault(endpoint, role, how, args.rate))
                print(row, flush=True)
                yield row
                if row["exit"] is not None or not _whole(endpoint):
                    break


async def _warm(endpoint: Endpoint, rate: float) -> None:
    traffic = Traffic(endpoint.url, _MODEL)
    async with traffic.flowing(rate):
        await asyncio.sleep(8.0)
    if any(s.outcome != "ok" for s in traffic.sent):
        raise RuntimeError(f"undisturbed, not all was answered: {Counter(s.outcome for s in traffic.sent)}")


def _whole(endpoint: Endpoint) -> bool:
    """Whether every role has its processes again."""
    until = monotonic() + 60
    while monotonic() < until:
        roles = Counter(role for role, _ in endpoint.processes())
        if roles["Gateway"] == roles["small replica"] == 2 and roles["HAProxy"] >= 1 and roles["controller"]:
            with contextlib.suppress(RuntimeError):
                endpoint.wait_ready(20)
                return True
    return False


async def _fault(endpoint: Endpoint, role: str, how: str, rate: float) -> dict[str, Any]:
    traffic = Traffic(endpoint.url, _MODEL)
    exit_s = None
    victims = endpoint.of(role)
    if not victims:
        return {"role": role, "how": how, "absent": True, "exit": None}
    async with traffic.flowing(rate):
        await asyncio.sleep(_BEFORE_S)
        at_s = monotonic()
        victims[-1].send_signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        until = at_s + (_EXIT_S if role in FATAL else STOP_S + _AFTER_S if how == "stop" else _AFTER_S)
        stopped = how == "stop"
        while monotonic() < until and endpoint.process.poll() is None:
            await asyncio.sleep(0.1)
            if stopped and monotonic() > at_s + STOP_S:
                stopped = False
                with contextlib.suppress(psutil.NoSuchProcess):
                    victims[-1].send_signal(signal.SIGCONT)
        if endpoint.process.poll() is not None:
            exit_s = monotonic() - at_s
    sent = [s for s in traffic.sent if exit_s is None or s.start_s < at_s + exit_s]
    return {
        "role": role,
        "how": how,
        "sent": len(sent),
        "outcomes": Counter(s.outcome for s in sent),
        "lost_before_first_byte": sum(not served(s) for s in sent if s.outcome != "refused"),
        "refused": sum(s.outcome == "refused" for s in sent),
        "outage_s": None if exit_s is not None else longest_outage_s(sent),
        "slowest_s": max((s.end_s - s.start_s for s in sent if s.outcome == "ok"), default=None),
        "ready_while_failing_s": longest_lie_s(sent, traffic.looks),
        "exit": endpoint.process.poll(),
        "exit_s": exit_s,
    }


def served(sent: Sent) -> bool:
    """Whether it got a first byte of an answer."""
    return sent.outcome in ("ok", "cut")


def broken(row: dict[str, Any]) -> list[str]:
    """The marks that do not hold."""
    if row.get("absent"):
        return []
    marks = {
        "readiness lied": row["ready_while_failing_s"] <= 5,
        "exit late or with status 0": row["exit"] is None or (row["exit"] != 0 and row["exit_s"] <= 10),
        "ended": row["exit"] is None or row["role"] in FATAL,
        "outage": row["outage_s"] is None or row["outage_s"] <= 3,
        "lost before the first byte": row["role"] in (*FATAL, *SPARED) or row["lost_before_first_byte"] == 0,
    }
    return [name for name, holds in marks.items() if not holds]


def table(found: dict[str, Any]) -> str:
    """All labels as markdown."""
    parts = ["# Processes killed (SIGKILL) and stopped (SIGSTOP, 20 s) under load"]
    for label, result in sorted(found.items(), reverse=True):
        head = ["process", "how", "requests", "lost before first byte", "refused", "cut", "longest outage, s"]
        head += ["slowest answer, s", "ready while nothing is answered, s", "exit", "after, s", "does not hold"]
        rows = []
        for row in result["rows"]:
            if row.get("absent"):
                rows.append([row["role"], row["how"], *["–"] * 9, "there is none"])
                continue
            cells = [row["sent"], row["lost_before_first_byte"], row["refused"], row["outcomes"].get("cut", 0)]
            cells += [row["outage_s"], row["slowest_s"], row["ready_while_failing_s"], row["exit"], row["exit_s"]]
            rows.append([row["role"], row["how"], *cells, ", ".join(broken(row))])
        where = one_line(result["environment"])
        parts += [f"## {label}", f"{result['rate']:g} requests a second. {where}", markdown(head, rows).rstrip()]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
