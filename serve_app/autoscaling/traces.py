"""Arrival traces: when queries arrive, which pool the router chooses for each, and their tokens. All seeded.

A trace is synthetic, or made of the calls of a recorded run or a decision log.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from serve_app.arrays import Floats
from serve_app.errors import DataError
from serve_app.store.reading import open_readonly
from serve_app.store.schema import decisions

Rate = Callable[[Floats], Floats]
"""A value at each time (seconds): queries a second, or the share for the strong pool."""


@dataclass(frozen=True, slots=True)
class Trace:
    """n queries, ascending in `at_s`: whether they go to the strong pool, and tokens to write; shapes [n]."""

    name: str
    at_s: Floats
    strong: NDArray[np.bool_]
    tokens: Floats
    duration_s: float

    def __post_init__(self) -> None:
        if not len(self.at_s) == len(self.strong) == len(self.tokens):
            raise ValueError("a trace needs one time, pool and number of tokens for each query")
        if len(self.at_s) and (np.diff(self.at_s) < 0).any():
            raise ValueError("the times of a trace must ascend")

    def __len__(self) -> int:
        return len(self.at_s)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Queries a second and the share for the strong pool over time; the rate is never above `most_per_s`."""

    rate: Rate
    share: Rate
    most_per_s: float
    mean_tokens: float = 100.0

    def draw(self, name: str, duration_s: float, seed: int) -> Trace:
        """An inhomogeneous Poisson process by thinning (Lewis & Shedler 1979).

        Tokens are geometric, as lengths of answers nearly are.
        """
        rng = np.random.default_rng(seed)
        times = np.sort(rng.uniform(0.0, duration_s, rng.poisson(self.most_per_s * duration_s)))
        times = times[rng.uniform(0.0, self.most_per_s, len(times)) < self.rate(times)]
        strong = rng.uniform(size=len(times)) < self.share(times)
        tokens = rng.geometric(1.0 / self.mean_tokens, len(times)).astype(np.float64)
        return Trace(name, times, strong, tokens, duration_s)


def constant(value: float) -> Rate:
    """The same at all times."""
    return lambda t: np.full_like(t, value)


def step(before: float, after: float, at_s: float) -> Rate:
    """One value, and another from `at_s` on."""
    return lambda t: np.where(t < at_s, before, after)


def waves(low: float, high: float, period_s: float) -> Rate:
    """A sine between two values, lowest at time 0."""
    return lambda t: low + (high - low) * (1 - np.cos(2 * np.pi * t / period_s)) / 2


def bursts(low: float, high: float, duration_s: float, seed: int, *, calm_s: float, burst_s: float) -> Rate:
    """Two states with exponential stays (a Markov-modulated Poisson process)."""
    rng = np.random.default_rng(seed)
    edges = [0.0]
    while edges[-1] < duration_s:
        edges.append(edges[-1] + rng.exponential(burst_s if len(edges) % 2 == 0 else calm_s))
    starts = np.array(edges)
    return lambda t: np.where((np.searchsorted(starts, t, "right") - 1) % 2 == 1, high, low)


STANDARD = ("poisson", "bursts", "diurnal", "harder queries", "waves of difficulty", "flash crowd", "night")
"""The names of `standard_traces`, in its order."""


def standard_traces(duration_s: float = 3600.0, rate: float = 20.0, seed: int = 0) -> list[Trace]:
    """Seven traces around `rate` queries a second, of which three tenths need the strong pool unless the name says."""
    burst = bursts(0.4 * rate, 2.5 * rate, duration_s, seed, calm_s=240.0, burst_s=60.0)
    crowd = step(0.5 * rate, 3.0 * rate, duration_s / 2)
    third = constant(0.3)
    traffic = [
        Traffic(constant(rate), third, rate),
        Traffic(burst, third, 2.5 * rate),
        Traffic(waves(0.1 * rate, 2.0 * rate, duration_s), third, 2.0 * rate),
        Traffic(constant(rate), step(0.05, 0.6, duration_s / 2), rate),
        Traffic(constant(rate), waves(0.05, 0.6, duration_s / 6), rate),
        Traffic(lambda t: np.where(t < duration_s * 0.75, crowd(t), 0.5 * rate), third, 3.0 * rate),
        Traffic(lambda t: np.where(t < duration_s / 3, rate, 0.0), third, rate),
    ]
    return [of.draw(name, duration_s, seed) for name, of in zip(STANDARD, traffic, strict=True)]


POOLS = ("small", "large")
"""The weak and the strong pool of a trace."""


@dataclass(frozen=True, slots=True)
class PoolCall:
    """One answered call: when it was requested, of which pool, the tokens it wrote, the mean number of other calls in
    its replica while it ran, and seconds from its start in the engine to its first token and to its last.

    `ttft_s` is nan where nothing came (refused, failed): such a call counts as traffic and is not fitted.
    `waited_s`: from `at_s` to the start in the engine, so that the caller's time to first token is `waited_s + ttft_s`.
    """

    at_s: float
    pool: str
    tokens: float
    others: float
    ttft_s: float
    service_s: float
    waited_s: float = 0.0


def trace_of(calls: Sequence[PoolCall], name: str, duration_s: float) -> Trace:
    """The traffic of these calls, in order of arrival; a call that wrote nothing counts as one token."""
    ordered = sorted(calls, key=lambda call: call.at_s)
    return Trace(
        name,
        np.array([call.at_s for call in ordered]),
        np.array([call.pool == POOLS[1] for call in ordered]),
        np.array([max(call.tokens, 1.0) for call in ordered]),
        duration_s,
    )


def logged(path: Path) -> list[PoolCall]:
    """The calls of a decision log to the weak and the strong pool, seconds from the first; others are left out.

    A log does not know how many calls a replica had: `others` is 0, and times are those under the load of that day,
    waiting included. Raises ConfigError for what is no log, DataError for one without such calls.
    """
    d = decisions.c
    columns = (d.created_s, d.pool, d.completion_tokens, d.ttft_ms, d.latency_ms, d.status)
    query = select(*columns).where(d.pool.in_(POOLS), d.status != "route_only").order_by(d.created_s)
    with open_readonly(path) as connection:
        rows = connection.execute(query).all()
    if not rows:
        raise DataError(f"{path}: holds no call to {' or '.join(POOLS)}; give the log of an endpoint that has answered")
    nan = float("nan")
    return [
        PoolCall(
            at_s=row.created_s - rows[0].created_s,
            pool=row.pool,
            tokens=float(row.completion_tokens),
            others=0.0,
            ttft_s=nan if row.ttft_ms is None or row.status != "completed" else row.ttft_ms / 1e3,
            service_s=nan if row.status != "completed" else row.latency_ms / 1e3,
        )
        for row in rows
    ]
