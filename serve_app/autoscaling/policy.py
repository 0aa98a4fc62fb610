"""Replicas of every pool from the traffic that the router decides to send there: a pure function of the signals.

Little's law yields the load of a pool in concurrent calls: rate of requested calls x mean service time. Requested, not
served: calls that were rejected or sent elsewhere for lack of room still count, so a full pool is seen as full. A call
is a model call, so cascades and ensembles count as what they cost. Square-root staffing (Halfin & Whitt 1981; Whitt
1992) turns load into places: load + headroom x sqrt(load), relatively more for a small pool, whose load varies more.
Rates are forecast over the time that a replica takes to warm up. Up at once, down only to the highest wish of the last
`hold_s`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serve_app.config.pools import ReplicasConfig


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """An operator's bounds on a pool, and what its engine can serve.

    `concurrency`: calls that one replica serves at once without slowing beyond its target. `warm_up_s`: from the
    wish for a replica to its first answer. `hold_s`: how long a lower wish must last before it is followed.
    `idle_s`: without a single call for this long, a pool whose `min_replicas` is 0 goes to 0.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    concurrency: float = 8.0
    headroom: float = 1.0
    warm_up_s: float = 10.0
    hold_s: float = 60.0
    idle_s: float = 120.0
    drain_backlog_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} and max_replicas {self.max_replicas} contradict")
        if self.concurrency <= 0 or self.drain_backlog_s <= 0:
            raise ValueError("concurrency and drain_backlog_s must be above 0")

    def clip(self, replicas: int) -> int:
        """The number within the bounds."""
        return min(max(replicas, self.min_replicas), self.max_replicas)


@dataclass(frozen=True, slots=True)
class PoolSignals:
    """One pool as last reported.

    `requested_per_s`: calls a second that the Gateways decided to make, whether they could or not. `service_s`: mean
    time that a call spends in a replica's engine, None while none has finished. `queued`: calls waiting for a place.
    `at_s`: when this was true.
    """

    requested_per_s: float
    service_s: float | None
    queued: float
    replicas: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Level and trend of a rate (Holt 1957), with the time of the last sample; calls a second, and that a second."""

    level: float
    trend: float
    at_s: float

    def updated(self, rate: float, at_s: float, level_s: float, trend_s: float) -> "Forecast":
        """With one more sample; the weights are those of the time that has passed, so samples may be irregular."""
        passed = at_s - self.at_s
        if passed <= 0:
            return self
        a, b = 1 - math.exp(-passed / level_s), 1 - math.exp(-passed / trend_s)
        level = (1 - a) * (self.level + self.trend * passed) + a * rate
        trend = (1 - b) * self.trend + b * (level - self.level) / passed
        return Forecast(max(level, 0.0), trend, at_s)

    def ahead(self, horizon_s: float) -> float:
        """The rate expected after `horizon_s`: a rise counts, at most to twice the level; a fall is not trusted."""
        return min(max(self.level, self.level + self.trend * horizon_s), 2 * self.level)


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """The policy's memory of a pool; `wishes` are (time, replicas) of the last `hold_s`."""

    forecast: Forecast
    service_s: float | None
    last_call_s: float
    wishes: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PoolTarget:
    """Target replicas of a pool, the load in concurrent calls behind it, and the reason."""

    replicas: int
    load: float
    reason: str


@dataclass(frozen=True, slots=True)
class ScalingSettings:
    """Of all pools together. `stale_s`: reports older than this are not acted on."""

    stale_s: float = 15.0
    level_s: float = 5.0
    trend_s: float = 60.0
    margin: float = 0.1
    """A pool is made smaller only if it would bear this much more load than is expected."""


Memory = Mapping[str, PoolMemory]


@dataclass(frozen=True, slots=True)
class ScalingPlan:
    """Targets by pool, and the memory for the next time."""

    targets: Mapping[str, PoolTarget]
    memory: Memory = field(default_factory=dict)


def plan(
    signals: Mapping[str, PoolSignals | None],
    limits: Mapping[str, PoolLimits],
    current: Mapping[str, int],
    memory: Memory,
    now_s: float,
    settings: ScalingSettings = ScalingSettings(),
) -> ScalingPlan:
    """Replicas for every pool of `limits`. `current`: the targets in force, held where signals are missing or stale.

    Targets lie within the limits; with the same memory they do not fall when a rate or a queue rises. Never raises for
    numbers that are not finite: such signals count as missing.
    """
    targets: dict[str, PoolTarget] = {}
    kept: dict[str, PoolMemory] = {}
    for name, bounds in limits.items():
        seen = signals.get(name)
        held = bounds.clip(current.get(name, bounds.min_replicas))
        if seen is None or not _sound(seen):
            targets[name] = PoolTarget(held, math.nan, "no report: held")
        elif now_s - seen.at_s > settings.stale_s:
            targets[name] = PoolTarget(held, math.nan, f"last report {now_s - seen.at_s:.0f} s ago: held")
        else:
            targets[name], kept[name] = _pool(seen, bounds, held, memory.get(name), now_s, settings)
        if name not in kept and name in memory:
            kept[name] = memory[name]
    return ScalingPlan(targets, kept)


def places(load: float, headroom: float) -> float:
    """Concurrent places for a load of concurrent calls, by square-root staffing."""
    return load + headroom * math.sqrt(load)


def _pool(
    seen: PoolSignals, bounds: PoolLimits, held: int, memory: PoolMemory | None, now_s: float, settings: ScalingSettings
) -> tuple[PoolTarget, PoolMemory]:
    memory = _remember(seen, memory, settings)
    # no replica reports the calls that wait for a pool to wake: while the first starts, the pool is not idle
    idle = 0.0 if seen.replicas == 0 < held else now_s - memory.last_call_s
    if memory.service_s is None:
        wish = max(held, 1) if _has_calls(seen) else held if idle < bounds.idle_s else 0
        reason = "no call has finished yet: held" if wish else f"no call in {idle:.0f} s"
        wish = bounds.clip(wish)
        return PoolTarget(wish, math.nan, reason), replace(memory, wishes=((now_s, wish),))
    rate = memory.forecast.ahead(bounds.warm_up_s)
    load = rate * memory.service_s + seen.queued * memory.service_s / bounds.drain_backlog_s
    wish = max(_replicas(load, bounds), int(idle < bounds.idle_s))
    if wish < held:  # smaller only with a margin, or a load on the edge would flap
        wish = min(held, max(wish, _replicas(load * (1 + settings.margin), bounds)))
    wish = bounds.clip(wish)
    wishes = (*((t, n) for t, n in memory.wishes if now_s - t <= bounds.hold_s), (now_s, wish))
    if wish >= held:
        target, reason = wish, f"{rate:.2f} calls/s x {memory.service_s:.2f} s"
    else:
        target = min(held, max(n for _, n in wishes))
        reason = f"{rate:.2f} calls/s x {memory.service_s:.2f} s, wish {wish} held for {bounds.hold_s:g} s"
    if seen.queued:
        reason += f", {seen.queued:g} waiting"
    return PoolTarget(target, load, reason), replace(memory, wishes=wishes)


def _remember(seen: PoolSignals, memory: PoolMemory | None, settings: ScalingSettings) -> PoolMemory:
    """The memory with this report in it; one that was already seen changes nothing."""
    if memory is None:
        return PoolMemory(Forecast(seen.requested_per_s, 0.0, seen.at_s), seen.service_s, seen.at_s)
    forecast = memory.forecast.updated(seen.requested_per_s, seen.at_s, settings.level_s, settings.trend_s)
    last_call_s = seen.at_s if _has_calls(seen) else memory.last_call_s
    service_s = memory.service_s
    if seen.service_s is not None and seen.at_s > memory.forecast.at_s:
        service_s = seen.service_s if service_s is None else 0.7 * service_s + 0.3 * seen.service_s
    return PoolMemory(forecast, service_s, last_call_s, memory.wishes)


def _replicas(load: float, bounds: PoolLimits) -> int:
    # a load forecast from a vanishing rate is no call
    return 0 if load < 1e-6 else math.ceil(places(load, bounds.headroom) / bounds.concurrency - 1e-9)


def _has_calls(seen: PoolSignals) -> bool:
    return seen.requested_per_s > 0 or seen.queued > 0


def _sound(seen: PoolSignals) -> bool:
    figures = (seen.requested_per_s, seen.queued, seen.at_s, 0.0 if seen.service_s is None else seen.service_s)
    return all(math.isfinite(x) for x in figures) and min(seen.requested_per_s, seen.queued, figures[3]) >= 0


def limits_of(bounds: ReplicasConfig) -> PoolLimits:
    """The limits of a pool with these bounds."""
    return PoolLimits(
        bounds.min, bounds.max, bounds.concurrency, bounds.headroom, bounds.warm_up_s, bounds.hold_s, bounds.idle_s
    )
