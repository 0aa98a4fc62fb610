"""How many paced streams a server can hold: the most that still get their tokens in time."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gateway.rounds import STREAM, TOKENS, Target
from benchmarks.gateway.streams import in_process

PACE_MS = 10
ITL_P95_MS = 20.0
"""Twice the pace: one token in twenty may be a whole step late."""
PACE_SHARE = 0.8
"""Of the tokens due, so many must come: a server must not buy small gaps by letting new streams wait."""


@dataclass(frozen=True, slots=True)
class Paced:
    """The most streams that held; `at` is what was seen there, empty if not even one held."""

    target: str
    streams: int
    at: dict[str, float]


def most_streams(target: Target, seconds: float, start: int) -> Paced:
    """Double from `start` until it fails, then halve the gap to within a tenth; a narrow failure is repeated once."""
    seen: dict[int, dict[str, float]] = {}

    def holds(streams: int) -> bool:
        for _ in range(2):
            found = in_process(target.url, streams, seconds, TOKENS, target.body(STREAM, PACE_MS))
            share = found["tokens_per_s"] / (streams * 1e3 / PACE_MS * (TOKENS - 1) / TOKENS)
            _say(target.name, streams, found, share)
            if found["itl_p95_ms"] < ITL_P95_MS and share >= PACE_SHARE and not found["wrong"]:
                seen[streams] = {**found, "pace_share": share}
                return True
            if found["itl_p95_ms"] > 1.3 * ITL_P95_MS or share < 0.9 * PACE_SHARE:
                return False
        return False

    best = search(holds, start)
    return Paced(target.name, best, seen.get(best, {}))


def search(holds: Callable[[int], bool], start: int, most: int = 4096) -> int:
    """The largest number that holds, to within a tenth, if all below it hold; 0 if 1 does not."""
    low, high = 0, start
    while high <= most and holds(high):
        low, high = high, high * 2
    if low == 0:
        low, high = (1, start) if holds(1) else (0, 1)
    while high - low > max(1, low // 10):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _say(name: str, streams: int, found: dict[str, float], share: float) -> None:
    print(
        f"  {name}: {streams} streams, ITL p50 {found['itl_p50_ms']:.1f}, p95 {found['itl_p95_ms']:.1f} ms, "
        f"{share * 100:.0f} % of the pace, {found['wrong']:.0f} wrong, "
        f"client {found['client_core_share'] * 100:.0f} % of a core",
        flush=True,
    )
