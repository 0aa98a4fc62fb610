"""Replicas from requests in flight, as the replicas themselves count them.

Serve's own rule counts requests that pass its handles; ours go straight to the replicas, so the count comes from
`record_autoscaling_stats`. Serve applies bounds and delays to what the policy returns.
"""

import math
from collections.abc import Mapping
from typing import Any

IN_FLIGHT = "in_flight"


def wanted_replicas(in_flight: float, queued: float, target: float) -> int:
    """Replicas for this many requests at `target` each; at least one while anybody waits."""
    return max(math.ceil((in_flight + queued) / target), 1 if in_flight + queued > 0 else 0)


class InFlightPolicy:
    """Serve's policy class over `wanted_replicas`. Holds the target while a running replica has not reported."""

    def __init__(self, target_ongoing_requests: float) -> None:
        self.target_ongoing_requests = target_ongoing_requests

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Replicas wanted now, and no state."""
        reported: Mapping[Any, float] = (ctx.aggregated_metrics or {}).get(IN_FLIGHT, {})
        if len(reported) < len(ctx.running_replicas):
            return ctx.target_num_replicas, {}
        queued = ctx.total_queued_requests or 0.0
        return wanted_replicas(sum(reported.values()), queued, self.target_ongoing_requests), {}
