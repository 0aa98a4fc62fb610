"""The oracle: a rule that knows the trace, as the bound that no rule can beat by much."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.autoscaling.policy import PoolLimits
from serve_app.autoscaling.simulator import PoolModel, PoolView
from serve_app.autoscaling.traces import Trace


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
        """Replicas wanted by pool."""
        return {name: self.need(name, now_s) for name in views}

    def need(self, name: str, now_s: float) -> int:
        """Replicas of one pool, within its bounds."""
        start = int(now_s)
        ahead = self._needed[name][start : start + self._ahead_s[name] + 1]
        need = math.ceil(float(ahead.max()) - 1e-9) if len(ahead) else 0
        return min(max(need, self.limits[name].min_replicas), self.limits[name].max_replicas)


def _open_calls(trace: Trace, rows: NDArray[np.bool_], model: PoolModel) -> NDArray[np.float64]:
    """Mean number of calls open in each second of the trace, if each starts when it comes beside a full replica's rest.

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
