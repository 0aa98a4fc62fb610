"""Closed loop (so many at once) and open loop (at scheduled times), spread over client processes."""

import asyncio
import gc
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from time import perf_counter, sleep
from typing import Any

import uvloop

from benchmarks.load.ask import Asker, Target, watch_lag
from benchmarks.load.prompts import Prompt
from benchmarks.record import Record


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be sent: `due_s` (from the start, ascending) in an open loop, None in a closed one."""

    target: Target
    prompts: Sequence[Prompt]
    max_concurrency: int | None
    due_s: Sequence[float] | None = None
    limit_s: float = float("inf")
    """Seconds after which nothing more is sent."""

    def share(self, part: int, parts: int) -> "Plan":
        """Every `parts`-th request from `part` on, with its share of the concurrency."""
        concurrency = self.max_concurrency
        if concurrency is not None:
            concurrency = concurrency // parts + (part < concurrency % parts)
        due_s = None if self.due_s is None else self.due_s[part::parts]
        return Plan(self.target, self.prompts[part::parts], concurrency, due_s, self.limit_s)


@dataclass(slots=True)
class Run:
    """Records in order of index, start and end, and how late the clients' event loops woke."""

    records: list[Record] = field(default_factory=list)
    start_s: float = 0.0
    end_s: float = 0.0
    lags_s: list[float] = field(default_factory=list)


async def run_here(plan: Plan, start_s: float, on_done: Callable[[Record], None]) -> Run:
    """Send the plan from this process; the clock starts at `start_s`."""
    requests = [plan.target.request(p) for p in plan.prompts]
    asker, run = Asker(plan.target), Run(start_s=start_s)
    lag = asyncio.create_task(watch_lag(run.lags_s))
    gc.freeze()
    await asyncio.sleep(max(0.0, start_s - perf_counter()))
    try:
        if plan.due_s is None:
            await _closed(asker, requests, plan, run, on_done)
        else:
            await _open(asker, requests, plan, run, on_done)
    finally:
        lag.cancel()
        asker.close()
    run.end_s = perf_counter()
    return run


async def _closed(asker: Asker, requests: list[bytes], plan: Plan, run: Run, on_done: Callable[[Record], None]) -> None:
    todo = iter(enumerate(requests))
    width = plan.max_concurrency or len(requests)

    async def one_after_another() -> None:
        for index, request in todo:
            record = await asker.ask(index, request, perf_counter())
            run.records.append(record)
            on_done(record)
            if perf_counter() > run.start_s + plan.limit_s:
                return

    await asyncio.gather(*(one_after_another() for _ in range(min(width, len(requests)))))


async def _open(asker: Asker, requests: list[bytes], plan: Plan, run: Run, on_done: Callable[[Record], None]) -> None:
    gate = asyncio.Semaphore(plan.max_concurrency or max(1, len(requests)))

    async def at(index: int, request: bytes, due_s: float) -> None:
        async with gate:
            record = await asker.ask(index, request, due_s)
        run.records.append(record)
        on_done(record)

    async with asyncio.TaskGroup() as group:
        for index, (request, offset_s) in enumerate(zip(requests, plan.due_s or (), strict=True)):
            due_s = run.start_s + offset_s
            if offset_s > plan.limit_s:
                break
            if (wait_s := due_s - perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            group.create_task(at(index, request, due_s))


def run_plan(plan: Plan, processes: int, progress: Callable[[int, int], None]) -> Run:
    """Send the plan from so many processes and gather what they saw; `progress(done, failed)` about once a second."""
    context = multiprocessing.get_context("spawn")
    queue: Queue[Any] = context.Queue()
    done = context.Array("q", [0, 0])
    start_s = perf_counter() + 1.0 + 0.5 * processes + len(plan.prompts) * 2e-5
    parts = [
        context.Process(target=_child, args=(plan.share(p, processes), p, start_s, queue, done), daemon=True)
        for p in range(processes)
    ]
    for part in parts:
        part.start()
    found: list[tuple[int, Run]] = []
    while len(found) < processes:
        sleep(0 if not queue.empty() else 0.5)
        progress(done[0], done[1])
        while not queue.empty():
            found.append(queue.get())
        if any(p.exitcode not in (None, 0) for p in parts):
            raise RuntimeError("a client process failed; its traceback is above")
    for part in parts:
        part.join()
    progress(done[0], done[1])
    return _gather(found, processes)


def _child(plan: Plan, part: int, start_s: float, queue: Any, done: Any) -> None:
    def count(record: Record) -> None:
        with done.get_lock():
            done[0] += 1
            done[1] += not record.ok

    run = uvloop.run(run_here(plan, start_s, count))
    queue.put((part, run))


def _gather(found: list[tuple[int, Run]], processes: int) -> Run:
    """One run of all parts, with the indices of the whole plan."""
    whole = Run(start_s=min(r.start_s for _, r in found), end_s=max(r.end_s for _, r in found))
    for part, run in found:
        for record in run.records:
            record.index = record.index * processes + part
        whole.records += run.records
        whole.lags_s += run.lags_s
    whole.records.sort(key=lambda r: r.index)
    return whole
