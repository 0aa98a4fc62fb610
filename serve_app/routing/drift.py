"""Drift: whether live traffic has moved away from the data that a router was calibrated on.

Each signal is a statistic with a limit: the larger of a size that matters and the value that chance alone reaches once
in ten thousand looks, given the numbers of live and of calibration queries. Memory is bounded by a window.

Scores: population stability index over bins of equal calibration mass (PSI; without drift it is distributed as
(1/n + 1/N) times chi-squared with bins - 1 degrees of freedom: Yurdakul 2018, section 3.2). Share of strong calls:
difference of two proportions. Inputs: means of readable features, share of unknown words and, with an encoder, mean
sentence vector, against a reference saved with the router. Outcomes: mean feedback against the expected quality.
"""

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import log, sqrt
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, read_arrays
from serve_app.errors import ConfigError, reading
from serve_app.learning.features import NUMERIC, read
from serve_app.types import Query

WINDOW: Final = 1000
"""Live queries that count; older ones are forgotten."""
MIN_QUERIES: Final = 200
MIN_FEEDBACK: Final = 100
"""Below these counts no alarm is raised."""
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
"""... and it begins and ends only after this many consecutive looks, each with new queries."""


@dataclass(frozen=True, slots=True)
class DriftReading:
    """A statistic over `n` live observations, and the limit beyond which it is drift."""

    statistic: float
    limit: float
    n: int


@dataclass(slots=True)
class Alarm:
    """A signal with hysteresis: one look beyond the limit is no alarm, and one below it does not end one."""

    name: str
    raised: bool = False
    last: DriftReading | None = None
    _streak: int = 0

    def look(self, reading: DriftReading) -> bool:
        """Take a reading. Returns whether the alarm begins or ends with it."""
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

    def reading(self) -> DriftReading:
        """The index, and its limit."""
        n = len(self._recent)
        if len(self._expected) == 1 or n == 0:
            return DriftReading(0.0, PSI_LEVEL, n)
        p = (self._expected + 0.5) / (self._size + 0.5 * len(self._expected))
        q = (self._counts + 0.5) / (n + 0.5 * len(self._counts))
        index = float(((q - p) * np.log(q / p)).sum())
        chance = (1 / n + 1 / self._size) * chi_squared_limit(len(p) - 1)
        return DriftReading(index, max(PSI_LEVEL, chance), n)


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

    @property
    def live(self) -> float | None:
        """The live share; None without scores."""
        recent = list(self._recent)
        return sum(recent) / len(recent) if recent else None

    def reading(self) -> DriftReading:
        """The absolute difference of the shares, and its limit."""
        n = len(self._recent)
        if n == 0:
            return DriftReading(0.0, SHARE_LEVEL, 0)
        pooled = (sum(self._recent) + self.expected * self._size + 1) / (n + self._size + 2)
        chance = _Z * sqrt(pooled * (1 - pooled) * (1 / n + 1 / self._size))
        return DriftReading(abs(sum(self._recent) / n - self.expected), max(SHARE_LEVEL, chance), n)


class OutcomeDrift:
    """Feedback against the quality that the calibration data promised at the same score."""

    def __init__(self, window: int = WINDOW) -> None:
        self._misses: deque[float] = deque(maxlen=window)

    def add(self, expected: float, observed: float) -> None:
        """An answer with feedback: expected and observed quality, both in [0, 1]."""
        self._misses.append(observed - expected)

    def reading(self) -> DriftReading:
        """The size of the mean miss, and its limit."""
        n = len(self._misses)
        if n < 2:
            return DriftReading(0.0, OUTCOME_LEVEL, n)
        mean, sd = mean_and_sd(self._misses)
        return DriftReading(abs(mean), max(OUTCOME_LEVEL, _Z * sd / sqrt(n)), n)


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


FORMAT: Final = 1
FEATURES: Final = (*NUMERIC, "unknown_words")
MEAN_LEVEL: Final = 0.25
"""A shift of a mean by a quarter of a standard deviation: between Cohen's small (0.2) and medium (0.5) effect."""
VECTOR_LEVEL: Final = 0.0625
"""The same size for vectors, as squared distance in units of the total variance."""
_LEAST_SD: Final = 0.05
"""Features that hardly vary in the reference (no tools, one turn) must move by a visible amount."""
_WORDS: Final = 20_000
"""Most words that are known; the most frequent ones."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Of N queries: means and standard deviations of FEATURES, hashes of the known words (sorted, uint64).

    With an encoder also the mean vector, the total variance (trace of the covariance S), and the effective number of
    dimensions tr(S)² / tr(S²). `size` is N.
    """

    size: int
    means: Floats
    sds: Floats
    words: NDArray[np.uint64]
    vector_mean: Floats
    vector_variance: float = 0.0
    vector_dimensions: float = 0.0

    @classmethod
    def of(cls, queries: Sequence[Query], vectors: NDArray[Any] | None = None) -> Self:
        """The reference of at least two queries; `vectors` of shape [n, d] are their sentence vectors.

        A word counts as unknown to a query if no other query has it: what an unseen query would meet.
        """
        if len(queries) < 2:
            raise ConfigError("inputs: at least two queries are needed to know what queries look like")
        readings = [read(q) for q in queries]
        hashed = [[word_hash(t) for t in r.tokens if t.isalpha()] for r in readings]
        found = Counter(w for words in hashed for w in set(words))
        common = {w for w, n in found.most_common(_WORDS) if n > 1}
        unknown = [unknown_share(words, common) for words in hashed]
        table = np.column_stack([np.array([r.numeric for r in readings]), unknown])
        known = np.array(sorted(w for w, _ in found.most_common(_WORDS)), dtype=np.uint64)
        means, sds = table.mean(0), table.std(0, ddof=1)
        if vectors is None:
            return cls(len(queries), means, sds, known, np.zeros(0))
        centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
        covariance = centred.T @ centred / (len(vectors) - 1)
        trace, squared = float(np.trace(covariance)), float((covariance**2).sum())
        dimensions = trace * trace / squared if squared > 0 else 1.0
        return cls(len(queries), means, sds, known, vectors.mean(0, dtype=np.float64), trace, dimensions)

    def save(self, path: Path) -> None:
        """One npz file."""
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "size": np.array(self.size),
            "means": self.means,
            "sds": self.sds,
            "words": self.words,
            "vector_mean": self.vector_mean.astype(np.float32),
            "vector_spread": np.array([self.vector_variance, self.vector_dimensions]),
        }
        with path.open("wb") as out:
            np.savez_compressed(out, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The reference saved there. Raises ConfigError naming the file and what to do."""
        with reading(path, "register the router again", ValueError, KeyError, IndexError, TypeError):
            data = read_arrays(path)
            shapes = {data["means"].shape, data["sds"].shape}
            if int(data["format"]) != FORMAT or shapes != {(len(FEATURES),)}:
                raise ValueError(f"format {int(data['format'])} with features of shape {shapes}")
            spread = data["vector_spread"].astype(np.float64)
            means, sds, vector_mean = (data[name].astype(np.float64) for name in ("means", "sds", "vector_mean"))
            words = data["words"].astype(np.uint64)
            return cls(int(data["size"]), means, sds, words, vector_mean, float(spread[0]), float(spread[1]))


class InputDrift:
    """Means of live features, in standard deviations of the reference: the largest shift of all of them."""

    def __init__(self, inputs: Inputs, window: int = WINDOW) -> None:
        self._inputs = inputs
        self._known = set(inputs.words.tolist())
        self._rows: deque[tuple[float, ...]] = deque(maxlen=window)
        self.furthest = ""
        """The feature with the largest shift in the last reading."""

    def add(self, query: Query) -> None:
        """A live query; about 50 µs."""
        reading = read(query)
        words = [word_hash(t) for t in reading.tokens if t.isalpha()]
        self._rows.append((*reading.numeric, unknown_share(words, self._known)))

    def reading(self) -> DriftReading:
        """The largest absolute shift of a mean, and its limit."""
        n = len(self._rows)
        if n == 0:
            return DriftReading(0.0, MEAN_LEVEL, 0)
        inputs = self._inputs
        shifts = np.abs(np.array(self._rows).mean(0) - inputs.means) / np.maximum(inputs.sds, _LEAST_SD)
        at = int(shifts.argmax())
        self.furthest = FEATURES[at]
        chance = bonferroni_z(len(FEATURES)) * sqrt(1 / n + 1 / inputs.size)
        return DriftReading(float(shifts[at]), max(MEAN_LEVEL, chance), n)


class VectorDrift:
    """Distance of the mean live sentence vector from the reference's, squared, in units of the total variance."""

    def __init__(self, inputs: Inputs, window: int = WINDOW) -> None:
        self._inputs = inputs
        self._rows: deque[NDArray[Any]] = deque(maxlen=window)

    def add(self, vector: NDArray[Any]) -> None:
        """The sentence vector of a live query, shape [d]."""
        self._rows.append(vector)

    def reading(self) -> DriftReading:
        """The distance, and its limit: without drift it is (1/n + 1/N) times a weighted sum of chi-squared."""
        n, inputs = len(self._rows), self._inputs
        if n == 0 or inputs.vector_variance <= 0:
            return DriftReading(0.0, VECTOR_LEVEL, 0)
        moved = np.stack(self._rows).mean(0, dtype=np.float64) - inputs.vector_mean
        rarely = chi_squared_limit(inputs.vector_dimensions) / inputs.vector_dimensions
        chance = (1 / n + 1 / inputs.size) * rarely
        return DriftReading(float(moved @ moved) / inputs.vector_variance, max(VECTOR_LEVEL, chance), n)


def word_hash(word: str) -> int:
    """A 64-bit hash of a word, so that a reference holds no text of a prompt."""
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def unknown_share(words: Sequence[int], known: set[int]) -> float:
    """Share of words that are not known; 0 without words."""
    return sum(w not in known for w in words) / len(words) if words else 0.0
