"""Ray Serve's default rule, written again so that it can be simulated: mean ongoing requests / target, with delays.

Follows `replica_queue_length_autoscaling_policy` of Ray 2.60 with its scaling factors of 1, the delays applied to it,
and the look-back over what replicas push; the tests hold it to Ray's own code.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.autoscaling.policy import PoolLimits
from serve_app.autoscaling.simulator import PoolView

_EPSILON_S = 1e-6
"""Ray's tolerance when it compares what has passed with a delay."""


@dataclass(frozen=True, slots=True)
class Delays:
    """How long a wish must last before it is followed, seconds; Ray's defaults."""

    up_s: float = 30.0
    down_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Reports:
    """How replicas tell what they have: pushed every `push_s`, averaged over `look_back_s`; Ray's defaults."""

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
    reports: Reports = Reports()
    name: str = "request count"
    _seen: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)
    _pushed_s: dict[str, float] = field(default_factory=dict)
    _decisions: dict[str, ServeDecision] = field(default_factory=dict)

    def targets(self, views: Mapping[str, PoolView], now_s: float) -> Mapping[str, int]:
        """Replicas wanted by pool."""
        wanted = {}
        for name, view in views.items():
            bounds = self.limits[name]
            decision = self._decisions.setdefault(name, ServeDecision(self.target_ongoing[name], self.delays))
            found = decision.replicas(self._requests(name, view, now_s), view.running, view.target, now_s)
            wanted[name] = min(max(found, bounds.min_replicas), bounds.max_replicas)
        return wanted

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
