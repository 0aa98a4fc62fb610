"""The cases, and their measurement in interleaved rounds, so that drift of the machine hits all targets alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

from benchmarks.connection import Address
from benchmarks.gateway.streams import probe
from benchmarks.gateway.wrk import Load, wrk
from benchmarks.script import prompt
from benchmarks.stats import median

TOKENS = 64
ONE_SHOT, STREAM = "one-shot", f"stream of {TOKENS}"


@dataclass(frozen=True, slots=True)
class Target:
    """A server to be measured. `slow` ones get longer runs, so that enough answers fall into them."""

    name: str
    url: str
    model: str
    slow: bool = False

    @property
    def completions(self) -> str:
        """URL of chat completions."""
        return f"{self.url}/v1/chat/completions"

    def body(self, case: str, pace_ms: int = 0) -> bytes:
        """The request of a case: the same for all targets but for the model's name."""
        request: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": prompt(pace_ms)}]}
        request |= {"max_tokens": TOKENS, "stream": True} if case == STREAM else {"max_tokens": 1}
        return orjson.dumps(request)


@dataclass(slots=True)
class Cell:
    """One target in one case at one concurrency: what every round gave. `stream_bytes` is 0 for one-shot answers."""

    target: str
    case: str
    concurrency: int
    stream_bytes: int = 0
    loads: list[Load] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Answers a second, median of the rounds.

        Streams are counted by bytes received: whole ones alone would count a slow target's long streams short.
        """
        if not self.stream_bytes:
            return median([load.per_second for load in self.loads])
        return median([load.received / self.stream_bytes / load.seconds for load in self.loads])

    @property
    def p50_ms(self) -> float:
        """Median latency, median of the rounds; NaN if no answer ended."""
        return median([load.p50_ms for load in self.loads if load.requests])

    @property
    def p99_ms(self) -> float:
        """99th percentile of latency, median of the rounds."""
        return median([load.p99_ms for load in self.loads if load.requests])

    @property
    def errors(self) -> int:
        """Of all rounds; above 0 the cell says nothing."""
        return sum(load.errors for load in self.loads)


def warm_up(targets: Sequence[Target]) -> dict[str, int]:
    """Ask every target each case for two seconds and check its streams; returns the bytes of one stream by target."""
    sizes = {}
    for target in targets:
        address = Address.of(target.url)
        request = address.post("/v1/chat/completions", target.body(STREAM), {"authorization": "Bearer none"})
        for case in (ONE_SHOT, STREAM):
            wrk(target.completions, 8, 2, target.body(case))
        events, sizes[target.name] = uvloop.run(probe(address, request, TOKENS))
        print(f"  {target.name}: a stream is {events} events, {sizes[target.name]:,} bytes", flush=True)
    return sizes


def measure(
    targets: Sequence[Target], sizes: dict[str, int], concurrencies: Sequence[int], rounds: int, seconds: float
) -> list[Cell]:
    """All cells, `rounds` times, targets in turn within a cell and in another order every round."""
    cells = {
        (t.name, case, c): Cell(t.name, case, c, sizes[t.name] if case == STREAM else 0)
        for case in (ONE_SHOT, STREAM)
        for c in concurrencies
        for t in targets
    }
    for turn in range(rounds):
        order = list(targets[turn % len(targets) :]) + list(targets[: turn % len(targets)])
        for case in (ONE_SHOT, STREAM):
            for c in concurrencies:
                for target in order:
                    length = seconds * (2 if target.slow and case == STREAM else 1)
                    cells[target.name, case, c].loads.append(wrk(target.completions, c, length, target.body(case)))
                line = ", ".join(f"{t.name} {cells[t.name, case, c].per_second:,.0f}" for t in targets)
                print(f"  round {turn + 1}/{rounds}  {case}, {c} at once: {line} a second", flush=True)
    return list(cells.values())
