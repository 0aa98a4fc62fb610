"""Has live traffic moved away from the data that a router was calibrated on? Cheap statistics with honest limits.

Each signal is a statistic with a limit: the larger of a size that matters and what chance alone reaches once in ten
thousand looks, given how many live and how many calibration queries there are. Memory is bounded by a window.

Scores: population stability index over bins of equal calibration mass (PSI; without drift it is distributed as
(1/n + 1/N) times chi-squared with bins - 1 degrees of freedom: Yurdakul 2018, section 3.2). Share of strong calls:
difference of two proportions. Inputs: see inputs.py. Outcomes: mean feedback against the expected quality.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOW: Final = 1000
"""Live queries that count; older ones are forgotten."""
MIN_QUERIES: Final = 200
MIN_JUDGED: Final = 100
"""Below these counts nothing is said."""
PSI_LEVEL: Final = 0.1
"""Below 0.1 a shift is held to be small, above 0.25 large: the usual rule for the index."""
SHARE_LEVEL: Final = 0.05
OUTCOME_LEVEL: Final = 0.05
_BINS: Final = 10
_Z: Final = 3.72
"""Normal quantile of 1 in 10,000."""
_CALM: Final = 0.7
"""An alarm ends when the statistic is below this part of its limit ..."""
_PATIENCE: Final = 3
"""... and it begins and ends only after this many looks in a row, each with new queries."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A statistic over `n` live observations, and the limit beyond which it is drift."""

    statistic: float
    limit: float
    n: int


@dataclass(slots=True)
class Alarm:
    """A signal with hysteresis: one look beyond the limit is no alarm, and one below it does not end one."""

    name: str
    raised: bool = False
    last: Reading | None = None
    _streak: int = 0

    def look(self, reading: Reading) -> bool:
        """Take a reading; whether the alarm was raised or ended by it."""
        self.last = reading
        beyond = reading.statistic > reading.limit
        turning = reading.statistic < _CALM * reading.limit if self.raised else beyond
        self._streak = self._streak + 1 if turning else 0
        if self._streak < _PATIENCE:
            return False
        self.raised, self._streak = not self.raised, 0
        return True


class ScoreDrift:
    """Distribution of live scores against the calibration's, by PSI over bins of equal mass."""

    def __init__(self, scores: Floats, window: int = WINDOW) -> None:
        edges = np.quantile(scores, np.linspace(0, 1, _BINS + 1)[1:-1])
        self._edges: list[float] = sorted(set(edges.tolist()))
        self._size = len(scores)
        expected = np.zeros(len(self._edges) + 1)
        np.add.at(expected, [bisect_right(self._edges, s) for s in scores], 1)
        self._expected = expected
        self._counts = np.zeros(len(expected))
        self._recent: deque[int] = deque()
        self._window = window

    def add(self, score: float) -> None:
        """A live score."""
        at = bisect_right(self._edges, score)
        self._recent.append(at)
        self._counts[at] += 1
        if len(self._recent) > self._window:
            self._counts[self._recent.popleft()] -= 1

    def reading(self) -> Reading:
        """The index, and its limit."""
        n = len(self._recent)
        if len(self._expected) == 1 or n == 0:
            return Reading(0.0, PSI_LEVEL, n)
        p = (self._expected + 0.5) / (self._size + 0.5 * len(self._expected))
        q = (self._counts + 0.5) / (n + 0.5 * len(self._counts))
        index = float(((q - p) * np.log(q / p)).sum())
        chance = (1 / n + 1 / self._size) * chi_squared_limit(len(p) - 1)
        return Reading(index, max(PSI_LEVEL, chance), n)


class ShareDrift:
    """Share of live strong calls against the share at the same threshold on the calibration data."""

    def __init__(self, scores: Floats, threshold: float, window: int = WINDOW) -> None:
        self.threshold = threshold
        self._size = len(scores)
        self.expected = float((scores >= threshold).mean())
        self._recent: deque[bool] = deque(maxlen=window)

    def add(self, score: float) -> None:
        """A live score."""
        self._recent.append(score >= self.threshold)

    def reading(self) -> Reading:
        """The absolute difference of the shares, and its limit."""
        n = len(self._recent)
        if n == 0:
            return Reading(0.0, SHARE_LEVEL, 0)
        pooled = (sum(self._recent) + self.expected * self._size + 1) / (n + self._size + 2)
        chance = _Z * sqrt(pooled * (1 - pooled) * (1 / n + 1 / self._size))
        return Reading(abs(sum(self._recent) / n - self.expected), max(SHARE_LEVEL, chance), n)


class OutcomeDrift:
    """Feedback against the quality that the calibration data promised at the same score."""

    def __init__(self, window: int = WINDOW) -> None:
        self._misses: deque[float] = deque(maxlen=window)

    def add(self, expected: float, observed: float) -> None:
        """A judged answer: what was expected of it, and what was said of it, both in [0, 1]."""
        self._misses.append(observed - expected)

    def reading(self) -> Reading:
        """The size of the mean miss, and its limit."""
        n = len(self._misses)
        if n < 2:
            return Reading(0.0, OUTCOME_LEVEL, n)
        mean, sd = mean_and_sd(self._misses)
        return Reading(abs(mean), max(OUTCOME_LEVEL, _Z * sd / sqrt(n)), n)


def mean_and_sd(values: Sequence[float] | deque[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    array = np.asarray(values)
    return float(array.mean()), float(array.std(ddof=1))


def chi_squared_limit(degrees: float, z: float = _Z) -> float:
    """The value that chi-squared exceeds as rarely as a normal exceeds `z` (Wilson & Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + z * sqrt(spread)) ** 3)


def bonferroni_z(tests: int, z: float = _Z) -> float:
    """The quantile that keeps the chance of any of `tests` exceeding it: for small tails z' = sqrt(z² + 2 ln tests)."""
    return sqrt(z * z + 2 * log(tests))
