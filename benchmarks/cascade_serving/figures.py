"""From replies to figures: quality drop and strong calls of each cascade, times to first token, wasted tokens.

Quality drop = (always-large - cascade) / always-large; intervals resample distinct queries. A cascade's time to first
token is held against the pool's alone on the same queries, called in the same run: accepted ones against the weak pool,
escalated ones against the strong pool and the weak pool's probe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cascade_serving.ask import Reply
from benchmarks.routing_quality.figures import clusters_of
from serve_app.learning.metrics import bootstrap

Floats = NDArray[np.float64]
FEWEST_SHOWN = 4
"""Streams below which no median is shown."""
FEWEST_HELD = 30
"""Streams whose median is held to the target; that of ten was 0.9 and 1.9 times the pool's in two runs."""
MOST_DROP, MOST_SHARE, MOST_RATIO = 0.01, 0.5, 1.3
"""What the cascades are held to: relative quality drop, share of strong calls, and times of the pool alone."""


@dataclass(frozen=True, slots=True)
class Run:
    """Replies by model name to the same queries, one after the other at `queries`."""

    queries: Sequence[str]
    weak: str
    strong: str
    replies: Mapping[str, Sequence[Reply]]

    @property
    def cascades(self) -> list[str]:
        """All but the two pools."""
        return [name for name in self.replies if name not in (self.weak, self.strong)]


def figures(run: Run, seed: int) -> dict[str, Any]:
    """By model name, JSON-ready."""
    return {name: _of(run, name, seed) for name in run.replies}


def _of(run: Run, name: str, seed: int) -> dict[str, Any]:
    replies, strong = run.replies[name], run.replies[run.strong]
    clusters = clusters_of(run.queries)
    sums = np.array([[_sum(replies, rows), _sum(strong, rows)] for rows in clusters])

    def drop(picked: NDArray[np.int64]) -> float:
        got, best = sums[picked].sum(0)
        return float((best - got) / best)

    interval = bootstrap(drop, len(clusters), seed=seed)
    tokens = sum(r.tokens for r in replies)
    found = {
        "queries": len(replies),
        "quality": float(np.mean([r.quality for r in replies])),
        "quality_drop": interval.value,
        "quality_drop_interval_95": [interval.low, interval.high],
        "strong_answers": float(np.mean([r.pool == "large" for r in replies])),
        "strong_calls": float(np.mean([r.strong_calls > 0 for r in replies])),
        "cost_usd_per_1000": 1e3 * float(np.mean([r.cost_usd for r in replies])),
        "wasted_tokens_share": sum(r.wasted_tokens for r in replies) / tokens if tokens else 0.0,
        "wasted_cost_share": _share([r.wasted_usd for r in replies], [r.cost_usd for r in replies]),
        "raced_share": float(np.mean([r.raced for r in replies])),
        "ttft_p50_ms": _p50([r.first_ms for r in replies]),
        "e2e_p50_ms": _p50([r.last_ms for r in replies]),
    }
    if name in run.cascades:
        found |= {
            "accepted": _accepted(run, name, seed),
            "escalated": _escalated(run, name, seed),
            "escalated_after_probe": _escalated(run, name, seed, probed=True),
        }
    return found


def _accepted(run: Run, name: str, seed: int) -> dict[str, Any] | None:
    """Of queries that the weak pool answered: TTFT against the weak pool alone."""
    rows = [i for i, reply in enumerate(run.replies[name]) if reply.pool != "large"]
    if len(rows) < FEWEST_SHOWN:
        return None
    got, alone = _column(run, name, rows, "first_ms"), _column(run, run.weak, rows, "first_ms")
    return _ratio(got, alone, np.zeros(len(rows)), seed)


def _escalated(run: Run, name: str, seed: int, probed: bool = False) -> dict[str, Any] | None:
    """Of queries that the strong pool answered: TTFT without the weak pool's probe, against the strong pool alone.

    `probed`: only those that went to the weak pool first, as its tokens show; the others were escalated by their score.
    """
    replies = run.replies[name]
    rows = [i for i, reply in enumerate(replies) if reply.pool == "large" and (reply.wasted_tokens > 0 or not probed)]
    if len(rows) < FEWEST_SHOWN:
        return None
    got, alone = _column(run, name, rows, "first_ms"), _column(run, run.strong, rows, "first_ms")
    return _ratio(got, alone, _column(run, run.weak, rows, "probe_ms"), seed)


def _ratio(got: Floats, alone: Floats, probe: Floats, seed: int) -> dict[str, Any]:
    def ratio(rows: NDArray[np.int64]) -> float:
        return (_p50(got[rows]) - _p50(probe[rows])) / _p50(alone[rows])

    interval = bootstrap(ratio, len(got), rounds=500, seed=seed)
    return {
        "queries": len(got),
        "ttft_p50_ms": _p50(got),
        "alone_p50_ms": _p50(alone),
        "probe_p50_ms": _p50(probe),
        "plain_ratio": _p50(got) / _p50(alone),
        "ratio": interval.value,
        "ratio_interval_95": [interval.low, interval.high],
    }


def missed(found: Mapping[str, Any], run: Run) -> list[str]:
    """What the cascades do not keep, in words; empty if they keep it all."""
    out = []
    for name in run.cascades:
        figure = found[name]
        if figure["quality_drop"] > MOST_DROP:
            out.append(f"{name}: quality drop {figure['quality_drop']:.2%} is above {MOST_DROP:.0%}")
        if figure["strong_calls"] > MOST_SHARE:
            out.append(f"{name}: {figure['strong_calls']:.1%} strong calls are above {MOST_SHARE:.0%}")
        for kind in ("accepted", "escalated", "escalated_after_probe") if name.endswith("-stream") else ():
            enough = figure[kind] is not None and figure[kind]["queries"] >= FEWEST_HELD
            ratio = figure[kind]["ratio"] if enough else 0.0
            if ratio > MOST_RATIO:
                out += [f"{name}: TTFT of {kind.replace('_', ' ')} answers is {ratio:.2f} times that of the pool alone"]
    return out


def _column(run: Run, name: str, rows: Sequence[int], what: str) -> Floats:
    return np.array([getattr(run.replies[name][i], what) for i in rows])


def _sum(replies: Sequence[Reply], rows: NDArray[np.int64]) -> float:
    return float(sum(replies[i].quality for i in rows))


def _share(part: Sequence[float], whole: Sequence[float]) -> float:
    total = sum(whole)
    return sum(part) / total if total else 0.0


def _p50(values: Sequence[float] | Floats) -> float:
    return float(np.median(values)) if len(values) else float("nan")
