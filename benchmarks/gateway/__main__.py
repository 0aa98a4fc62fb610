"""`python -m benchmarks.gateway`: what the gateway costs, compared with LiteLLM's proxy and bare uvicorn, in one run.

All servers run at the same time and are measured in turn by wrk. Jethro is the real application on Ray Serve (HAProxy,
Gateway, pool replicas) with parsing, decision, log, metrics and store on; only the models are fake.
"""

import argparse
import contextlib
import shutil
import sys
from pathlib import Path
from time import perf_counter

import orjson

from benchmarks.application import application, profile
from benchmarks.gateway import litellm, report
from benchmarks.gateway.layers import layers
from benchmarks.gateway.pacing import Paced, most_streams
from benchmarks.gateway.replica import MODEL, SECRET
from benchmarks.gateway.report import BARE, JETHRO, LITELLM
from benchmarks.gateway.rounds import STREAM, Cell, Target, measure, warm_up
from benchmarks.gateway.wrk import require_wrk
from benchmarks.process import BUILD, Server, free_port, stop_in_order_on_sigterm
from benchmarks.stamp import environment


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__.splitlines()[0])
    p.add_argument("--litellm", help="path of a litellm command; default: installed into build/litellm-venv")
    p.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="LiteLLM's numbers of workers")
    p.add_argument("--gateways", type=int, default=2, help="Jethro's router replicas (LiteLLM's best is two as well)")
    p.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=2, help="of one run of wrk (LiteLLM's streams: twice that)")
    p.add_argument("--skip-paced", action="store_true", help="leave out the paced streams")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run all, write JSON, markdown and PNG; 1 if a pass mark does not hold."""
    args = arguments(argv)
    stop_in_order_on_sigterm()
    require_wrk()
    command = litellm.ensure(args.litellm)
    stamp, begin_s = environment() | {"gateways": args.gateways}, perf_counter()
    with contextlib.ExitStack() as stack:
        servers, targets, alone = _servers(command, args.workers, args.gateways)
        for server in servers:
            stack.callback(server.stop)
            server.start()
        print(f"Starting {', '.join(s.name for s in servers)}", flush=True)
        for server in servers:
            server.wait_ready()
        print(f"All answer after {perf_counter() - begin_s:.0f} s", flush=True)
        sizes = warm_up(targets)
        cells = measure(targets, sizes, args.concurrency, args.rounds, args.seconds)
        paced = [] if args.skip_paced else _paced(targets, cells)
        found = layers(targets[0], alone, SECRET, args.seconds)
    args.out.mkdir(parents=True, exist_ok=True)
    whole = report.as_json(cells, paced, found, stamp)
    (args.out / "gateway.json").write_bytes(orjson.dumps(whole, option=orjson.OPT_INDENT_2))
    text = report.tables(cells, paced, found, stamp)
    (args.out / "gateway.md").write_text(text)
    report.plot(cells, paced, stamp, args.out / "gateway.png")
    print(f"\n{text}\n{perf_counter() - begin_s:.0f} s. Written: {args.out}/gateway.json, .md, .png", flush=True)
    return 0 if all(m.passed for m in report.marks(cells, found)) else 1


def _servers(command: Path, workers: list[int], gateways: int) -> tuple[list[Server], list[Target], Target]:
    """Servers, the targets among them (Jethro first), and a pool replica's app alone."""
    bare_port, replica_port, port = free_port(), free_port(), free_port()
    store = BUILD / "gateway-store"
    shutil.rmtree(store, ignore_errors=True)
    config = profile(port, store / "jethro.sqlite3", max_ongoing_requests=1024, max_queued_requests=1024)
    config["gateway"]["replicas"] = gateways
    for pool in config["pools"].values():
        pool["engine"] = {"kind": "transformers", "path": "none: the fake engine takes its place"}
    servers = [
        application(config, "jethro", "benchmarks.fake_engine:build"),
        uvicorn("bare", "benchmarks.gateway.upstream:build", bare_port),
        uvicorn("replica", "benchmarks.gateway.replica:build", replica_port),
    ]
    targets = [Target(JETHRO, _url(port), "jethro"), Target(BARE, _url(bare_port), "fake")]
    for n in workers:
        proxy_port = free_port()
        servers.append(litellm.proxy(command, proxy_port, bare_port, n))
        targets.append(Target(f"{LITELLM}, {n} worker{'s' * (n > 1)}", _url(proxy_port), "fake", slow=True))
    return servers, targets, Target("replica", _url(replica_port), MODEL)


def uvicorn(name: str, factory: str, port: int) -> Server:
    """An app factory on bare uvicorn, as lean as it goes: uvloop, httptools, no access log."""
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", "--factory", factory, "--port", str(port), *options]
    return Server(name, command, f"{_url(port)}/health")


def _paced(targets: list[Target], cells: list[Cell]) -> list[Paced]:
    """Jethro, bare uvicorn, and LiteLLM with the number of workers that streams best."""
    peers = [t for t in targets if t.name.startswith(LITELLM)]
    peer = max(peers, key=lambda t: report.best(cells, t.name, STREAM))
    starts = {JETHRO: 64, BARE: 256}
    return [most_streams(t, 2.5, starts.get(t.name, 8)) for t in (*targets[:2], peer)]


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    raise SystemExit(main())
