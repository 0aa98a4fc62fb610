"""Scaling rules to compare: ours, a reactive one on queues, Ray Serve's default, and an oracle that knows the trace.

`RequestCountRule` is Ray Serve's default rule in a form that can be simulated: mean ongoing requests / target, with
delays. It follows `replica_queue_length_autoscaling_policy` of Ray 2.60 with its scaling factors of 1, the delays
applied to it, and the look-back over what replicas push; the tests compare it with Ray's own code.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve_app.autoscaling.policy import Memory, PoolLimits, PoolSignals, ScalingSettings, plan
from serve_app.autoscaling.simulator import PoolModel, PoolView
from serve_app.autoscaling.traces import Trace


@dataclass(slots=True)
class ShareRule:
    """Our policy (`policy.plan`) on the calls that the Gateways request."""

    limits: Mapping[str, PoolLimits]
    settings: ScalingSettings = ScalingSettings()  # noqa: RUF009 - frozen
    name: str = "routed share"
    _memory: Memory = field(default_factory=dict)

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        """Target replicas by pool."""
        signals = {
            n: PoolSignals(v.requested_per_s, v.service_s, v.queued, v.running, v.at_s) for n, v in views.items()
        }
        current = {n: v.target for n, v in views.items()}
        made = plan(signals, self.limits, current, self._memory, now_s, self.settings)
        self._memory = made.memory
        return {n: t.replicas for n, t in made.targets.items()}


@dataclass(slots=True)
class QueueRule:
    """Reactive: up by what waits now, down by one replica when all of it could be served by one fewer for a while."""

    limits: Mapping[str, PoolLimits]
    hold_s: float = 60.0
    name: str = "queue"
    _spare_since: dict[str, float] = field(default_factory=dict)

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        """Target replicas by pool."""
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
        return bounds.clip(wish)


_EPSILON_S = 1e-6
"""Ray's tolerance when it compares what has passed with a delay."""


@dataclass(frozen=True, slots=True)
class Delays:
    """How long a wish must last before it is followed, seconds; Ray's defaults."""

    up_s: float = 30.0
    down_s: float = 600.0


@dataclass(frozen=True, slots=True)
class ReportTimes:
    """How replicas report their requests: pushed every `push_s`, averaged over `look_back_s`; Ray's defaults."""

    push_s: float = 10.0
    look_back_s: float = 30.0


@dataclass(slots=True)
class ServeDecision:
    """Serve's decision for one deployment, call by call: the direction of the last wishes, and since when."""

    target_ongoing: float
    delays: Delays = Delays()
    _direction: int = 0
    _since_s: float | None = None

    def replicas(self, requests: float, running: int, target: int, now_s: float) -> int:
        """The new target, before bounds, from the mean of requests that run or wait."""
        if running == 0:  # from zero Serve does not wait
            return max(1, target) if requests > 0 else target
        desired = running * (requests / (self.target_ongoing * running))
        return self._delayed(max(0, _whole(desired, running)), target, now_s)

    def _delayed(self, desired: int, target: int, now_s: float) -> int:
        direction = (desired > target) - (desired < target)
        if direction != self._direction or direction == 0:
            self._since_s = None
        self._direction = direction
        if direction == 0:
            return target
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s + _EPSILON_S < (self.delays.up_s if direction > 0 else self.delays.down_s):
            return target
        self._direction, self._since_s = 0, None
        return max(1, desired) if direction < 0 and target != 1 else desired  # to zero only from one


def _whole(desired: float, running: int) -> int:
    """Ray's rounding with scaling factors of 1."""
    scaled = math.ceil(running + (desired - running))
    return scaled - 1 if math.ceil(desired) < running and scaled == running else scaled


@dataclass(slots=True)
class RequestCountRule:
    """Serve's default for each pool; requests that wait count, as Serve counts those that wait at its handles."""

    limits: Mapping[str, PoolLimits]
    target_ongoing: Mapping[str, float]
    delays: Delays = Delays()
    reports: ReportTimes = ReportTimes()
    name: str = "request count"
    _seen: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)
    _pushed_s: dict[str, float] = field(default_factory=dict)
    _decisions: dict[str, ServeDecision] = field(default_factory=dict)

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        """Target replicas by pool."""
        targets = {}
        for name, view in views.items():
            decision = self._decisions.setdefault(name, ServeDecision(self.target_ongoing[name], self.delays))
            found = decision.replicas(self._requests(name, view, now_s), view.running, view.target, now_s)
            targets[name] = self.limits[name].clip(found)
        return targets

    def _requests(self, name: str, view: PoolView, now_s: float) -> float:
        """Mean over the look-back of what has been pushed; the newest figure is taken to hold until now, as Ray does.

        Ray also drops the part of the window from before its youngest replica, which is left out here.
        """
        seen = self._seen.setdefault(name, deque())
        seen.append((now_s, float(view.in_flight + view.queued)))
        if now_s - self._pushed_s.get(name, -math.inf) >= self.reports.push_s - _EPSILON_S:
            self._pushed_s[name] = now_s
        while seen[0][0] < now_s - self.reports.look_back_s:
            seen.popleft()
        known = [(at_s, n) for at_s, n in seen if at_s <= self._pushed_s[name]]
        ends = [at_s for at_s, _ in known[1:]] + [max(now_s, known[-1][0] + 1e-3)]
        lasted = [end_s - at_s for (at_s, _), end_s in zip(known, ends, strict=True)]
        return sum(n * s for (_, n), s in zip(known, lasted, strict=True)) / sum(lasted)


class OracleRule:
    """At each moment the replicas that the calls of the time until a new replica is up will need, no more.

    Needed are places for the calls that are open on average over a second, so that a call may wait about as long. No
    rule as good is cheaper by much: what is left is the cost of a replica from its wish until it is up, which a rule
    that keeps one too many now and then may save. `names`: the weak and the strong pool.
    """

    name = "oracle"

    def __init__(
        self,
        trace: Trace,
        models: Mapping[str, PoolModel],
        limits: Mapping[str, PoolLimits],
        names: Sequence[str] = ("small", "large"),
    ) -> None:
        self.limits = limits
        self._ahead_s = {name: math.ceil(models[name].warm_up_s) + 2 for name in names}
        self._needed = {
            name: _open_calls(trace, trace.strong == bool(i), models[name]) / models[name].concurrency
            for i, name in enumerate(names)
        }

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        """Target replicas by pool."""
        return {name: self.need(name, now_s) for name in views}

    def need(self, name: str, now_s: float) -> int:
        """Replicas of one pool, within its bounds."""
        start = int(now_s)
        ahead = self._needed[name][start : start + self._ahead_s[name] + 1]
        return self.limits[name].clip(math.ceil(float(ahead.max()) - 1e-9) if len(ahead) else 0)


def _open_calls(trace: Trace, rows: NDArray[np.bool_], model: PoolModel) -> NDArray[np.float64]:
    """Mean number of calls open in each second of the trace, if each starts on arrival in a replica that is otherwise
    full.

    Calls open at a time t since the start sum up to the integral of (t - start) over those that began before t, less
    the same for those that ended; its differences are the means.
    """
    starts = np.sort(trace.at_s[rows])
    whole = np.array([model.times(float(t), model.concurrency - 1)[1] for t in trace.tokens[rows]])
    ends = np.sort(trace.at_s[rows] + whole)
    edges = np.arange(int(trace.duration_s) + 2, dtype=np.float64)
    open_s: NDArray[np.float64] = np.diff(_since(starts, edges) - _since(ends, edges))
    return open_s


def _since(times: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """At each edge, the sum of what has passed since every time before it; both ascend."""
    before = np.searchsorted(times, edges)
    passed: NDArray[np.float64] = edges * before - np.concatenate([[0.0], np.cumsum(times)])[before]
    return passed
