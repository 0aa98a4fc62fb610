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

    Needed are places for every call that is open at once if none ever waits. No rule can answer as fast with fewer
    replica-hours, up to what waiting a little would save. `names`: the weak and the strong pool.
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
    """Most calls open at once in each second of the trace, if each starts when it comes beside all others but one."""
    seconds = int(trace.duration_s) + 1
    starts = trace.at_s[rows]
    whole = np.array([model.times(float(t), model.concurrency - 1)[1] for t in trace.tokens[rows]])
    times = np.concatenate([starts, starts + whole])
    change = np.concatenate([np.ones(len(starts)), -np.ones(len(starts))])
    order = np.argsort(times, kind="stable")
    level = np.concatenate([[0.0], np.cumsum(change[order])])
    # within a second: what was open when it began, and what was open after each change in it
    first = np.searchsorted(times[order], np.arange(seconds + 1))
    return np.array([level[first[s] : first[s + 1] + 1].max() for s in range(seconds)])
