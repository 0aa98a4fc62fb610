"""Where the time of a request goes: latency by path, CPU by process, and the Gateway's own clock."""

import re
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import psutil
import uvloop

from benchmarks.application import GATEWAY, LARGE, SMALL, replicas
from benchmarks.connection import Address, Connection
from benchmarks.gateway.rounds import ONE_SHOT, STREAM, Target
from benchmarks.gateway.wrk import Load, wrk
from benchmarks.process import answers
from benchmarks.stats import percentile

THROUGH_HAPROXY, AT_GATEWAY = "one-shot through HAProxy", "one-shot at the Gateway"
PING_THROUGH_HAPROXY, PING_AT_GATEWAY = "GET /health/live through HAProxy", "GET /health/live at the Gateway"
_DURATION = re.compile(r"(\w+);dur=([\d.]+)")


@dataclass(frozen=True, slots=True)
class Layers:
    """All in ms but `cpu_us`: CPU microseconds a request by process, for one-shot answers and for streams."""

    path_ms: dict[str, float]
    cpu_us: dict[str, dict[str, float]]
    inside_ms: dict[str, dict[str, float]]
    under_load_ms: dict[str, float]


def layers(jethro: Target, replica: Target, secret: str, seconds: float) -> Layers:
    """Measure the application at `jethro`; `replica` is a pool replica's app alone, on a port of its own."""
    direct = Target("Gateway", gateway_url(), jethro.model)
    print("  layers: latency by path, one request at a time", flush=True)
    path = {
        PING_THROUGH_HAPROXY: wrk(f"{jethro.url}/health/live", 1, seconds, method="GET").p50_ms,
        PING_AT_GATEWAY: wrk(f"{direct.url}/health/live", 1, seconds, method="GET").p50_ms,
        THROUGH_HAPROXY: wrk(jethro.completions, 1, seconds, jethro.body(ONE_SHOT)).p50_ms,
        AT_GATEWAY: wrk(direct.completions, 1, seconds, direct.body(ONE_SHOT)).p50_ms,
        "one-shot at a replica alone": wrk(replica.completions, 1, seconds, replica.body(ONE_SHOT), key=secret).p50_ms,
    }
    print("  layers: CPU by process, 16 at once", flush=True)
    before = metrics(jethro.url)
    cpu = {case: _cpu(partial(wrk, jethro.completions, 16, seconds, jethro.body(case))) for case in (ONE_SHOT, STREAM)}
    under_load = _means(before, metrics(jethro.url))
    inside = uvloop.run(server_timing(jethro, 500))
    return Layers(path, cpu, inside, under_load)


def gateway_url() -> str:
    """Where the Gateway replica itself listens, behind HAProxy."""
    gateway = replicas(GATEWAY)[-1]
    ports = {c.laddr.port for c in gateway.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    for port in sorted(ports):
        if answers(f"http://127.0.0.1:{port}/health/live"):
            return f"http://127.0.0.1:{port}"
    raise RuntimeError(f"the Gateway (process {gateway.pid}) answers on none of its ports {sorted(ports)}")


async def server_timing(target: Target, requests: int) -> dict[str, dict[str, float]]:
    """p50 and p99 by layer from the server-timing header of so many one-shot answers, one at a time."""
    address = Address.of(target.url)
    connection = await Connection.open(address)
    seen: dict[str, list[float]] = defaultdict(list)
    for _ in range(requests):
        reply = await connection.exchange(address.post("/v1/chat/completions", target.body(ONE_SHOT)), 30)
        if reply.status != 200:
            raise RuntimeError(f"{target.name} answered {reply.status}: {reply.body[:300]!r}")
        for layer, value in _DURATION.findall(reply.headers.get("server-timing", "")):
            seen[layer].append(float(value))
    connection.close()
    if "decide" not in seen:
        raise RuntimeError(f"{target.name} sends no server-timing header with `decide`")
    return {layer: {"p50": percentile(v, 50), "p99": percentile(v, 99)} for layer, v in seen.items()}


def metrics(url: str) -> dict[str, float]:
    """Prometheus' text as sample → value."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if x and x[0] != "#")}


def _means(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Mean milliseconds of every layer between two scrapes."""
    found = {}
    for layer in ("parse", "decide", "pool"):
        count, seconds = (_total(after, part, layer) - _total(before, part, layer) for part in ("count", "sum"))
        found[layer] = seconds / count * 1e3 if count else float("nan")
    return found


def _total(samples: dict[str, float], part: str, layer: str) -> float:
    """Of all Gateways together."""
    named = f"jethro_layer_seconds_{part}{{"
    return sum(v for name, v in samples.items() if name.startswith(named) and f'layer="{layer}"' in name)


def _cpu(load: Callable[[], Load]) -> dict[str, float]:
    """CPU microseconds a request by group of processes, while `load` runs."""
    groups = {
        "HAProxy": _named("haproxy"),
        "Gateway": replicas(GATEWAY),
        "pool replicas": replicas(SMALL) + replicas(LARGE),
    }
    mine = {p.pid for group in groups.values() for p in group}
    groups["Ray (raylet, controller, other)"] = [p for p in _ray() if p.pid not in mine]
    before = {name: _cpu_s(group) for name, group in groups.items()}
    seen = load()
    return {name: (_cpu_s(group) - before[name]) / max(1, seen.requests) * 1e6 for name, group in groups.items()}


def _cpu_s(group: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in group:
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return total


def _named(name: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["name"]) if (p.info["name"] or "").startswith(name)]


def _ray() -> list[psutil.Process]:
    def of_ray(p: psutil.Process) -> bool:
        title = " ".join(p.info["cmdline"] or ())
        return title.startswith("ray::") or "/ray/" in title

    return [p for p in psutil.process_iter(["cmdline"]) if of_ray(p)]
