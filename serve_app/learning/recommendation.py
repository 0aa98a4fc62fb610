"""Which of several compared routers to run: the best, or a cheaper one that cannot be told from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from serve_app.learning.comparison import BASELINE, Candidate
from serve_app.learning.metrics import Interval
from serve_app.learning.resampling import LEVEL

_PLACES: Final = {"inline": 0, "batched": 1, "scorer": 2}
"""Cheapest to run first: in the Gateway's loop, on its encoder thread, in a deployment of its own."""
_SAME: Final = 1.5
"""Decision times within this factor count as equal: they were measured on a few queries."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The kind to run, None if none beats chance, and why in one sentence."""

    kind: str | None
    reason: str


def recommend(candidates: Sequence[Candidate]) -> Recommendation:
    """From candidates sorted by APGR, best first; `random` is the one to beat."""
    chance = next(c for c in candidates if c.kind == BASELINE)
    rivals = [c for c in candidates if c.kind != BASELINE]
    if not rivals:
        return Recommendation(None, "only random was compared: name some kinds")
    best = rivals[0]
    lead = difference(best, chance)
    if lead.low <= 0:
        return Recommendation(
            None,
            f"none: the best, {best.kind}, leads random by {told(lead)} APGR, which may be chance; collect more data, "
            "or other features than these kinds have",
        )
    near = [c for c in rivals[1:] if cheaper(c, best) and difference(best, c).low <= 0]
    chosen = best
    for candidate in near:
        if chosen is best or cheaper(candidate, chosen):
            chosen = candidate
    if chosen is best:
        others = [f"{c.kind} by {told(difference(best, c))}" for c in rivals[1:]]
        over = f"; it leads {', '.join(others)}" if others else ""
        return Recommendation(best.kind, f"{best.kind}: the best APGR, {best.apgr:.3f}{over}")
    return Recommendation(
        chosen.kind,
        f"{chosen.kind}: {best.kind} leads it by {told(difference(best, chosen))} APGR, which may be chance, and "
        f"{chosen.kind} is cheaper to run ({_cost(chosen)} against {_cost(best)})",
    )


def difference(one: Candidate, other: Candidate) -> Interval:
    """APGR of one minus the other's, with its paired bootstrap interval."""
    gaps = one.resampled_apgr - other.resampled_apgr
    gaps = gaps[np.isfinite(gaps)]
    low, high = np.quantile(gaps, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(gaps) else (np.nan, np.nan)
    return Interval(one.apgr - other.apgr, float(low), float(high))


def cheaper(one: Candidate, other: Candidate) -> bool:
    """Whether one costs less to run: by where it runs, then by the time of a decision."""
    places = _PLACES[one.placement], _PLACES[other.placement]
    if places[0] != places[1]:
        return places[0] < places[1]
    return one.decision_ms * _SAME < other.decision_ms


def told(value: Interval) -> str:
    """A difference with its interval."""
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _cost(candidate: Candidate) -> str:
    return f"{candidate.placement}, {candidate.decision_ms:.2g} ms a decision"
