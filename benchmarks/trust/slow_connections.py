"""`python -m benchmarks.trust.slow_connections`: thousands of slow clients, and how fast others are answered meanwhile.

Clients that never finish their headers, from many addresses and from one, more of these than one address may have,
clients that send a byte of the body a second, with another tenant's key and with a wrong one, and clients that read
nothing of an endless stream. A probe with a key of its own, from an address of its own, asks every half second over a
new connection each time.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import numpy as np
import psutil

from benchmarks.process import ROOT, free_port, stop_in_order_on_sigterm
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from benchmarks.trust.endpoint import Endpoint
from benchmarks.trust.results import FOLDER, write
from benchmarks.trust.slow_clients import SlowClients, raise_open_files, slow_clients

MANY = tuple(f"127.0.0.{n}" for n in range(2, 10))
ONE = ("127.0.0.2",)
_LIMIT_S = 1.0
_GIVE_UP_S = 15.0
_STREAM_BYTES = 16 * 2**20


def cases(count: int, key: str) -> dict[str, SlowClients | None]:
    """Name to clients; None for no others."""
    return {
        "no others": None,
        f"headers, {count} from 8 addresses": SlowClients("header", count, MANY),
        f"headers, {count} from one": SlowClients("header", count, ONE),
        f"headers, {2 * count} from one": SlowClients("header", 2 * count, ONE),
        f"bodies, {count}, another tenant's key": SlowClients("body", count, MANY, key),
        f"bodies, {count}, a wrong key": SlowClients("body", count, MANY, "wrong"),
        "100 that read nothing of a stream": SlowClients("reader", 100, MANY, key, "far"),
    }


def config(port: int) -> dict[str, Any]:
    """The embedded models, an upstream whose stream does not end, and two tenants."""
    pools: dict[str, Any] = {
        name: {"model": f"jlab-{name}", "engine": {"kind": "transformers", "path": f"lab:{name}"}}
        for name in ("small", "large")
    }
    pools["far"] = {"model": "far", "engine": {"kind": "openai", "urls": [f"http://127.0.0.1:{port}/v1"]}}
    keys = [{"name": name, "env": f"TRUST_{name.upper()}_KEY"} for name in ("probe", "slow")]
    return {"pools": pools, "server": {"keys": keys}, "log": {"access": False}}


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    try:
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "far",
                 "choices": [{"index": 0, "delta": {"content": "x" * 1000}, "finish_reason": None}]}  # fmt: skip
        event = f"data: {json.dumps(chunk)}\n\n".encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for _ in range(_STREAM_BYTES // len(event)):
            writer.write(event)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def _upstream(port: int) -> None:
    async def serve() -> None:
        async with await asyncio.start_server(_stream, "127.0.0.1", port) as server:
            await server.serve_forever()

    raise_open_files()
    asyncio.run(serve())


@contextlib.contextmanager
def upstream(port: int) -> Iterator[None]:
    """Streams of 16 MiB, as fast as they are read."""
    process = multiprocessing.get_context("spawn").Process(target=_upstream, args=(port,))
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


async def probe(url: str, key: str, seconds: float) -> list[tuple[str, float]]:
    """Status (or the error's name) and duration of each, s, one started every half second."""
    body = {"model": "jlab-small", "messages": [{"role": "user", "content": "what is 12 + 30?"}], "max_tokens": 4}
    headers = {"authorization": f"Bearer {key}", "connection": "close"}
    found: list[tuple[str, float]] = []

    async def one(session: aiohttp.ClientSession) -> None:
        start = monotonic()
        try:
            async with session.post("/v1/chat/completions", json=body) as response:
                await response.read()
                outcome = str(response.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as e:
            outcome = type(e).__name__
        found.append((outcome, monotonic() - start))

    connector = aiohttp.TCPConnector(limit=0, force_close=True, local_addr=("127.0.0.1", 0))
    timeout = aiohttp.ClientTimeout(_GIVE_UP_S)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout, headers=headers) as session:
        tasks = []
        start = monotonic()
        for number in range(int(seconds * 2)):
            await asyncio.sleep(max(0.0, start + number / 2 - monotonic()))
            tasks.append(asyncio.create_task(one(session)))
        await asyncio.gather(*tasks)
    return found


def summary(probes: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Figures of the probes of one case."""
    times = [seconds for _, seconds in probes]
    return {
        "probes": len(probes),
        "answered_in_time": sum(outcome == "200" and seconds <= _LIMIT_S for outcome, seconds in probes),
        "p50_s": float(np.quantile(times, 0.5)), "p99_s": float(np.quantile(times, 0.99)), "max_s": max(times),
        "others": dict(Counter(outcome for outcome, _ in probes if outcome != "200")),
    }  # fmt: skip


def memory_of(endpoint: Endpoint) -> list[tuple[str, int, int, int]]:
    """Role, resident, own and proportional memory of each process of the endpoint, MiB, the largest first."""
    found = []
    for name, process in [*endpoint.processes(), ("jethro serve", psutil.Process(endpoint.process.pid))]:
        with contextlib.suppress(psutil.NoSuchProcess):
            m = process.memory_full_info()
            found.append((name, m.rss >> 20, m.uss >> 20, m.pss >> 20))
    return sorted(found, key=lambda row: -row[3])


def run(checkout: Path, count: int, seconds: float, only: str) -> dict[str, Any]:
    """One endpoint, all cases one after the other."""
    raise_open_files()
    keys = {name: secrets.token_hex(12) for name in ("probe", "slow")}
    env = {f"TRUST_{name.upper()}_KEY": key for name, key in keys.items()}
    port, found = free_port(), dict[str, Any]()
    with upstream(port), Endpoint("slow_connections", config(port), checkout=checkout, env=env) as e:
        asyncio.run(probe(e.url, keys["probe"], 5))
        memory = memory_of(e)
        for name, clients in cases(count, keys["slow"]).items():
            if only not in name:
                continue
            with contextlib.nullcontext({}) if clients is None else slow_clients(clients, e.port) as crowd:
                found[name] = summary(asyncio.run(probe(e.url, keys["probe"], seconds)))
                gateway = sum(p.memory_info().rss for p in e.of("Gateway")) / 2**20
            found[name] |= {"gateway_mib": round(gateway), "crowd": crowd}
            print(name, found[name], file=sys.stderr, flush=True)
            asyncio.run(asyncio.sleep(3))
    return {
        "environment": environment(),
        "checkout": subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=checkout, check=True,
                                   capture_output=True, text=True).stdout.strip(),
        "seconds": seconds, "cases": found, "memory": memory,
    }  # fmt: skip


def table(found: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    head = ("slow clients", "open at most", "probes", "answered within 1 s", "p50 s", "p99 s", "longest s",
            "not answered with 200", "Gateway MiB")  # fmt: skip
    rows = [
        (name, c["crowd"].get("most_open", 0), c["probes"], c["answered_in_time"], c["p50_s"], c["p99_s"], c["max_s"],
         ", ".join(f"{n} {kind}" for kind, n in c["others"].items()) or "none", c["gateway_mib"])
        for name, c in found["cases"].items()
    ]  # fmt: skip
    return (
        f"Commit {found['checkout']}; a probe every half second for {found['seconds']:g} s.\n\n"
        f"{markdown(head, rows)}\nMemory before, MiB: resident, of the process alone, and with its share of what is "
        f"shared; {sum(row[3] for row in found['memory']):,} in all.\n\n"
        f"{markdown(('process', 'RSS', 'USS', 'PSS'), found['memory'])}\n{one_line(found['environment'])}\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write JSON and table; 1 if a probe is not answered within a second."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.trust.slow_connections",
                                description=__doc__.splitlines()[0])  # fmt: skip
    p.add_argument("--checkout", type=Path, default=ROOT, help="of the project to serve from")
    p.add_argument("--count", type=int, default=4200, help="of slow clients")
    p.add_argument("--seconds", type=float, default=40.0, help="of each case")
    p.add_argument("--only", default="", help="cases whose name contains this")
    p.add_argument("--out", type=Path, default=FOLDER)
    args = p.parse_args(argv)
    stop_in_order_on_sigterm()
    found = run(args.checkout.resolve(), args.count, args.seconds, args.only)
    write(args.out, "trust_slow_connections", found, table(found))
    return 0 if all(c["answered_in_time"] == c["probes"] for c in found["cases"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
