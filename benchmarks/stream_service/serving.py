"""Sends a stream's queries over HTTP in order, kills the Learner on the way, and keeps what callers saw."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import aiohttp

from benchmarks.application import replicas
from benchmarks.stream_service.expert import shift
from serve_app.streams.replay import ReplayRow

_SETTLE_S = 120.0
"""Longest wait for the last events to be learned."""
_BACK_S = 60.0
"""Longest wait for a killed Learner to answer again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: a stream by its request, the parts at which the Learner is killed, and where the labels change."""

    name: str
    stream: dict[str, Any]
    kills: tuple[float, ...] = ()
    shift_at: float | None = None


@dataclass(slots=True)
class Seen:
    """What became of each query, by its position: right or not, answered by the LLM or not, seconds."""

    right: list[bool | None]
    llm: list[bool]
    seconds: list[float]
    failures: list[str] = field(default_factory=list)
    kills: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Queries at once at most, and a second (open loop: the due times do not wait for answers)."""

    concurrency: int
    rate: float


async def run(url: str, plan: Plan, rows: Sequence[ReplayRow], labels: Sequence[str], pace: Pace) -> Seen:
    """All queries of one stream, and its figures once all is learned."""
    seen = Seen([None] * len(rows), [False] * len(rows), [0.0] * len(rows))
    connector = aiohttp.TCPConnector(limit=pace.concurrency + 8)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
        async with session.post("/v1/streams", json={**plan.stream, "reset": True}) as made:
            made.raise_for_status()
        started = perf_counter()
        turn = len(rows) if plan.shift_at is None else int(plan.shift_at * len(rows))
        progress = asyncio.create_task(_progress(plan, seen, session))
        killing = asyncio.create_task(_kills(plan, seen, session))
        for shifted, part in ((False, range(turn)), (True, range(turn, len(rows)))):
            if shifted and len(part):
                shift(True)
            work = iter(part)
            sending = _Sending(session, plan.stream["name"], rows, labels, shifted, started, pace.rate)
            await asyncio.gather(*(sending.send(work, seen) for _ in range(pace.concurrency)))
        shift(False)
        await killing
        progress.cancel()
        seen.wall_s = perf_counter() - started
        seen.figures = await _settled(session, plan.stream["name"], len(rows) - len(seen.failures))
    return seen


@dataclass(frozen=True, slots=True)
class _Sending:
    session: aiohttp.ClientSession
    stream: str
    rows: Sequence[ReplayRow]
    labels: Sequence[str]
    shifted: bool
    begun_s: float
    rate: float

    async def send(self, work: Iterator[int], seen: Seen) -> None:
        """One caller: a query after another."""
        for at in work:
            await asyncio.sleep(max(0.0, self.begun_s + at / self.rate - perf_counter()))
            started = perf_counter()
            try:
                said, llm = await self._ask(self.rows[at].text)
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as e:
                seen.failures.append(f"{at}: {type(e).__name__}: {e}"[:300])
                continue
            seen.seconds[at], seen.llm[at] = perf_counter() - started, llm
            label = self.rows[at].label
            seen.right[at] = label is not None and said == self.labels[(label + self.shifted) % len(self.labels)]

    async def _ask(self, text: str) -> tuple[str, bool]:
        body = {"model": f"jethro-stream-{self.stream}", "messages": [{"role": "user", "content": text}]}
        async with self.session.post("/v1/chat/completions", json=body) as reply:
            reply_json = await reply.json()
            if reply.status != 200:
                raise ValueError(f"{reply.status}: {reply_json}")
            return reply_json["choices"][0]["message"]["content"], reply.headers["x-jethro-pool"] == "large"


async def _kills(plan: Plan, seen: Seen, session: aiohttp.ClientSession) -> None:
    """SIGKILL to the Learner's process when so much is answered; waits until it answers again."""
    for part in plan.kills:
        while _answered(seen) < part * len(seen.right):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # another task counts
        before = (await _stream(session, plan.stream["name"]))["figures"]
        pid = replicas("Learner")[-1].pid
        os.kill(pid, signal.SIGKILL)
        at, started = _answered(seen), perf_counter()
        learned = await _back(session, plan.stream["name"], before["opened_s"])
        seen.kills.append(
            {
                "pid": pid,
                "answered_before": at,
                "answered_meanwhile": _answered(seen) - at,
                "away_s": perf_counter() - started,
                "labels_before": before["labelled"],
                "labels_after": learned["labelled"],
                "learned_again": learned["restored_events"],
            }
        )


async def _back(session: aiohttp.ClientSession, name: str, opened_s: float) -> dict[str, Any]:
    """The stream's figures by the Learner that came after the one that opened it at `opened_s`."""
    async with asyncio.timeout(_BACK_S):
        while True:
            await asyncio.sleep(0.05)
            figures: dict[str, Any] = (await _stream(session, name))["figures"]
            if figures["opened_s"] != opened_s:
                return figures


async def _settled(session: aiohttp.ClientSession, name: str, queries: int) -> dict[str, Any]:
    """The figures once every event has been learned from. Raises TimeoutError if some never are."""
    async with asyncio.timeout(_SETTLE_S):
        while True:
            figures: dict[str, Any] = (await _stream(session, name))["figures"]
            if figures["queries"] >= queries and figures["labelled"] + figures["unparsed"] >= figures["llm_calls"]:
                return figures
            await asyncio.sleep(0.2)


async def _stream(session: aiohttp.ClientSession, name: str) -> dict[str, Any]:
    async with session.get(f"/v1/streams/{name}") as reply:
        reply.raise_for_status()
        stream: dict[str, Any] = await reply.json()
        return stream


async def _progress(plan: Plan, seen: Seen, session: aiohttp.ClientSession) -> None:
    started = perf_counter()
    while True:
        await asyncio.sleep(10)
        done = _answered(seen)
        rate = done / (perf_counter() - started)
        right = sum(r is True for r in seen.right) / max(done, 1)
        line = f"{plan.name}: {done:,} of {len(seen.right):,}, {rate:.0f} a second, accuracy {right:.3f}"
        print(f"{line}, {len(seen.failures)} failed", file=sys.stderr, flush=True)


def _answered(seen: Seen) -> int:
    return sum(r is not None for r in seen.right)
