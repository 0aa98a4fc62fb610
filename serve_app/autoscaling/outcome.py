"""What became of a trace under a scaling rule: times to first token, replica-hours, and the course of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.autoscaling.traces import Trace

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Once a control interval: seconds, and by pool the target, the running replicas and the calls that wait."""

    at_s: Floats
    target: Mapping[str, Floats]
    running: Mapping[str, Floats]
    queued: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Outcome:
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
