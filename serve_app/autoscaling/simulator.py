"""A discrete-event simulation of pools under a scaling rule: arrivals, queues, batching, replicas that warm up.

A replica serves up to `concurrency` calls at once; each call is slowed by those it joins. A call without a place waits,
first come first served: in its pool's queue, or in that of the replica with the fewest that wait; both are bounded by
the replicas that are up, and beyond it the call is shed.
Rules see what a controller would see: rates over a window, reported with a delay. The same seed gives the same run.

What became of a trace under a scaling rule: times to first token, replica-hours, and the course of it.
"""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from operator import attrgetter
from typing import Protocol

import numpy as np

from serve_app.arrays import Floats
from serve_app.autoscaling.traces import Trace


@dataclass(frozen=True, slots=True)
class Timeline:
    """Once a control interval: seconds, and by pool the target, the running replicas and the calls that wait."""

    at_s: Floats
    target: Mapping[str, Floats]
    running: Mapping[str, Floats]
    queued: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What became of a trace. `ttft_s` of shape [n], nan where the query was shed; `replica_hours` by pool."""

    rule: str
    trace: Trace
    ttft_s: Floats
    replica_hours: Mapping[str, float]
    timeline: Timeline

    @property
    def shed(self) -> int:
        """Queries that were refused."""
        return int(np.isnan(self.ttft_s).sum())

    def goodput(self, slo_s: float) -> float:
        """Share of all queries whose first token came within `slo_s`."""
        return float((self.ttft_s <= slo_s).mean()) if len(self.ttft_s) else 1.0

    def ttft(self, quantile: float, strong: bool | None = None) -> float:
        """A quantile of the time to first token, seconds, over the queries of one pool or of both; nan if none."""
        rows = np.isfinite(self.ttft_s)
        if strong is not None:
            rows &= self.trace.strong == strong
        return float(np.quantile(self.ttft_s[rows], quantile)) if rows.any() else float("nan")


@dataclass(frozen=True, slots=True)
class PoolModel:
    """How a pool behaves. A call takes `prefill_s` to its first token, then `token_s` a token, both longer by the share
    `slowdown` for each call that it joins. `queue`: calls that may wait for each replica. `own_queues`: who waits at a
    replica stays with it, as behind our Gateways, whatever replica comes up later."""

    concurrency: int = 8
    prefill_s: float = 0.05
    token_s: float = 0.01
    slowdown: float = 0.05
    warm_up_s: float = 10.0
    queue: int = 64
    own_queues: bool = False

    def times(self, tokens: float, others: int) -> tuple[float, float]:
        """Seconds to the first token and to the last."""
        slower = 1.0 + self.slowdown * others
        return self.prefill_s * slower, (self.prefill_s + tokens * self.token_s) * slower


@dataclass(frozen=True, slots=True)
class PoolView:
    """A rule's input for one pool, as of the last report; `target` is in force."""

    at_s: float
    requested_per_s: float
    service_s: float | None
    in_flight: int
    queued: int
    running: int
    target: int


class Rule(Protocol):
    """Decides on replicas once a control interval."""

    name: str

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        """Target replicas by pool."""


@dataclass(frozen=True, slots=True)
class Control:
    """How often the rule decides, what window rates are taken over, and how old a report is when it is seen."""

    every_s: float = 1.0
    window_s: float = 5.0
    delay_s: float = 1.0


@dataclass(slots=True, eq=False)
class _Replica:
    ready: bool = False
    leaving: bool = False
    calls: int = 0
    started_s: float = 0.0
    waiting: deque[int] = field(default_factory=deque)

    @property
    def open(self) -> int:
        return self.calls + len(self.waiting)


_Event = tuple[str, _Replica, float]
"""Pool, replica, and how long its call took."""


@dataclass(slots=True)
class _Pool:
    model: PoolModel
    target: int
    replicas: list[_Replica] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    arrived: deque[float] = field(default_factory=deque)
    finished: deque[tuple[float, float]] = field(default_factory=deque)
    replica_s: float = 0.0
    reports: deque[PoolView] = field(default_factory=deque)
    up: list[_Replica] = field(default_factory=list)
    """Those that take calls: ready and not leaving."""

    @property
    def queued(self) -> int:
        return len(self.waiting) + sum(len(r.waiting) for r in self.replicas)

    def count_up(self) -> None:
        self.up = [r for r in self.replicas if r.ready and not r.leaving]


def simulate(
    trace: Trace,
    models: Mapping[str, PoolModel],
    rule: Rule,
    initial: Mapping[str, int],
    control: Control = Control(),
    names: Sequence[str] = ("small", "large"),
) -> SimulationResult:
    """Run a trace to its end, open calls included; `names` are the weak and the strong pool."""
    return _Simulation(trace, rule, control, {name: _Pool(models[name], initial[name]) for name in names}).run()


_calls = attrgetter("calls")


class _Simulation:
    """The state of one simulation, and its events: (time, order, kind, payload)."""

    def __init__(self, trace: Trace, rule: Rule, control: Control, pools: Mapping[str, _Pool]) -> None:
        self.trace, self.rule, self.control, self.pools, self.names = trace, rule, control, pools, tuple(pools)
        for pool in self.pools.values():
            pool.replicas = [_Replica(ready=True) for _ in range(pool.target)]
            pool.count_up()
        self.ttft = np.full(len(trace), np.nan)
        self.order = count()
        self.events: list[tuple[float, int, str, _Event]] = []
        self.rows: list[tuple[float, dict[str, tuple[int, int, int]]]] = []
        self.now = 0.0

    def run(self) -> SimulationResult:
        arrivals = iter(range(len(self.trace)))
        upcoming = next(arrivals, None)
        tick = 0.0
        while upcoming is not None or self.events or tick <= self.trace.duration_s:
            at = self.trace.at_s[upcoming] if upcoming is not None else np.inf
            event = self.events[0][0] if self.events else np.inf
            if tick <= min(at, event) and tick <= self.trace.duration_s:
                self.now = tick
                self._tick()
                tick += self.control.every_s
            elif event <= at:
                self.now, _, kind, payload = heapq.heappop(self.events)
                self._happen(kind, payload)
            elif upcoming is not None:
                self.now = float(at)
                self._arrive(upcoming)
                upcoming = next(arrivals, None)
        return self._outcome()

    def _arrive(self, i: int) -> None:
        pool = self.pools[self.names[int(self.trace.strong[i])]]
        pool.arrived.append(self.now)
        if self._start(pool, i):
            return
        if pool.model.own_queues and pool.up:
            shortest = min((r.waiting for r in pool.up), key=len)
            if len(shortest) < pool.model.queue:
                shortest.append(i)
        elif len(pool.waiting) < pool.model.queue * max(1, len(pool.up)):
            pool.waiting.append(i)

    def _start(self, pool: _Pool, i: int) -> bool:
        """Give a call a place at the least loaded replica, if there is one."""
        replica = min(pool.up, key=_calls, default=None)
        if replica is None or replica.calls >= pool.model.concurrency:
            return False
        self._serve(pool, replica, i)
        return True

    def _serve(self, pool: _Pool, replica: _Replica, i: int) -> None:
        first_s, whole_s = pool.model.times(float(self.trace.tokens[i]), replica.calls)
        replica.calls += 1
        self.ttft[i] = self.now - self.trace.at_s[i] + first_s
        name = self.names[int(self.trace.strong[i])]
        self._later(whole_s, "finish", (name, replica, whole_s))

    def _happen(self, kind: str, payload: _Event) -> None:
        name, replica, seconds = payload
        pool = self.pools[name]
        if kind == "ready":
            if replica not in pool.replicas:
                return  # given up before it was up
            replica.ready = True
            pool.count_up()
        else:
            replica.calls -= 1
            pool.finished.append((self.now, seconds))
            if replica.waiting:
                self._serve(pool, replica, replica.waiting.popleft())
            elif replica.leaving and replica.calls == 0:
                self._gone(pool, replica)
        while pool.waiting and self._start(pool, pool.waiting[0]):
            pool.waiting.popleft()
        if pool.model.own_queues and pool.up:  # those that waited for any replica at all
            while pool.waiting:
                min((r.waiting for r in pool.up), key=len).append(pool.waiting.popleft())

    def _tick(self) -> None:
        views = {name: self._view(pool) for name, pool in self.pools.items()}
        targets = self.rule.targets(views, self.now)
        for name, pool in self.pools.items():
            self._scale(name, pool, int(targets[name]))
        self.rows.append((self.now, {n: (p.target, len(p.up), p.queued) for n, p in self.pools.items()}))

    def _view(self, pool: _Pool) -> PoolView:
        """The newest report that is at least `delay_s` old (the first one at once)."""
        since = self.now - self.control.window_s
        while pool.arrived and pool.arrived[0] < since:
            pool.arrived.popleft()
        while pool.finished and pool.finished[0][0] < since:
            pool.finished.popleft()
        window = min(self.control.window_s, max(self.now, self.control.every_s))
        pool.reports.append(
            PoolView(
                at_s=self.now,
                requested_per_s=len(pool.arrived) / window,
                service_s=float(np.mean([s for _, s in pool.finished])) if pool.finished else None,
                in_flight=sum(r.calls for r in pool.replicas),
                queued=pool.queued,
                running=len(pool.up),
                target=pool.target,
            )
        )
        while len(pool.reports) > 1 and pool.reports[1].at_s <= self.now - self.control.delay_s:
            pool.reports.popleft()
        return replace(pool.reports[0], running=len(pool.up), target=pool.target)

    def _scale(self, name: str, pool: _Pool, target: int) -> None:
        pool.target = target
        staying = [r for r in pool.replicas if not r.leaving]
        for _ in range(target - len(staying)):
            replica = _Replica(started_s=self.now)
            pool.replicas.append(replica)
            self._later(pool.model.warm_up_s, "ready", (name, replica, 0.0))
        # those that are not up yet go first, then those with the least to finish
        for replica in sorted(staying, key=lambda r: (r.ready, r.open))[: max(0, len(staying) - target)]:
            replica.leaving = True
            if replica.open == 0:
                self._gone(pool, replica)
        pool.count_up()

    def _gone(self, pool: _Pool, replica: _Replica) -> None:
        pool.replicas.remove(replica)
        # calls still open at the end of the trace end after it, at no cost
        pool.replica_s += max(0.0, min(self.now, self.trace.duration_s) - replica.started_s)

    def _later(self, seconds: float, kind: str, payload: _Event) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), kind, payload))

    def _outcome(self) -> SimulationResult:
        end = self.trace.duration_s
        hours = {
            name: (pool.replica_s + sum(max(0.0, end - r.started_s) for r in pool.replicas)) / 3600
            for name, pool in self.pools.items()
        }
        at_s = np.array([t for t, _ in self.rows])
        columns = [
            {n: np.array([row[n][k] for _, row in self.rows], dtype=np.float64) for n in self.names} for k in range(3)
        ]
        return SimulationResult(self.rule.name, self.trace, self.ttft, hours, Timeline(at_s, *columns))
