"""Expected calibration error: how far expected qualities are from the scores that callers gave.

Answers fall into ten bins by expected quality. The error is the mean over bins, weighted by their answers, of the
distance between mean expectation and mean score (Naeini et al. 2015). Chance alone makes it positive: with few ratings
it says little, so that their number is reported with it.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

WINDOW: Final = 1000
"""Ratings that count; older ones are forgotten."""
_BINS: Final = 10


class CalibrationReading(NamedTuple):
    """The error over `ratings` answers of a pool, chosen by a strategy and, where it has one, a router."""

    strategy: str
    router: str
    pool: str
    error: float
    ratings: int


@dataclass(slots=True)
class _RatedAnswers:
    """Of one policy version: expected quality and score of each rated answer."""

    version: str
    since_s: float
    pairs: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))


class CalibrationErrors:
    """Collects ratings of stored decisions. Of each strategy, router and pool the newest policy version counts."""

    def __init__(self) -> None:
        self._rated: dict[tuple[str, str, str], _RatedAnswers] = {}

    def add(self, record: Mapping[str, Any], score: float) -> None:
        """A caller's score of an answer. Decisions without an expected quality of their pool are skipped."""
        pool = str(record.get("pool"))
        expected = ((record.get("expected") or {}).get(pool) or {}).get("quality")
        if expected is None:
            return
        key = (str(record.get("strategy")), str(record.get("router") or ""), pool)
        version, created_s = str(record.get("policy_version")).partition("@")[0], float(record.get("created_s") or 0.0)
        rated = self._rated.get(key)
        if rated is None or (rated.version != version and created_s >= rated.since_s):
            rated = self._rated[key] = _RatedAnswers(version, created_s)
        if rated.version == version:
            rated.pairs.append((min(max(float(expected), 0.0), 1.0), score))

    def readings(self) -> Iterator[CalibrationReading]:
        """Of everything that was rated."""
        for (strategy, router, pool), rated in list(self._rated.items()):
            pairs = list(rated.pairs)
            yield CalibrationReading(strategy, router, pool, expected_calibration_error(pairs), len(pairs))


def expected_calibration_error(pairs: list[tuple[float, float]]) -> float:
    """Of (expected, observed) pairs in [0, 1]; 0 without any."""
    sums = [[0.0, 0.0] for _ in range(_BINS)]
    for expected, observed in pairs:
        at = sums[min(int(expected * _BINS), _BINS - 1)]
        at[0] += expected
        at[1] += observed
    return sum(abs(e - o) for e, o in sums) / len(pairs) if pairs else 0.0
