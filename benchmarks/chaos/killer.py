"""Kills a pool replica's process every so often, without warning, as a machine would."""

import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from time import perf_counter

import orjson
import psutil

from benchmarks.application import LARGE, SMALL, replicas

POOLS = {"small": SMALL, "large": LARGE}


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, with the replicas that each pool had to answer just before it."""

    at_s: float
    pool: str
    pid: int
    ready: dict[str, int]


@dataclass
class Killer:
    """`with Killer(url, every_s):` kills the oldest replica of the pool with the most ready ones, in turn if equal.

    The last ready replica of a pool is spared: with it would go the pool, and what then fails is no retry's fault.
    If no pool has two, the kill waits until one has; `longest_wait_s` says how long that took.
    """

    url: str
    every_s: float
    kills: list[Kill] = field(default_factory=list)
    longest_wait_s: float = 0.0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> "Killer":
        self._start_s = perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None and exc[0] is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._over.wait(self.every_s):
                due_s = perf_counter()
                while max((ready := ready_replicas(self.url)).values()) < 2 and not self._over.wait(0.2):
                    pass
                if self._over.is_set():
                    return
                self.longest_wait_s = max(self.longest_wait_s, perf_counter() - due_s)
                self._kill(ready)
        except BaseException as e:
            self._error = e

    def _kill(self, ready: dict[str, int]) -> None:
        last = self.kills[-1].pool if self.kills else ""
        pool = max(POOLS, key=lambda p: (ready.get(p, 0), p != last))
        victim = replicas(POOLS[pool])[0]
        self.kills.append(Kill(perf_counter() - self._start_s, pool, victim.pid, ready))
        print(f"  killed a replica of {pool} (process {victim.pid}); ready before: {ready}", flush=True)
        victim.kill()


def ready_replicas(url: str) -> dict[str, int]:
    """Replicas that answer by pool, as the Gateway knows them; none if it does not answer itself."""
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=5) as reply:
            state = orjson.loads(reply.read())
    except urllib.error.HTTPError as e:
        state = orjson.loads(e.read())
    except OSError:
        return dict.fromkeys(POOLS, 0)
    return {name: pool["replicas"] for name, pool in state["pools"].items()}


def memory_mib() -> dict[str, list[float]]:
    """Resident memory of every replica by deployment, MiB."""
    found: dict[str, list[float]] = {}
    for name in ("Gateway", *POOLS.values()):
        sizes = []
        for process in replicas(name):
            try:
                sizes.append(round(process.memory_info().rss / 2**20, 1))
            except psutil.NoSuchProcess:
                continue
        found[name] = sizes
    return found
