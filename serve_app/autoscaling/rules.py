"""Scaling rules to compare: ours, Ray Serve's default on ongoing requests, a reactive one on queues, and an oracle."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve_app.autoscaling.policy import Memory, PoolLimits, PoolSignals, Settings, plan
from serve_app.autoscaling.simulator import PoolModel, PoolView
from serve_app.autoscaling.traces import Trace


@dataclass(slots=True)
class ShareRule:
    """Our policy over what the Gateways want (policy.py)."""

    limits: Mapping[str, PoolLimits]
    settings: Settings = Settings()  # noqa: RUF009 - frozen
    name: str = "routed share"
    _memory: Memory = field(default_factory=dict)

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        """Replicas wanted by pool."""
        signals = {n: PoolSignals(v.wanted_per_s, v.service_s, v.queued, v.running, v.at_s) for n, v in views.items()}
        current = {n: v.target for n, v in views.items()}
        made = plan(signals, self.limits, current, self._memory, now_s, self.settings)
        self._memory = made.memory
        return {n: t.replicas for n, t in made.targets.items()}


@dataclass(slots=True)
class _Delayed:
    """Serve's delays: a wish must last, without a wish for the other direction or for none, before it is followed."""

    up_s: float
    down_s: float
    _since: float | None = None
    _direction: int = 0

    def followed(self, wish: int, target: int, now_s: float) -> int:
        direction = (wish > target) - (wish < target)
        if direction != self._direction or self._since is None:
            self._direction, self._since = direction, now_s if direction else None
        if direction == 0 or self._since is None:
            return target
        if now_s - self._since + 1e-6 >= (self.up_s if direction > 0 else self.down_s):
            self._since = None
            return wish
        return target


@dataclass(slots=True)
class RequestCountRule:
    """Ray Serve's default: mean ongoing requests over a look-back / target, with its delays (Ray 2.60's defaults).

    `target_ongoing` by pool; requests that wait count, as Serve counts those that wait at its handles.
    """

    limits: Mapping[str, PoolLimits]
    target_ongoing: Mapping[str, float]
    look_back_s: float = 30.0
    report_s: float = 10.0
    up_delay_s: float = 30.0
    down_delay_s: float = 600.0
    name: str = "request count (Serve's default)"
    _seen: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)
    _delays: dict[str, _Delayed] = field(default_factory=dict)

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        """Replicas wanted by pool."""
        return {name: self._target(name, view, now_s) for name, view in views.items()}

    def _target(self, name: str, view: PoolView, now_s: float) -> int:
        bounds = self.limits[name]
        seen = self._seen.setdefault(name, deque())
        if not seen or now_s - seen[-1][0] >= self.report_s - 1e-6:
            seen.append((now_s, float(view.in_flight + view.queued)))
        while seen[0][0] < now_s - self.look_back_s:
            seen.popleft()
        if view.target == 0:  # from zero Serve does not wait
            return min(max(1, bounds.min_replicas), bounds.max_replicas) if view.queued else bounds.min_replicas
        ongoing = sum(n for _, n in seen) / len(seen)
        wish = math.ceil(ongoing / self.target_ongoing[name])
        if wish == 0 and view.target > 1:
            wish = 1
        wish = min(max(wish, bounds.min_replicas), bounds.max_replicas)
        delays = self._delays.setdefault(name, _Delayed(self.up_delay_s, self.down_delay_s))
        return delays.followed(wish, view.target, now_s)


@dataclass(slots=True)
class QueueRule:
    """Reactive: up by what waits now, down by one replica when all of it could be served by one fewer for a while."""

    limits: Mapping[str, PoolLimits]
    hold_s: float = 60.0
    name: str = "queue"
    _spare_since: dict[str, float] = field(default_factory=dict)

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        """Replicas wanted by pool."""
        return {name: self._target(name, view, now_s) for name, view in views.items()}

    def _target(self, name: str, view: PoolView, now_s: float) -> int:
        bounds, target = self.limits[name], view.target
        if view.queued:
            self._spare_since.pop(name, None)
            wish = max(target, view.running + math.ceil(view.queued / bounds.concurrency))
        elif view.in_flight <= 0.8 * bounds.concurrency * (target - 1):
            since = self._spare_since.setdefault(name, now_s)
            wish = target - 1 if now_s - since >= self.hold_s else target
            if wish < target:
                self._spare_since[name] = now_s
        else:
            self._spare_since.pop(name, None)
            wish = target
        return min(max(wish, bounds.min_replicas), bounds.max_replicas)


class OracleRule:
    """Knows the trace: at each moment the replicas that the calls of the next `warm_up_s` will need, no more.

    Needed are places for every call that is open at once if none ever waits. No rule can answer as fast with fewer
    replica-hours, up to what batching and waiting a little would save.
    """

    name = "oracle"

    def __init__(self, trace: Trace, models: Mapping[str, PoolModel], limits: Mapping[str, PoolLimits]) -> None:
        self.limits = limits
        self._warm = {name: model.warm_up_s for name, model in models.items()}
        self._needed = {
            name: _open_calls(trace, trace.strong == (i == 1), model) / model.concurrency
            for i, (name, model) in enumerate(models.items())
        }

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        """Replicas wanted by pool."""
        wanted = {}
        for name in views:
            bounds, start = self.limits[name], int(now_s)
            ahead = self._needed[name][start : start + int(self._warm[name]) + 3]
            need = math.ceil(float(ahead.max())) if len(ahead) else 0
            wanted[name] = min(max(need, bounds.min_replicas), bounds.max_replicas)
        return wanted


def _open_calls(trace: Trace, rows: NDArray[np.bool_], model: PoolModel) -> NDArray[np.float64]:
    """Most calls open at once in each second, if each starts when it comes into a replica that is half full."""
    seconds = int(trace.duration_s) + 1
    starts = trace.at_s[rows]
    whole = np.array([model.times(float(t), model.concurrency // 2)[1] for t in trace.tokens[rows]])
    times = np.concatenate([starts, starts + whole])
    change = np.concatenate([np.ones(len(starts)), -np.ones(len(starts))])
    order = np.argsort(times, kind="stable")
    level = np.cumsum(change[order])
    most = np.zeros(seconds)
    at = np.minimum(times[order].astype(np.int64), seconds - 1)
    np.maximum.at(most, at, level)
    return most
