"""Closed and open loops against a scripted server."""

from time import perf_counter

from benchmarks.load.ask import Target
from benchmarks.load.loops import Plan, Run, _gather, run_here
from benchmarks.load.prompts import Prompt
from benchmarks.record import Record
from tests.benchmarks.load_server import scripted_server


def prompts(n: int) -> list[Prompt]:
    return [Prompt(({"role": "user", "content": "good"},), "42") for _ in range(n)]


async def test_closed_loop_asks_all_and_keeps_to_its_width() -> None:
    async with scripted_server() as url:
        run = await run_here(Plan(Target(url), prompts(20), 4), perf_counter(), lambda r: None)
    assert sorted(r.index for r in run.records) == list(range(20))
    assert all(r.ok for r in run.records)
    steps = sorted([(r.sent_s, 1) for r in run.records] + [(r.end_s, -1) for r in run.records])
    open_now = [sum(s for _, s in steps[: i + 1]) for i in range(len(steps))]
    assert max(open_now) <= 4


async def test_open_loop_counts_from_the_schedule_even_if_the_gate_is_shut() -> None:
    async with scripted_server() as url:
        plan = Plan(Target(url), prompts(5), 1, due_s=[0.0] * 5)
        start_s = perf_counter()
        run = await run_here(plan, start_s, lambda r: None)
    assert {r.due_s for r in run.records} == {start_s}
    last = max(run.records, key=lambda r: r.sent_s)
    assert last.lag_s > 0
    assert last.e2el_s > last.end_s - last.sent_s


async def test_nothing_is_sent_after_the_limit() -> None:
    async with scripted_server() as url:
        closed = await run_here(Plan(Target(url), prompts(50), 2, limit_s=0.0), perf_counter(), lambda r: None)
        due = [0.0, 0.01, 9.0]
        opened = await run_here(Plan(Target(url), prompts(3), None, due, limit_s=1.0), perf_counter(), lambda r: None)
    assert len(closed.records) == 2
    assert len(opened.records) == 2


def test_shares_cover_the_plan_once() -> None:
    plan = Plan(Target("http://x:1"), prompts(7), 5, due_s=[float(i) for i in range(7)])
    shares = [plan.share(p, 3) for p in range(3)]
    assert [s.max_concurrency for s in shares] == [2, 2, 1]
    assert [list(s.due_s or ()) for s in shares] == [[0, 3, 6], [1, 4], [2, 5]]


def test_gathering_gives_the_indices_of_the_whole_plan() -> None:
    def part(*indices: int) -> Run:
        return Run([Record(i, 0, 0, 1, "ok", 200) for i in indices], 0.0, 1.0)

    whole = _gather([(1, part(1, 0)), (0, part(0, 1, 2))], 2)
    assert [r.index for r in whole.records] == [0, 1, 2, 3, 4]
