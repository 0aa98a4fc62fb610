"""Signals made of others: several combined by logistic regression, and one weighed against the cost of the next call.

Under a mean budget the best queries to escalate are those with the most to gain per dollar, not those with the most to
gain: the threshold is a price (Dekoninck et al. 2025, section 2: quality less lambda times cost; Dantzig's greedy
solution of the knapsack). The cost of the next call is predicted from the length of the query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.cascade.base import Calibrator, Needs, Signal
from serve_app.data.answers import AnswerEvidence
from serve_app.errors import ConfigError, InsufficientData
from serve_app.learning.logistic import fit_soft, log_loss

_FEWEST: Final = 40
"""Answers required to fit a combination."""
_STRENGTHS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Inverse L2 penalties that are tried; log loss out of fold chooses."""
_FOLDS: Final = 5
_FARTHEST: Final = 6.0
"""Standard deviations beyond which a signal counts no more: one odd token does not decide all."""


@dataclass(frozen=True, slots=True)
class Combined:
    """Log-odds that the answer is right: `bias` + sum of `weights` times the standardised signals.

    An undefined signal (nan) counts as its mean in training; if all are undefined, so is this one.
    """

    signals: tuple[Signal, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    name: ClassVar[str] = "combined"

    def __post_init__(self) -> None:
        numbers = (self.means, self.scales, self.weights)
        if not self.signals or any(len(n) != len(self.signals) for n in numbers):
            raise ConfigError("combined: give at least one signal, and a mean, scale and weight for each")
        if not all(isfinite(x) for n in (*numbers, (self.bias,)) for x in n) or min(self.scales) <= 0:
            raise ConfigError("combined: means, scales, weights and bias must be finite, and scales above 0")
        routers = {s.needs.prior for s in self.signals} - {None}
        if len(routers) > 1:
            raise ConfigError(f"combined: priors of two routers ({', '.join(map(str, routers))}); take one")

    @property
    def needs(self) -> Needs:
        """All that any of the signals needs."""
        return joint_needs(self.signals)

    def value(self, evidence: AnswerEvidence) -> float:
        """Log-odds; nan where every signal is undefined."""
        return self.of_values([signal.value(evidence) for signal in self.signals])

    def of_values(self, values: Sequence[float]) -> float:
        """The same from the signals' values."""
        if all(isnan(v) for v in values):
            return nan
        total = self.bias
        for value, mean, scale, weight in zip(values, self.means, self.scales, self.weights, strict=True):
            if not isnan(value):
                total += weight * min(max((value - mean) / scale, -_FARTHEST), _FARTHEST)
        return total


def joint_needs(signals: Sequence[Signal]) -> Needs:
    """The most that any of the signals needs."""
    needs = [signal.needs for signal in signals]
    return Needs(
        logprobs=any(n.logprobs for n in needs),
        top_logprobs=max(n.top_logprobs for n in needs),
        samples=max(n.samples for n in needs),
        verdicts=max(n.verdicts for n in needs),
        prior=next((n.prior for n in needs if n.prior is not None), None),
    )


def fit_combined(signals: Sequence[Signal], values: Floats, ok: Floats, seed: int = 0) -> tuple[Combined, Floats]:
    """A combination, and the out-of-fold log-odds [n] of the answers, to calibrate on.

    `values` [n, signals], nan where undefined; `ok` [n] in [0, 1], counted as soft labels. Raises
    InsufficientData for too few answers or signals that are nan throughout, DependencyError without scikit-learn.
    """
    if len(ok) < _FEWEST:
        raise InsufficientData(f"a combined signal needs at least {_FEWEST} answers, there are {len(ok)}: collect more")
    unknown = [s.name for s, column in zip(signals, values.T, strict=True) if not np.isfinite(column).any()]
    if unknown:
        raise InsufficientData(f"signal {unknown[0]} is undefined for every answer: collect its input, or leave it out")
    folds = np.random.default_rng(seed).permutation(len(ok)) % _FOLDS
    outside = [_out_of_fold(values, ok, folds, strength) for strength in _STRENGTHS]
    best = int(np.argmin([log_loss(x, ok) for x in outside]))
    combined = Combined(tuple(signals), *_fit(values, ok, _STRENGTHS[best]))
    unknown_rows = np.isnan(values).all(1)
    return combined, np.where(unknown_rows, np.nan, outside[best])


def _out_of_fold(values: Floats, ok: Floats, folds: NDArray[np.int64], strength: float) -> Floats:
    found = np.zeros(len(ok))
    for fold in range(_FOLDS):
        inside = folds == fold
        means, scales, weights, bias = _fit(values[~inside], ok[~inside], strength)
        found[inside] = _standardised(values[inside], np.array(means), np.array(scales)) @ np.array(weights) + bias
    return found


_Fit = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float]


def _fit(values: Floats, ok: Floats, strength: float) -> _Fit:
    """Means, scales, weights and bias."""
    finite = np.where(np.isfinite(values), values, np.nan)
    known = np.maximum(np.isfinite(finite).sum(0), 1)
    means = np.nansum(finite, 0) / known
    scales = np.sqrt(np.nansum((finite - means) ** 2, 0) / known)
    scales[scales < 1e-9] = 1.0
    weights, bias = fit_soft(_standardised(values, means, scales), ok, strength)
    return tuple(means.tolist()), tuple(scales.tolist()), tuple(weights.tolist()), bias


def _standardised(values: Floats, means: Floats, scales: Floats) -> Floats:
    """As `of_values` does it: nan is the mean, and nothing counts beyond a few deviations."""
    scaled: Floats = np.where(np.isnan(values), 0.0, np.clip((values - means) / scales, -_FARTHEST, _FARTHEST))
    return scaled


_LEAST: Final = 0.2
"""The cheapest query counts as this part of the mean: a few short ones do not decide all."""


@dataclass(frozen=True, slots=True)
class CostAware:
    """Minus the probability of being wrong, by `signal` and `calibrator`, per relative cost of the next call.

    The relative cost of a query is `base` + `per_character` times its length, in units of the mean, at least `_LEAST`.
    """

    signal: Signal
    calibrator: Calibrator
    base: float
    per_character: float
    name: ClassVar[str] = "cost_aware"

    def __post_init__(self) -> None:
        if not (isfinite(self.base) and isfinite(self.per_character) and self.per_character >= 0):
            raise ConfigError("cost_aware: base must be finite and per_character finite and at least 0")

    @property
    def needs(self) -> Needs:
        """What its signal needs."""
        return self.signal.needs

    def value(self, evidence: AnswerEvidence) -> float:
        """At most 0; nan where the signal is undefined."""
        return self.of_value(self.signal.value(evidence), len(evidence.query.text))

    def of_value(self, value: float, characters: int) -> float:
        """The same from the signal's value and the query's length."""
        if isnan(value):
            return nan
        cost = max(self.base + self.per_character * characters, _LEAST)
        return (self.calibrator.probability(value) - 1.0) / cost


def fit_relative_cost(prompts: Sequence[str], cost_usd: Floats) -> tuple[float, float]:
    """`base` and `per_character` by least squares on the prompts' lengths; flat if longer ones do not cost more."""
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.float64)
    mean = float(cost_usd.mean())
    if mean <= 0 or lengths.std() < 1e-9:
        return 1.0, 0.0
    slope = float(np.cov(lengths, cost_usd / mean, ddof=0)[0, 1] / lengths.var())
    return (1.0 - slope * float(lengths.mean()), slope) if slope > 0 else (1.0, 0.0)
