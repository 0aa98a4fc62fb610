"""Scaling rules to compare: ours, and a reactive one on queues."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.autoscaling.policy import Memory, PoolLimits, PoolSignals, Settings, plan
from serve_app.autoscaling.simulator import PoolView


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
