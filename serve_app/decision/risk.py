"""Thresholds with a guarantee: the mean quality drop against always-strong is at most epsilon, on similar traffic.

The drop is relative, as everywhere: E[q_strong - q_routed] <= epsilon |E q_strong|. Where qualities have one sign this
is the mean of a bounded loss of each query, with tau the threshold:

    D(tau) = (q_strong - q_weak) [score < tau] - epsilon |q_strong|        to be at most 0 in the mean.

Two guarantees, for queries that are exchangeable with the calibration queries (none of which the router was fitted on):

- in expectation over calibration sets: conformal risk control (Angelopoulos et al., "Conformal Risk Control", 2024,
  theorem 1). Its loss must not fall as tau rises, and D does where the weak answer is the better one; so
  gains are ignored: (q_strong - q_weak)^+ replaces the difference, which bounds the drop from above.
- with confidence 1 - delta: Learn then Test (Angelopoulos et al., 2021) by testing a fixed sequence of thresholds from
  always-strong on, up to the first that is not shown to be safe. The sequence is fixed before the data are
  seen, and may be dense: fixed-sequence testing pays nothing for its length.

This module does not watch whether traffic still resembles the calibration queries.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from serve_app.arrays import Floats, sigmoid
from serve_app.errors import ConfigError, DataError, InsufficientData

UNIT = (0.0, 1.0)
_BETS = np.geomspace(1 / 400, 0.999, 32)
"""Stakes of the betting test, as shares of the largest that cannot lose all; each is played with equal money."""
_MOST = 1024
"""Largest multiple of the data that is tried to estimate how much would be enough."""


def _sequence() -> Floats:
    """Thresholds from always strong on: even in score and in log-odds, so that crowded ends are resolved too."""
    logits = np.linspace(-12.0, 12.0, 481)
    return np.unique(np.concatenate([np.linspace(0.0, 1.0, 1001), sigmoid(logits)]))


SEQUENCE = _sequence()


@dataclass(frozen=True, slots=True)
class Sample:
    """Calibration queries: the router's score and the mean quality of both answers, arrays of shape [n].

    `quality_range` are the least and the greatest quality that the metric can give; `copies` count each query so
    often, to estimate what more data would show. Raises ConfigError where no guarantee is possible: qualities without
    bounds, of both signs, or outside of the range.
    """

    scores: Floats
    weak_quality: Floats
    strong_quality: Floats
    quality_range: tuple[float, float] = UNIT
    copies: int = 1

    def __post_init__(self) -> None:
        low, high = self.quality_range
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise ConfigError(f"quality has the range {low:g} to {high:g}: a guarantee needs a quality with two bounds")
        if low < 0 < high:
            raise ConfigError(
                f"quality goes from {low:g} to {high:g}: a relative drop means nothing where the sign can change; "
                "use a metric of one sign"
            )
        for name in ("weak_quality", "strong_quality"):
            outside = np.flatnonzero((getattr(self, name) < low - 1e-9) | (getattr(self, name) > high + 1e-9))
            if len(outside):
                i = int(outside[0])
                raise DataError(
                    f"calibration query {i}: {name} {getattr(self, name)[i]:g} is not in {low:g} to {high:g}"
                )

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def binary(self) -> bool:
        """Whether every quality is 0 or 1."""
        values = np.concatenate([self.weak_quality, self.strong_quality])
        return self.quality_range == UNIT and bool(np.isin(values, (0.0, 1.0)).all())

    def totals(self, values: Floats) -> Floats:
        """Sums over the queries of values of shape [n, k]."""
        found: Floats = values.sum(0) * self.copies
        return found

    def totals_below(self, values: Floats, thresholds: Floats) -> Floats:
        """For each threshold the sums over the queries with lower scores; [thresholds, k]."""
        order = np.argsort(self.scores, kind="stable")
        sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values[order], axis=0)])
        below: Floats = sums[np.searchsorted(self.scores[order], thresholds, "left")] * self.copies
        return below

    def largest_loss(self, max_drop: float) -> float:
        """The greatest D that any query can have."""
        low, high = self.quality_range
        return high - low - max_drop * abs(high)


def conformal_threshold(sample: Sample, max_drop: float) -> float:
    """The threshold with the fewest strong calls whose expected drop is at most `max_drop`.

    The expectation is over calibration sets and the next query. Raises InsufficientData, with about the number of
    queries it would take, where only always-strong is safe.
    """
    return _enough(sample, max_drop, _conformal, f"a quality drop of at most {max_drop:g} in expectation")


def confident_threshold(sample: Sample, max_drop: float, delta: float = 0.1) -> float:
    """The threshold with the fewest strong calls shown to have a drop of at most `max_drop`, wrong with P <= `delta`.

    Raises InsufficientData as `conformal_threshold` does, ConfigError for a `delta` outside of (0, 1).
    """
    if not 0.0 < delta < 1.0:
        raise ConfigError(
            f"delta is {delta:g}: give the risk that the guarantee fails, between 0 and 1, for instance 0.1"
        )
    promise = f"a quality drop of at most {max_drop:g} with confidence {1 - delta:g}"
    return _enough(sample, max_drop, lambda s, e: _tested(s, e, delta), promise)


def p_values(sample: Sample, max_drop: float, thresholds: Floats) -> Floats:
    """For each threshold a p-value of "the mean drop is more than `max_drop`", shape [thresholds].

    The betting test holds for any bounded quality and counts what the weak model wins; where answers are right or
    wrong an exact binomial test, which does not count it, is often sharper. Both are used then, at half the level each.
    """
    betting = betting_p_values(sample, max_drop, thresholds)
    if not sample.binary:
        return betting
    both: Floats = np.minimum(1.0, 2 * np.minimum(betting, binomial_p_values(sample, max_drop, thresholds)))
    return both


def betting_p_values(sample: Sample, max_drop: float, thresholds: Floats) -> Floats:
    """p-values by betting on D < 0 (Waudby-Smith & Ramdas 2024, section 4, with stakes held and mixed).

    Under E[D] >= 0 a player who stakes l on each query has the expected wealth E prod(1 - l D) <= 1, and so has the
    mean of many players; by Markov's inequality 1 / wealth is a p-value. The order of queries does not matter.
    """
    base = -max_drop * np.abs(sample.strong_quality)
    stakes = _BETS / sample.largest_loss(max_drop)
    kept = np.log1p(-np.outer(base, stakes))
    gained = np.log1p(-np.outer(base + sample.strong_quality - sample.weak_quality, stakes)) - kept
    wealth = sample.totals(kept) + sample.totals_below(gained, thresholds)
    most = wealth.max(axis=1)
    mean = most + np.log(np.exp(wealth - most[:, None]).mean(axis=1))
    p: Floats = np.exp(-np.maximum(mean, 0.0))
    return p


def binomial_p_values(sample: Sample, max_drop: float, thresholds: Floats) -> Floats:
    """Exact p-values where answers are right or wrong: of the m queries that the strong model answers right, the lost
    ones (weak called, and wrong) are binomial, and the drop is at most their probability, since gains only help.
    """
    from scipy.stats import binom  # type: ignore[import-untyped]

    lost = np.maximum(sample.strong_quality - sample.weak_quality, 0.0)
    count = sample.totals_below(lost[:, None], thresholds)[:, 0]
    right = int(sample.totals(sample.strong_quality[:, None])[0])
    p: Floats = binom.cdf(count, right, max_drop)
    return p


def _tested(sample: Sample, max_drop: float, delta: float) -> float:
    safe = p_values(sample, max_drop, SEQUENCE) <= delta
    count = int(np.argmin(safe)) if not safe.all() else len(safe)
    return float(SEQUENCE[count - 1]) if count else 0.0


def _conformal(sample: Sample, max_drop: float) -> float:
    """Largest tau with (n R(tau) + B) / (n + 1) <= 0, R the mean clipped loss and B its bound; 0 if there is none."""
    distinct = np.unique(sample.scores)
    thresholds = np.concatenate([[0.0], (distinct[:-1] + distinct[1:]) / 2, [(distinct[-1] + 1.0) / 2]])
    clipped = np.maximum(sample.strong_quality - sample.weak_quality, 0.0)
    losses = sample.totals_below(clipped[:, None], thresholds)[:, 0]
    losses -= max_drop * sample.totals(np.abs(sample.strong_quality)[:, None])[0]
    kept = np.flatnonzero(losses + sample.largest_loss(max_drop) <= 0)
    return float(thresholds[kept[-1]]) if len(kept) else 0.0


def _enough(sample: Sample, max_drop: float, find: Callable[[Sample, float], float], promise: str) -> float:
    """The threshold found, if it lets the weak model answer anything."""
    if not 0.0 <= max_drop < 1.0:
        raise ConfigError(f"quality drop {max_drop:g}: give a share between 0 and 1, for instance 0.01")
    found = find(sample, max_drop)
    if (sample.scores < found).any():
        return found
    copies = 2
    while copies <= _MOST and not (sample.scores < find(replace(sample, copies=copies), max_drop)).any():
        copies *= 2
    if copies > _MOST:
        remedy = (
            f"even {_MOST * len(sample):,} like these are not enough: allow a larger drop, or train a better router"
        )
    else:
        remedy = f"it would take about {copies * len(sample):,} like these, or allow a larger drop"
    raise InsufficientData(
        f"{promise}: {len(sample):,} calibration queries guarantee it for nothing but always-strong; {remedy}"
    )
