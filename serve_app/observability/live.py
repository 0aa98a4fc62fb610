"""What the endpoint does right now: one Gateway's traffic of the last ten minutes, and that of all Gateways merged.

Counters over steps of a few seconds, in a ring: memory is bounded, and a request costs a few microseconds. Latencies
are counted in bins of equal ratio, so that those of several Gateways add up; a percentile is exact to half a bin (4 %).
Prometheus holds the long history; this is what a page shows that has just been opened.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from serve_app.observability.batched import Batched
from serve_app.store.base import RequestRecord
from serve_app.types import Price

STEP_S: Final = 5
STEPS: Final = 120
"""Whole steps of history: ten minutes."""
WINDOWS: Final = (30, 60, 300, 600)
"""Seconds over which totals can be requested."""
_BINS_PER_DOUBLING: Final = 8
_SHORTEST_MS: Final = 0.01
_PERCENTILES: Final = (50, 95, 99)
_STRONG: Final = "large"
_DIRECT: Final = "direct"


def latency_bin(ms: float) -> int:
    """The bin of a latency; each is 9 % wider than the one before it."""
    return round(math.log2(max(ms, _SHORTEST_MS)) * _BINS_PER_DOUBLING)


def percentile(bins: Mapping[int, int], percent: float) -> float | None:
    """The latency in ms that `percent` of the counted ones do not exceed; None if none is counted."""
    rank = math.ceil(sum(bins.values()) * percent / 100)
    for bin_ in sorted(bins):
        rank -= bins[bin_]
        if rank <= 0:
            return float(2 ** (bin_ / _BINS_PER_DOUBLING))
    return None


@dataclass(slots=True)
class LiveStep:
    """Requests that ended within one step. `at` counts steps since 1970.

    `routed`: those whose pool was chosen by a decision, `strong` of them answered by the large pool. `saved_usd`: what
    their answers would have cost at the large pool, token for token, less what they cost; a model that a caller named
    saves nothing.
    """

    at: int
    requests: int = 0
    routed: int = 0
    strong: int = 0
    escalated: int = 0
    cost_usd: float = 0.0
    saved_usd: float = 0.0
    wasted_usd: float = 0.0
    tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    pools: Counter[str] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    latency: Counter[int] = field(default_factory=Counter)
    ttft: Counter[int] = field(default_factory=Counter)

    def add(self, record: RequestRecord, strong: Price | None) -> None:
        """Count a request that is over. `strong`: the large pool's price."""
        self.requests += 1
        self.outcomes[outcome_of(record)] += 1
        cost_usd = record.cost_usd
        self.cost_usd += cost_usd
        decision = record.decision
        if decision is None:
            return
        self.tokens += record.usage.total_tokens
        self.pools[decision.pool] += 1
        self.strategies[decision.strategy] += 1
        if len(record.steps) > 1:
            self.wasted_usd += record.wasted_usd
            self.escalated += bool(record.escalated_from)
        completed, routed = record.status == "completed", decision.strategy != _DIRECT
        if routed:
            self.routed += 1
            self.strong += decision.pool == _STRONG
        if completed:
            if routed and strong is not None:
                self.saved_usd += strong.cost_usd(record.answer_usage) - cost_usd
            self.latency[latency_bin(record.latency_ms)] += 1
            if record.ttft_ms is not None:
                self.ttft[latency_bin(record.ttft_ms)] += 1

    def merge(self, other: "LiveStep") -> None:
        """Add another Gateway's figures, or another step's."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        """Numbers and counts by name, as they travel between Gateways."""
        return {"at": self.at, **{name: getattr(self, name) for name in (*_NUMBERS, *_COUNTERS)}}


_NUMBERS: Final = ("requests", "routed", "strong", "escalated", "cost_usd", "saved_usd", "wasted_usd", "tokens")
_COUNTERS: Final = ("outcomes", "pools", "strategies", "latency", "ttft")


def outcome_of(record: RequestRecord) -> str:
    """`completed`, `cancelled` by its caller, `refused` (status 4xx), or `failed` (5xx, or broken in the middle)."""
    if record.status != "failed":
        return record.status
    return "refused" if 400 <= record.http_status < 500 else "failed"


class LiveFigures:
    """One Gateway's ring of steps; on one event loop, no locks."""

    def __init__(self, strong: Price | None = None, clock: Callable[[], float] = time.time) -> None:
        """`strong`: the large pool's price; None: nothing is compared with it."""
        self._strong = strong
        self._clock = clock
        self._steps: deque[LiveStep] = deque(maxlen=STEPS + 1)
        self._over = Batched(self._count)

    def ended(self, record: RequestRecord) -> None:
        """A request is over; one for its decision alone is not traffic."""
        if record.status == "route_only":
            return
        self._over.add((int(self._clock() // STEP_S), record))

    def _count(self, over: tuple[int, RequestRecord]) -> None:
        at, record = over
        if not self._steps or self._steps[-1].at < at:
            self._steps.append(LiveStep(at))
        self._steps[-1].add(record, self._strong)

    def steps(self) -> list[dict[str, Any]]:
        """The steps with traffic, oldest first, JSON-ready."""
        self._over.drain()
        oldest = int(self._clock() // STEP_S) - STEPS
        return [step.to_json() for step in self._steps if step.at >= oldest]


def merged_calibration(gateways: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Calibration errors of all Gateways, each weighted by its ratings: a Gateway knows only those that it received."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for readings in gateways:
        for r in readings:
            sums = found.setdefault((r["strategy"], r["router"], r["pool"]), [0.0, 0.0])
            sums[0] += r["error"] * r["ratings"]
            sums[1] += r["ratings"]
    return [
        {"strategy": strategy, "router": router, "pool": pool, "error": error / ratings, "ratings": int(ratings)}
        for (strategy, router, pool), (error, ratings) in sorted(found.items())
        if ratings
    ]


def merged(gateways: Iterable[Sequence[Mapping[str, Any]]], now_s: float, window_s: int) -> dict[str, Any]:
    """Totals over the last `window_s` and the history by step, of the steps of all Gateways. JSON-ready.

    The history has whole steps only: the present one would look like a drop. The totals have it.
    """
    now, by_step = int(now_s // STEP_S), dict[int, LiveStep]()
    for steps in gateways:
        for step in steps:
            by_step.setdefault(step["at"], LiveStep(step["at"])).merge(LiveStep(**step))
    total = LiveStep(now)
    for at, one in by_step.items():
        if now - window_s // STEP_S < at <= now:
            total.merge(one)
    shown = range(now - STEPS, now)
    empty = LiveStep(0)
    rows = [_figures(by_step.get(at, empty), STEP_S) for at in shown]
    history = {name: [row[name] for row in rows] for name in _CHARTED}
    since_s = now_s - (now - window_s // STEP_S + 1) * STEP_S
    return {
        "step_s": STEP_S,
        "window_s": window_s,
        "totals": _figures(total, since_s),
        "history": {"at_s": [at * STEP_S for at in shown], **history},
    }


_CHARTED: Final = (
    *("requests", "requests_per_s", "strong_share", "cost_usd", "saved_usd", "escalated", "failed", "refused"),
    *("latency_p50_ms", "latency_p95_ms", "ttft_p50_ms", "ttft_p95_ms"),
)


def _figures(step: LiveStep, seconds: float) -> dict[str, Any]:
    """What a step says, shares and percentiles included; a share of nothing is None."""
    percentiles = {
        f"{name}_p{p}_ms": percentile(bins, p)
        for name, bins in (("latency", step.latency), ("ttft", step.ttft))
        for p in _PERCENTILES
    }
    return {
        **{name: getattr(step, name) for name in _NUMBERS},
        "requests_per_s": step.requests / max(seconds, 1.0),
        "strong_share": step.strong / step.routed if step.routed else None,
        "escalated_share": step.escalated / step.routed if step.routed else None,
        **{name: step.outcomes[name] for name in ("completed", "failed", "refused", "cancelled")},
        "pools": dict(step.pools),
        "strategies": dict(step.strategies),
        **percentiles,
    }
