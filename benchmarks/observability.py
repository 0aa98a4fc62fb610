"""`python -m benchmarks.observability`: what metrics, the log of requests and traces cost, all on against all off.

Two endpoints on Ray Serve with models of zero cost run at the same time and are measured in turn by wrk, in short
rounds, so that whatever else the machine does meets both alike; a ratio is of one round. The ratio of the CPU time that
an answer takes, of all processes of an endpoint, hardly depends on what else the machine does. `on` has metrics, a line
a request and traces of 1 % of the requests, exported by OTLP to a collector double on this machine; `off` has none of
them. `off` is measured twice a round: the ratio of the two says how much of a difference is noise.
"""

import argparse
import contextlib
import os
import shutil
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import orjson
import psutil

from benchmarks.application import application, profile
from benchmarks.gateway.rounds import ONE_SHOT, STREAM, Target, warm_up
from benchmarks.gateway.wrk import Load, require_wrk, wrk
from benchmarks.process import BUILD, Server, free_port, stop_in_order_on_sigterm
from benchmarks.stamp import environment, one_line
from benchmarks.stats import median, percentile
from benchmarks.table import markdown

AT_LEAST = 0.9
"""Throughput with everything on, as a part of that with everything off: the pass mark."""
SAMPLE = 0.01
ON, OFF, AGAIN = "all on", "all off", "all off, again"


@dataclass(slots=True)
class Compared:
    """One case at one concurrency: the rates of each round."""

    case: str
    concurrency: int
    on: list[float] = field(default_factory=list)
    off: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: {ON: [], OFF: []})
    """CPU time an answer, by endpoint and run."""
    errors: int = 0

    @property
    def ratios(self) -> list[float]:
        """On against the mean of the two measurements of off, in each round."""
        return [on / ((off + again) / 2) for on, off, again in zip(self.on, self.off, self.again, strict=True)]

    @property
    def cpu_ratio(self) -> float:
        """CPU time of an answer without any of it, as a part of that with all of it: medians of the rounds."""
        return median(self.cpu_ms[OFF]) / median(self.cpu_ms[ON])

    @property
    def noise(self) -> list[float]:
        """Off against itself, in each round."""
        return [again / off for off, again in zip(self.off, self.again, strict=True)]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.observability", description=__doc__.splitlines()[0])
    p.add_argument("--concurrency", type=int, default=16)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--seconds", type=float, default=1, help="of one run of wrk")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run all, write JSON and markdown; 1 if the pass mark does not hold."""
    args = arguments(argv)
    stop_in_order_on_sigterm()
    require_wrk()
    stamp, begin_s = environment(), perf_counter()
    with contextlib.ExitStack() as stack:
        port = free_port()
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "benchmarks.collector", str(port)]
        collector = Server("collector", command, f"http://127.0.0.1:{port}/spans")
        on, on_server = endpoint(ON, True)
        off, off_server = endpoint(OFF, False)
        for server in (collector, on_server, off_server):
            stack.callback(server.stop)
            server.start()
            server.wait_ready()
        print(f"All answer after {perf_counter() - begin_s:.0f} s", flush=True)
        warm_up([on, off])
        cells = [Compared(case, args.concurrency) for case in (ONE_SHOT, STREAM)]
        for turn in range(args.rounds):
            for cell in cells:
                one_round(cell, (on, on_server), (off, off_server), turn, args.seconds)
        sleep(6)  # the last batch
        spans = orjson.loads(urllib.request.urlopen(collector.ready_url, timeout=10).read())["spans"]
    args.out.mkdir(parents=True, exist_ok=True)
    found = {"cells": [asdict(cell) for cell in cells], "spans": spans, "stamp": stamp}
    (args.out / "observability.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    text = report(cells, spans, stamp)
    (args.out / "observability.md").write_text(text)
    print(f"\n{text}\n{perf_counter() - begin_s:.0f} s", flush=True)
    return 0 if passed(cells, spans) else 1


def endpoint(name: str, everything: bool) -> tuple[Target, Server]:
    """An application with fake engines, with everything on or off; not started yet."""
    port, short = free_port(), name.replace(" ", "-")
    store = BUILD / f"observability-{short}"
    shutil.rmtree(store, ignore_errors=True)
    config = profile(port, store / "jethro.sqlite3", max_ongoing_requests=1024, max_queued_requests=1024)
    for pool in config["pools"].values():
        pool["engine"] = {"kind": "transformers", "path": "none: the fake engine takes its place"}
    config["streams"]["folder"] = str(store / "streams")
    config["log"] |= settings(everything)
    server = application(config, f"observability-{short}", "benchmarks.fake_engine:build")
    return Target(name, f"http://127.0.0.1:{port}", "jethro"), server


def settings(everything: bool) -> dict[str, Any]:
    """The branch `log` of the config."""
    return {"access": everything, "metrics": everything, "traces": {"enabled": everything, "sample": SAMPLE}}


def one_round(cell: Compared, on: tuple[Target, Server], off: tuple[Target, Server], turn: int, seconds: float) -> None:
    """Each once, off twice, in an order that changes from round to round."""
    runs = [(on, cell.on), (off, cell.off), (off, cell.again)]
    runs = runs[turn % 3 :] + runs[: turn % 3]
    for (target, server), rates in runs:
        before = cpu_s(server)
        load: Load = wrk(target.completions, cell.concurrency, seconds, target.body(cell.case))
        cell.cpu_ms[target.name].append((cpu_s(server) - before) / max(1, load.requests) * 1e3)
        cell.errors += load.errors
        rates.append(load.per_second)
    found = ((ON, cell.on), (OFF, cell.off), (AGAIN, cell.again))
    line = ", ".join(f"{name} {rates[-1]:,.0f}" for name, rates in found)
    print(f"  round {turn + 1}  {cell.case}: {line} a second", flush=True)


def cpu_s(server: Server) -> float:
    """CPU seconds so far of the processes of an endpoint; Ray's, HAProxy's and the replicas' are its children."""
    used = 0.0
    root = psutil.Process(server.pid)
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def passed(cells: Sequence[Compared], spans: int) -> bool:
    """Whether the pass mark holds in every case, nothing failed, and spans were exported."""
    return spans > 0 and all(
        median(cell.ratios) >= AT_LEAST and cell.cpu_ratio >= AT_LEAST and not cell.errors for cell in cells
    )


def report(cells: Sequence[Compared], spans: int, stamp: dict[str, Any]) -> str:
    """Tables and what they mean."""
    head = ["case", ON, OFF, "on / off", "quartiles", "off / off", "quartiles of off / off", "failed"]
    cpu_head = ["CPU time of an answer, ms", ON, OFF, "off / on"]
    cpu_rows = [
        [cell.case, median(cell.cpu_ms[ON]), median(cell.cpu_ms[OFF]), f"{cell.cpu_ratio:.3f}"] for cell in cells
    ]
    rows = [
        [
            *(f"{cell.case}, {cell.concurrency} at once", median(cell.on), median([*cell.off, *cell.again])),
            *(f"{median(cell.ratios):.3f}", _quartiles(cell.ratios)),
            *(f"{median(cell.noise):.3f}", _quartiles(cell.noise), cell.errors),
        ]
        for cell in cells
    ]
    mark = "holds" if passed(cells, spans) else "does not hold"
    rounds = len(cells[0].on)
    return (
        "# What metrics, logs and traces cost\n\n"
        f"{__doc__.split(chr(10) * 2, 1)[1].strip()}\n\n"
        f"Answers per second; medians of {rounds} rounds. Pass mark: on / off, and off / on of the CPU time, of at "
        f"least {AT_LEAST} in every case: {mark}. The collector received {spans:,} spans.\n\n"
        f"{markdown(head, rows)}\n{markdown(cpu_head, cpu_rows)}\n{one_line(stamp)}. Other programs used the machine "
        "meanwhile: the rates are not comparable with other results, the ratios are of one round each.\n"
    )


def _quartiles(values: Sequence[float]) -> str:
    return f"{percentile(values, 25):.3f} to {percentile(values, 75):.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
