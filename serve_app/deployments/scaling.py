"""Serve's policies: replicas by a pool's share of the demand, or by requests in flight.

Serve's own rule counts requests that pass its handles; ours go straight to the replicas, so every figure comes from
`record_autoscaling_stats` of Gateways and replicas. Serve applies the bounds and delays of each deployment to what a
policy returns. This module is pickled by value into Serve's controller: it stays small, the arithmetic is elsewhere.
"""

import logging
import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from typing import Any

from serve_app.autoscaling.policy import Memory, PoolLimits, PoolSignals, ScalingPlan, ScalingSettings, limits_of, plan
from serve_app.autoscaling.signals import IN_FLIGHT, Reports, pool_signals
from serve_app.config.pools import PoolConfig
from serve_app.observability.definitions import SCALING_HELD, SCALING_TARGET

GATEWAY = "Gateway"
SHARE_POLICY = "serve_app.deployments.scaling:SharePolicy"
"""What an application's `autoscaling_policy.policy_function` names in a Serve config; it takes no arguments."""
STALE_S = ScalingSettings().stale_s
_EVERY_S = 0.5
"""Serve calls ten times a second; reports arrive once a second."""


def share_limits(pool: PoolConfig) -> dict[str, float] | None:
    """A pool's limits as keyword arguments of PoolLimits; None unless it is to follow its share."""
    bounds = pool.replicas
    return None if bounds.fixed or pool.remote or bounds.policy != "share" else asdict(limits_of(bounds))


def required_replicas(in_flight: float, queued: float, target: float) -> int:
    """Replicas for this many requests at `target` each; at least one while a request waits."""
    return max(math.ceil((in_flight + queued) / target), 1 if in_flight + queued > 0 else 0)


class InFlightPolicy:
    """Serve's policy of one deployment over `required_replicas`. Holds while a running replica has not reported.

    `pool` and `share` are not its own: SharePolicy reads them where the application has one, and this policy is what
    acts where it has none.
    """

    def __init__(
        self, target_ongoing_requests: float, pool: str = "", share: Mapping[str, float] | None = None
    ) -> None:
        self.target_ongoing_requests = target_ongoing_requests

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Required replicas, and no state."""
        reported: Mapping[Any, float] = (ctx.aggregated_metrics or {}).get(IN_FLIGHT, {})
        if len(reported) < len(ctx.running_replicas):
            return ctx.target_num_replicas, {}
        queued = ctx.total_queued_requests or 0.0
        return required_replicas(sum(reported.values()), queued, self.target_ongoing_requests), {}


class SharePolicy:
    """Serve's policy of the whole application over autoscaling/policy.py; pools with `in_flight` get that.

    What it remembers (forecast, times of service, wishes) lives in this object, in the controller: after a restart of
    the controller it holds the replicas in force until Gateways report again, and forecasts afresh.
    """

    def __init__(self) -> None:
        self._memory: Memory = {}
        self._targets: dict[Any, int] = {}
        self._planned_s = -math.inf
        self._unheard_since: dict[str, float] = {}
        self._gauges = _Gauges()

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
        """Replicas of every pool, by deployment; Gateways are left as they are. No state."""
        pools = {id_: c for id_, c in contexts.items() if c.config.policy.policy_kwargs.get("pool")}
        shared = {id_: c for id_, c in pools.items() if c.config.policy.policy_kwargs.get("share")}
        targets: dict[Any, int] = {}
        for id_, context in pools.items():
            if id_ not in shared:
                by_count = InFlightPolicy(context.config.policy.policy_kwargs["target_ongoing_requests"])
                targets[id_] = by_count(context)[0]
        now_s = max((c.current_time for c in shared.values()), default=0.0)
        if shared and (now_s - self._planned_s >= _EVERY_S or set(shared) != set(self._targets)):
            self._plan(shared, next((_newest(c) for c in contexts.values() if c.deployment_name == GATEWAY), {}), now_s)
        return targets | {id_: self._targets[id_] for id_ in shared}, {}

    def _plan(self, shared: Mapping[Any, Any], gateways: Reports, now_s: float) -> None:
        signals: dict[str, PoolSignals | None] = {}
        limits: dict[str, PoolLimits] = {}
        current: dict[str, int] = {}
        names = {id_: context.config.policy.policy_kwargs["pool"] for id_, context in shared.items()}
        for id_, context in shared.items():
            limits[names[id_]] = PoolLimits(**context.config.policy.policy_kwargs["share"])
            current[names[id_]] = context.target_num_replicas
            signals[names[id_]] = pool_signals(names[id_], gateways, _newest(context), context.current_num_replicas)
        made = plan(signals, limits, current, self._memory, now_s)
        self._memory, self._planned_s = made.memory, now_s
        self._targets = {id_: made.targets[name].replicas for id_, name in names.items()}
        self._report(made, current)
        self._watch(signals, now_s)

    def _report(self, made: ScalingPlan, current: Mapping[str, int]) -> None:
        for pool, target in made.targets.items():
            self._gauges.target.set(target.replicas, {"pool": pool})
            if target.replicas != current[pool]:
                _log().info("pool %s: %d -> %d replicas: %s", pool, current[pool], target.replicas, target.reason)

    def _watch(self, signals: Mapping[str, PoolSignals | None], now_s: float) -> None:
        """Log once that a pool is held without reports, after `STALE_S`: startup takes a moment, too."""
        for pool, seen in signals.items():
            unheard = seen is None or now_s - seen.at_s > STALE_S
            self._gauges.held.set(float(unheard), {"pool": pool})
            if not unheard:
                if self._unheard_since.pop(pool, 0.0) == math.inf:
                    _log().info("pool %s: the Gateways report again", pool)
                continue
            since = self._unheard_since.setdefault(pool, now_s)
            if since < math.inf and now_s - since > STALE_S:
                self._unheard_since[pool] = math.inf
                _log().warning("pool %s: no fresh report of every Gateway; its replicas are held", pool)


class _Gauges:
    """`ray_jethro_autoscaling_target` and `ray_jethro_autoscaling_held`, as Ray exports them."""

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        self.target, self.held = (
            Gauge(one.name, one.meaning, tag_keys=one.labels) for one in (SCALING_TARGET, SCALING_HELD)
        )


def _log() -> logging.Logger:
    return logging.getLogger("ray.serve")


def _newest(context: Any) -> Reports:
    """By running replica, the newest point of each figure; a replica without reports has none."""
    reports: dict[Hashable, dict[str, tuple[float, float]]] = {replica: {} for replica in context.running_replicas}
    for figure, by_replica in (context.raw_metrics or {}).items():
        for replica, series in by_replica.items():
            if series and replica in reports:
                reports[replica][figure] = (series[-1].timestamp, series[-1].value)
    return reports
