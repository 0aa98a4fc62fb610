"""Reports of Gateways and replicas for scaling, and the policy's signals computed from them.

A Gateway counts the calls that its decisions request, before any fallback or refusal, and reports them as rates over
the last few seconds. A replica reports how long a call stays in its engine, and how many are open and wait there. Every
report is numbers by name, since that is what Serve carries.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from serve_app.autoscaling.policy import PoolSignals

IN_FLIGHT, QUEUED, SERVICE, FINISHED = "in_flight", "queued", "service_s", "finished"
ARRIVALS, REFUSED = "arrivals_per_s", "refused_per_s"
_REQUESTED, _READ, _WRITTEN = "requested_per_s:", "tokens_in_per_s:", "tokens_out_per_s:"
_PARTS = 10
_WEIGHED = 20.0
"""Finished calls from which a replica's mean service time counts in full."""

Point = tuple[float, float]
"""When a figure was true, seconds since 1970 by the reporter's clock, and the figure."""
Reports = Mapping[Hashable, Mapping[str, Point]]
"""Reporter to figure to newest point."""


@dataclass(slots=True)
class Demand:
    """One Gateway's traffic over the last `window_s`; on one event loop, no locks. Every method is cheap."""

    window_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    _counts: dict[int, Counter[str]] = field(default_factory=dict)
    _since: float = 0.0

    def __post_init__(self) -> None:
        self._since = self.clock()

    def arrived(self) -> None:
        """A request came in."""
        self._add(ARRIVALS, 1)

    def refused(self) -> None:
        """A request was rejected before its pool was decided."""
        self._add(REFUSED, 1)

    def requested(self, pool: str) -> None:
        """A model call is to be made at a pool, whether or not it can be."""
        self._add(_REQUESTED + pool, 1)

    def spent(self, pool: str, read: int, written: int) -> None:
        """Tokens of a call that has ended."""
        self._add(_READ + pool, read)
        self._add(_WRITTEN + pool, written)

    def rates(self, pools: Iterable[str]) -> dict[str, float]:
        """All rates per second, zeros included; undecided rejected requests are spread over pools like the others."""
        now = self.clock()
        width = self.window_s / _PARTS
        oldest = int(now / width) - _PARTS
        self._counts = {part: counts for part, counts in self._counts.items() if part >= oldest}
        span_s = max(now - max(oldest * width, self._since), 1.0)
        total: Counter[str] = Counter()
        for counts in self._counts.values():
            total.update(counts)
        known = list(pools)
        decided = sum(total[_REQUESTED + pool] for pool in known)
        more = 1 + total[REFUSED] / decided if decided else 1.0
        rates = {ARRIVALS: total[ARRIVALS] / span_s, REFUSED: total[REFUSED] / span_s}
        for pool in known:
            rates[_REQUESTED + pool] = total[_REQUESTED + pool] * more / span_s
            rates[_READ + pool] = total[_READ + pool] / span_s
            rates[_WRITTEN + pool] = total[_WRITTEN + pool] / span_s
        return rates

    def _add(self, name: str, count: int) -> None:
        part = int(self.clock() * _PARTS / self.window_s)
        counts = self._counts.get(part)
        if counts is None:
            if len(self._counts) > 2 * _PARTS:  # no reader
                self._counts = {p: c for p, c in self._counts.items() if p >= part - _PARTS}
            counts = self._counts[part] = Counter()
        counts[name] += count


def pool_signals(pool: str, gateways: Reports, replicas: Reports, running: int) -> PoolSignals | None:
    """A pool's signals; None if a Gateway has not reported its rate there: part of the traffic would be missing.

    `at_s` is the time of the Gateway that has been silent longest.
    """
    points = [figures.get(_REQUESTED + pool) for figures in gateways.values()]
    rates = [point for point in points if point is not None]
    if not rates or len(rates) < len(points):
        return None
    return PoolSignals(
        requested_per_s=sum(rate for _, rate in rates),
        service_s=_service_s(replicas),
        queued=sum(figures[QUEUED][1] for figures in replicas.values() if QUEUED in figures),
        replicas=running,
        at_s=min(at for at, _ in rates),
    )


def _service_s(replicas: Reports) -> float | None:
    """The mean over replicas, those that have finished few calls counting less; None while none has finished any."""
    weighed = [
        (min(figures[FINISHED][1], _WEIGHED), figures[SERVICE][1])
        for figures in replicas.values()
        if SERVICE in figures and FINISHED in figures and math.isfinite(figures[SERVICE][1])
    ]
    weight = sum(w for w, _ in weighed)
    return sum(w * s for w, s in weighed) / weight if weight > 0 else None
