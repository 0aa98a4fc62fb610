"""A pool's limits as its config states them."""

from serve_app.autoscaling.policy import PoolLimits
from serve_app.config.tree import ReplicasConfig


def limits_of(bounds: ReplicasConfig) -> PoolLimits:
    """What the policy is told of a pool with these bounds."""
    return PoolLimits(
        min_replicas=bounds.min,
        max_replicas=bounds.max,
        concurrency=bounds.concurrency,
        headroom=bounds.headroom,
        warm_up_s=bounds.warm_up_s,
        hold_s=bounds.hold_s,
        idle_s=bounds.idle_s,
    )
