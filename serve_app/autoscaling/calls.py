"""Calls that really happened: in a recorded run, or in a decision log; and the trace that they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import select

from serve_app.autoscaling.traces import Trace
from serve_app.errors import DataError
from serve_app.store.reading import reading
from serve_app.store.schema import decisions

POOLS = ("small", "large")
"""The weak and the strong pool of a trace."""


@dataclass(frozen=True, slots=True)
class Call:
    """One answered call: when it was wanted, of which pool, the tokens it wrote, the mean number of other calls in its
    replica while it ran, and seconds from its start in the engine to its first token and to its last.

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


def trace_of(calls: Sequence[Call], name: str, duration_s: float) -> Trace:
    """The traffic of these calls, in order of arrival; a call that wrote nothing counts as one token."""
    ordered = sorted(calls, key=lambda call: call.at_s)
    return Trace(
        name,
        np.array([call.at_s for call in ordered]),
        np.array([call.pool == POOLS[1] for call in ordered]),
        np.array([max(call.tokens, 1.0) for call in ordered]),
        duration_s,
    )


def logged(path: Path) -> list[Call]:
    """The calls of a decision log to the weak and the strong pool, seconds from the first; others are left out.

    A log does not know how many calls a replica had: `others` is 0, and times are those under the load of that day,
    waiting included. Raises ConfigError for what is no log, DataError for one without such calls.
    """
    d = decisions.c
    columns = (d.created_s, d.pool, d.completion_tokens, d.ttft_ms, d.latency_ms, d.status)
    wanted = select(*columns).where(d.pool.in_(POOLS), d.status != "route_only").order_by(d.created_s)
    with reading(path) as connection:
        rows = connection.execute(wanted).all()
    if not rows:
        raise DataError(f"{path}: holds no call to {' or '.join(POOLS)}; give the log of an endpoint that has answered")
    nan = float("nan")
    return [
        Call(
            at_s=row.created_s - rows[0].created_s,
            pool=row.pool,
            tokens=float(row.completion_tokens),
            others=0.0,
            ttft_s=nan if row.ttft_ms is None or row.status != "completed" else row.ttft_ms / 1e3,
            service_s=nan if row.status != "completed" else row.latency_ms / 1e3,
        )
        for row in rows
    ]
