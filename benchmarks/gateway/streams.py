"""A minimal client that holds many paced streams open and measures the gaps between their tokens.

It does per read only a clock, a count and an append, and reports how much of a core it used itself. It runs as a
process of its own: `python -m benchmarks.gateway.streams HOST PORT STREAMS SECONDS TOKENS BODY`.
"""

import asyncio
import random
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import orjson
import uvloop

from benchmarks.connection import Address
from benchmarks.process import ROOT

_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Tally:
    """What all streams saw together; gaps are noted between `from_s` and the end."""

    from_s: float
    gaps_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    """Waits from the request to the first token."""
    streams: int = 0
    wrong: int = 0
    """Streams that failed, or did not bring the tokens they should."""


class Stream(asyncio.Protocol):
    """One connection that asks again as soon as its stream has ended. Reads chunked SSE without parsing it."""

    def __init__(self, request: bytes, tokens: int, tally: Tally) -> None:
        self._request, self._tokens, self._tally = request, tokens, tally
        self._transport: Any = None
        self._closing, self._status_seen, self._tail = False, False, b""
        self.events, self.received = 0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: ask."""
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """asyncio: some events came, all at this time."""
        now = perf_counter()
        # a chunk's own end is \r\n, so a blank line of two \n is an event's end and nothing else
        events = data.count(b"\n\n")
        self.received += len(data)
        if not self._status_seen:
            self._status_seen = True
            if not data.startswith(b"HTTP/1.1 200"):
                self._failed()
                return
        if events:
            self._note(now, events)
        self._tail = (self._tail + data[-5:])[-5:]
        if self._tail == _END:
            self._tally.streams += 1
            self._tally.wrong += self.events <= self._tokens
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: a stream that is cut counts as wrong."""
        if not self._closing:
            self._tally.wrong += 1

    def close(self) -> None:
        """End without counting."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def _ask(self) -> None:
        self.events, self.received = 0, 0
        self._status_seen, self._tail, self._last_s = False, b"", 0.0
        self._sent_s = perf_counter()
        self._transport.write(self._request)

    def _note(self, now: float, events: int) -> None:
        """Gaps of the token events only: what ends the stream (finish, usage, [DONE]) is no token."""
        tokens = min(events, self._tokens - self.events)
        if tokens > 0 and now >= self._tally.from_s:
            if self._last_s:
                self._tally.gaps_s.append(now - self._last_s)
            else:
                self._tally.first_s.append(now - self._sent_s)
            self._tally.gaps_s.extend([0.0] * (tokens - 1))
        self._last_s = now
        self.events += events

    def _failed(self) -> None:
        self._tally.wrong += 1
        self.close()


async def hold(address: Address, request: bytes, streams: int, seconds: float, tokens: int) -> dict[str, Any]:
    """Hold so many streams open for so long, after a start spread over 0.7 s; figures in ms."""
    loop = asyncio.get_running_loop()
    tally = Tally(from_s=perf_counter() + 1.0)
    rng = random.Random(0)

    async def one() -> Stream:
        await asyncio.sleep(rng.random() * 0.7)
        _, stream = await loop.create_connection(lambda: Stream(request, tokens, tally), address.host, address.port)
        return stream

    begin = asyncio.gather(*(one() for _ in range(streams)))
    await asyncio.sleep(1.0)
    cpu_s = _cpu_s()
    await asyncio.sleep(seconds)
    cpu_s = _cpu_s() - cpu_s
    late = not begin.done()
    held = await begin
    gaps = np.array(tally.gaps_s or [float("inf")]) * 1e3
    found = {
        "streams": streams,
        "itl_p50_ms": float(np.percentile(gaps, 50)),
        "itl_p95_ms": float(np.percentile(gaps, 95)),
        "itl_p99_ms": float(np.percentile(gaps, 99)),
        "ttft_p95_ms": float(np.percentile(tally.first_s or [float("inf")], 95)) * 1e3,
        "tokens_per_s": len(tally.gaps_s) / seconds,
        "finished": tally.streams,
        "wrong": tally.wrong + late,
        "client_core_share": cpu_s / seconds,
    }
    for stream in held:
        stream.close()
    return found


async def probe(address: Address, request: bytes, tokens: int, timeout_s: float = 30.0) -> tuple[int, int]:
    """One stream: events (with finish and [DONE]) and bytes on the wire. Raises RuntimeError if it is not whole."""
    loop = asyncio.get_running_loop()
    tally, over = Tally(from_s=float("inf")), asyncio.Event()

    class Once(Stream):
        def _ask(self) -> None:
            if tally.streams:
                over.set()
            else:
                super()._ask()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            over.set()

    _, stream = await loop.create_connection(lambda: Once(request, tokens, tally), address.host, address.port)
    async with asyncio.timeout(timeout_s):
        await over.wait()
    stream.close()
    if tally.wrong or not tally.streams:
        raise RuntimeError(f"port {address.port} gave {stream.events} events for a stream of {tokens} tokens")
    return stream.events, stream.received


def in_process(url: str, streams: int, seconds: float, tokens: int, body: bytes) -> dict[str, Any]:
    """`hold` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gateway.streams", url, str(streams), str(seconds), str(tokens)]
    done = subprocess.run([*command, body.decode()], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = orjson.loads(done.stdout)
    return found


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _main(url: str, streams: str, seconds: str, tokens: str, body: str) -> None:
    address = Address.of(url)
    request = address.post("/v1/chat/completions", body.encode(), {"authorization": "Bearer none"})
    found = uvloop.run(hold(address, request, int(streams), float(seconds), int(tokens)))
    sys.stdout.buffer.write(orjson.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
