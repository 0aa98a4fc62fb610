"""`python -m benchmarks.observability`: what metrics, the log of requests and traces cost, all on against all off.

Two endpoints on Ray Serve with models of zero cost run at the same time and are measured in turn by wrk, in short
rounds, so that whatever else the machine does meets both alike; a ratio is of one round. The ratio of the CPU time that
an answer takes, of all processes of an endpoint, hardly depends on what else the machine does. `on` has metrics, a line
a request and traces of 1 % of the requests, exported by OTLP to a collector double on this machine; `off` has none of
them. Each is measured twice a round, in the orders on off off on and off on on off by turns, since an endpoint is
faster right after it was measured; the ratio of the two measurements of `off` says how much of a difference is noise.
"""

import argparse
import contextlib
import os
import shutil
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import orjson

from benchmarks.application import application, profile
from benchmarks.gateway.paired import Compared, one_round, ratios, tables
from benchmarks.gateway.rounds import ONE_SHOT, STREAM, Target, warm_up
from benchmarks.gateway.wrk import require_wrk
from benchmarks.process import BUILD, Server, free_port, stop_in_order_on_sigterm
from benchmarks.stamp import environment, one_line
from benchmarks.stats import median

AT_LEAST = 0.9
"""Throughput with everything on, as a part of that with everything off: the pass mark."""
SAMPLE = 0.01
ON, OFF = "all on", "all off"


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
        cells = [Compared(case, args.concurrency, (ON, OFF)) for case in (ONE_SHOT, STREAM)]
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


def passed(cells: Sequence[Compared], spans: int) -> bool:
    """Whether the pass mark holds in every case, nothing failed, and spans were exported."""
    reached = (median(ratios(cell.rates[ON], cell.rates[OFF])) for cell in cells)
    return spans > 0 and all(r >= AT_LEAST for r in reached) and not any(cell.errors for cell in cells)


def report(cells: Sequence[Compared], spans: int, stamp: dict[str, Any]) -> str:
    """Tables and what they mean."""
    mark = "holds" if passed(cells, spans) else "does not hold"
    rounds, failed = len(cells[0].rates[ON]) // 2, sum(cell.errors for cell in cells)
    return (
        "# What metrics, logs and traces cost\n\n"
        f"{__doc__.split(chr(10) * 2, 1)[1].strip()}\n\n"
        f"Medians of {rounds} rounds; the ratio is on / off for answers and off / on for CPU time. Pass mark: on / off "
        f"of the answers of at least {AT_LEAST} in every case: {mark}. {failed} answers failed, and the collector "
        f"received {spans:,} spans.\n\n"
        f"{tables(cells)}\n"
        f"{one_line(stamp)}. Other programs used the machine meanwhile: the rates are not comparable with other "
        "results, the ratios are of one round each.\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
