"""Signals made of others: several combined by logistic regression, and one weighed against the cost of the next call.

Under a mean budget the best queries to escalate are those with the most to gain per dollar, not those with the most to
gain: the threshold is a price (Dekoninck et al. 2025, section 2: quality less lambda times cost; Dantzig's greedy
solution of the knapsack). The cost of the next call is predicted from the length of the query.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from typing import ClassVar, Final

import numpy as np

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
_LEAST: Final = 0.2
"""The cheapest query counts as this part of the mean: a few short ones do not decide all."""


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
    strength, outside = choose_strength(_log_odds, values, ok, _STRENGTHS, seed)
    means, scales, weights, bias = _fit(values, ok, strength)
    columns = [tuple(column.tolist()) for column in (means, scales, weights)]
    combined = Combined(tuple(signals), columns[0], columns[1], columns[2], bias)
    return combined, np.where(np.isnan(values).all(1), np.nan, outside)


def choose_strength(
    fit: Callable[[Floats, Floats, float], Callable[[Floats], Floats]],
    x: Floats,
    ok: Floats,
    strengths: Sequence[float],
    seed: int,
) -> tuple[float, Floats]:
    """The inverse L2 penalty of the least log loss out of fold, and the log-odds [n] out of fold at it.

    `fit(x, ok, strength)` returns the function from rows to log-odds.
    """
    folds = np.random.default_rng(seed).permutation(len(ok)) % _FOLDS
    found = np.zeros((len(strengths), len(ok)))
    for outside, strength in zip(found, strengths, strict=True):
        for fold in range(_FOLDS):
            inside = folds == fold
            outside[inside] = fit(x[~inside], ok[~inside], strength)(x[inside])
    best = int(np.argmin([log_loss(one, ok) for one in found]))
    return strengths[best], found[best]


def _log_odds(values: Floats, ok: Floats, strength: float) -> Callable[[Floats], Floats]:
    means, scales, weights, bias = _fit(values, ok, strength)
    return lambda others: _standardised(others, means, scales) @ weights + bias


def _fit(values: Floats, ok: Floats, strength: float) -> tuple[Floats, Floats, Floats, float]:
    """Means, scales, weights and bias."""
    finite = np.where(np.isfinite(values), values, np.nan)
    known = np.maximum(np.isfinite(finite).sum(0), 1)
    means = np.nansum(finite, 0) / known
    scales = np.sqrt(np.nansum((finite - means) ** 2, 0) / known)
    scales[scales < 1e-9] = 1.0
    return means, scales, *fit_soft(_standardised(values, means, scales), ok, strength)


def _standardised(values: Floats, means: Floats, scales: Floats) -> Floats:
    """As `of_values` does it: nan is the mean, and nothing counts beyond a few deviations."""
    scaled: Floats = np.where(np.isnan(values), 0.0, np.clip((values - means) / scales, -_FARTHEST, _FARTHEST))
    return scaled


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
