"""AutoMix: what to do about an answer, from the small model's own verdict p on it.

Aggarwal, Madaan et al. 2024 (arXiv 2310.12963). A hidden state says what a query needs: NEEDY (the small model fails,
the large one does not), GOOD (the small one is right), HOPELESS (both fail). Three deciders: one threshold; two, which
ask the large model in the middle band only, so that hopeless queries are not passed on; and a POMDP, whose belief over
the states comes from how often each bin of p was seen in each state, and whose action has the most expected reward.

Fits AutoMix to recorded answers of two models, as a chain that is served like any other.

The first model's answer is judged by one signal that is a fraction in [0, 1] (its self-verifications, in the paper);
`automix` has the three deciders. Held-out figures and the refusal are those of `fitting`.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations_with_replacement
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.cascade.artefact import Fitted, version_of
from serve_app.cascade.base import Chain, Level, Signal
from serve_app.cascade.fitting.confidence import check_told
from serve_app.cascade.fitting.fit import HeldOut, check_held_out, check_worth, expected
from serve_app.cascade.signals.calibration import DecidedCalibrator
from serve_app.cascade.signals.consistency import SelfVerification
from serve_app.data.recorded import Recorded
from serve_app.decision.target import COST, STRONG_SHARE, Target
from serve_app.errors import ConfigError, DataError, InsufficientData
from serve_app.learning.logistic import folds_of

NEEDY, GOOD, HOPELESS = 0, 1, 2
BINS: Final = 9
"""Bins of p, centered on 0, 1/8, ..., 1: with 8 verdicts each of the nine fractions has its own."""
_FEWEST: Final = 20
_PRICES: Final = tuple(np.linspace(0.0, 1.5, 61).tolist())
"""Prices of a large call, in qualities, that the POMDP's sweep tries."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What is known of a few queries: p [n] in [0, 1] (nan: no verdict), quality and cost of either model [n] each.

    `small_cost` with its verification; an escalated query costs both.
    """

    p: Floats
    small: Floats
    large: Floats
    small_cost: Floats
    large_cost: Floats

    def __post_init__(self) -> None:
        n = len(self.p)
        if any(len(a) != n for a in (self.small, self.large, self.small_cost, self.large_cost)):
            raise ValueError("one p, two qualities and two costs for each query")
        if n < _FEWEST:
            raise InsufficientData(f"AutoMix takes at least {_FEWEST} labelled queries, there are {n}: collect more")

    def take(self, rows: NDArray[Any]) -> Self:
        """Some of the queries, by index or by a mask."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def means(self, escalated: NDArray[np.bool_]) -> tuple[float, float]:
        """Mean quality and cost if these queries are escalated."""
        quality = np.where(escalated, self.large, self.small)
        return float(quality.mean()), float((self.small_cost + np.where(escalated, self.large_cost, 0.0)).mean())

    @property
    def states(self) -> NDArray[np.int64]:
        """NEEDY where the large model is better, HOPELESS where both are equally bad, otherwise GOOD."""
        found: NDArray[np.int64] = np.where(
            self.large > self.small, NEEDY, np.where(np.maximum(self.small, self.large) < 0.5, HOPELESS, GOOD)
        )
        return found


class Decider(Protocol):
    """Whether an answer is taken or the large model asked."""

    def takes(self, p: float) -> bool:
        """Of a p in [0, 1]; an unknown one (nan) is never taken."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Take the answer if p is at least `low`."""

    low: float

    def takes(self, p: float) -> bool:
        """Whether the answer is taken."""
        return p >= self.low

    def calibrator(self) -> DecidedCalibrator:
        """The same, for a level of a chain with threshold 0.5."""
        return DecidedCalibrator((self.low,), (False, True))


@dataclass(frozen=True, slots=True)
class DoubleThreshold:
    """Ask the large model only in the band low <= p < high: below it the query is hopeless."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")

    def takes(self, p: float) -> bool:
        """Whether the answer is taken."""
        return p < self.low or p >= self.high

    def calibrator(self) -> DecidedCalibrator:
        """The same, for a level of a chain with threshold 0.5."""
        if self.low == self.high:
            return DecidedCalibrator((), (True,))
        return DecidedCalibrator((self.low, self.high), (True, False, True))


@dataclass(frozen=True, slots=True)
class Pomdp:
    """Belief over NEEDY, GOOD, HOPELESS by the bin of p, and the gain of a large call in each state.

    `belief` [bins, 3] after one observation; `gain` [3] mean quality gained by the large model; `price` of its call in
    qualities. Escalates where belief @ gain > price.
    """

    edges: tuple[float, ...]
    belief: tuple[tuple[float, float, float], ...]
    gain: tuple[float, float, float]
    price: float

    def expected_gain(self, p: float) -> float:
        """Quality that the large model is expected to add."""
        return sum(b * g for b, g in zip(self.belief[bisect_right(self.edges, p)], self.gain, strict=True))

    def takes(self, p: float) -> bool:
        """Whether the answer is taken."""
        return p == p and self.expected_gain(p) <= self.price

    def calibrator(self) -> DecidedCalibrator:
        """The same, for a level of a chain with threshold 0.5."""
        inside = [0.0, *self.edges]
        return DecidedCalibrator(self.edges, tuple(self.takes(p) for p in inside))

    @classmethod
    def observed(cls, labelled: Labelled, price: float, bins: int = BINS) -> Self:
        """Counted on labelled queries, one imagined query added to each bin in proportion to how common the states are.

        Bins are centered on `bins` (at least 2) equally spaced points from 0 to 1, edges halfway between. Prior and
        observation model of the paper's section 3.3, as the posterior after one observation.
        """
        edges = tuple(((np.arange(bins - 1) + 0.5) / (bins - 1)).tolist())
        states = labelled.states
        common = (np.bincount(states, minlength=3) + 1.0) / (len(states) + 3.0)
        gains = labelled.large - labelled.small
        gain = [float(gains[states == s].mean()) if (states == s).any() else 0.0 for s in range(3)]
        counts = np.zeros((bins, 3))
        known = ~np.isnan(labelled.p)
        where = [bisect_right(edges, p) for p in labelled.p[known].tolist()]
        np.add.at(counts, (where, states[known]), 1.0)
        counts += common
        belief = counts / counts.sum(1, keepdims=True)
        rows = tuple((float(a), float(b), float(c)) for a, b, c in belief)
        return cls(edges, rows, (gain[0], gain[1], gain[2]), price)


def escalated(decider: Decider, p: Floats) -> NDArray[np.bool_]:
    """Which answers are not taken, shape [n]."""
    values, at = np.unique(p, return_inverse=True)
    asked: NDArray[np.bool_] = np.array([not decider.takes(x) for x in values.tolist()], dtype=bool)[at]
    return asked


def incremental_benefit(quality: float, cost: float, small: tuple[float, float]) -> float:
    """IBC (section 4.1): quality gained over the small model alone per unit of extra cost; nan without extra cost.

    `small`: its quality and cost, without verification.
    """
    extra = cost - small[1]
    return (quality - small[0]) / extra if extra > 0 else float("nan")


def lift(quality: float, cost: float, small: tuple[float, float], large: tuple[float, float]) -> float:
    """Relative excess of a method's IBC over that of the line from small to large: 0 on it, 0.5 for half as much again.

    `small` and `large`: quality and cost of either alone. nan where the line has no slope.
    """
    base = incremental_benefit(*large, small)
    return (incremental_benefit(quality, cost, small) - base) / base if base else float("nan")


def fit_threshold(labelled: Labelled, budget: float) -> Threshold:
    """The threshold of best quality within a mean cost; of equals the cheapest."""
    cuts = [*_cuts(labelled), 2.0]
    found = [Threshold(low) for low in cuts]
    return found[_best(labelled, found, budget)]


def fit_double_threshold(labelled: Labelled, budget: float) -> DoubleThreshold:
    """The band of best quality within a mean cost; of equals the cheapest."""
    cuts = [*_cuts(labelled), 2.0]
    found = [DoubleThreshold(low, high) for low, high in combinations_with_replacement(cuts, 2)]
    return found[_best(labelled, found, budget)]


def fit_pomdp(labelled: Labelled, budget: float, bins: int = BINS) -> Pomdp:
    """The price of best expected quality within a mean cost: each price of the sweep is one policy.

    Quality is that of the model's own belief, so that 50 queries do not choose the policy twice over.
    """
    observed = Pomdp.observed(labelled, 0.0, bins)
    found = [replace(observed, price=price) for price in _PRICES]
    inside = [d for d in found if labelled.means(escalated(d, labelled.p))[1] <= budget * (1 + 1e-9)]
    return inside[0] if inside else replace(observed, price=float("inf"))


def _cuts(labelled: Labelled) -> list[float]:
    return [float(p) for p in np.unique(labelled.p[~np.isnan(labelled.p)])]


def _best(labelled: Labelled, deciders: Sequence[Decider], budget: float) -> int:
    """Index of the best decider within the budget; the cheapest of all where none is."""
    figures = [labelled.means(escalated(d, labelled.p)) for d in deciders]
    inside = [i for i, (_, cost) in enumerate(figures) if cost <= budget * (1 + 1e-9)]
    if not inside:
        return min(range(len(figures)), key=lambda i: figures[i][1])
    return max(inside, key=lambda i: (round(figures[i][0], 12), -figures[i][1]))


Fitting = Callable[[Labelled, float], Threshold | DoubleThreshold | Pomdp]
DECIDERS: Final[Mapping[str, Fitting]] = {
    "threshold": fit_threshold,
    "double-threshold": fit_double_threshold,
    "pomdp": fit_pomdp,
}
_BUDGETS: Final = 41
"""Mean costs that are tried for a quality target."""


@dataclass(frozen=True, slots=True)
class AutoMixPlan:
    """What to fit. `models`: the small one, the large one. `signal`: a fraction in [0, 1] of the small one's answer."""

    models: tuple[str, ...]
    target: Target
    decider: str = "pomdp"
    signal: Signal = field(default_factory=SelfVerification)
    folds: int = 5
    seed: int = 0


def fit_automix(recorded: Recorded, plan: AutoMixPlan) -> Fitted:
    """The chain, fitted on all queries, its figures measured by cross-fitting.

    Raises ConfigError for a plan or target that cannot be, InsufficientData for too few queries, DataError for a
    signal that is no fraction or a chain that is worse than a single model at the same cost.
    """
    if len(plan.models) != 2:
        raise ConfigError(f"AutoMix takes a small and a large model, not {', '.join(plan.models) or 'none'}: name two")
    if plan.decider not in DECIDERS:
        raise ConfigError(f"decider {plan.decider!r} is not known: give {', '.join(DECIDERS)}")
    labelled = labelled_of(recorded.of(plan.models), plan.signal)
    folds = folds_of(recorded.prompts, plan.folds, plan.seed)
    check_held_out(folds)
    asked = np.zeros(len(recorded), dtype=bool)
    for fold in np.unique(folds).tolist():
        inside = folds != fold
        asked[~inside] = escalated(_fit(labelled.take(inside), plan), labelled.p[~inside])
    held_out = HeldOut(
        plan.models,
        asked.astype(np.int64),
        np.where(asked, labelled.large, labelled.small),
        labelled.small_cost + np.where(asked, labelled.large_cost, 0.0),
    )
    check_worth(held_out, recorded)
    small = Level(plan.models[0], plan.signal, _fit(labelled, plan).calibrator(), 0.5)
    levels = (small, Level(plan.models[1]))
    chain = Chain(
        levels=levels,
        version=version_of(levels, None),
        expected=expected(held_out, recorded, plan.models),
        models=recorded.of(plan.models).served,
    )
    data: dict[str, Any] = {"digest": recorded.digest(), "queries": len(recorded), "figures": "cross-fitted"}
    return Fitted(chain, str(plan.target), {**data, "folds": plan.folds, "seed": plan.seed, "decider": plan.decider})


def labelled_of(recorded: Recorded, signal: Signal) -> Labelled:
    """Two models' answers as AutoMix sees them. Raises DataError for a signal that no answer has or no fraction is."""
    p = np.array([signal.value(row[0]) for row in recorded.evidence])
    check_told((signal,), p[:, None], recorded.models[0])
    known = p[~np.isnan(p)]
    if known.min() < 0.0 or known.max() > 1.0:
        raise DataError(f"{signal.name} is no fraction in [0, 1]: AutoMix takes self_verification or agreement")
    cost = recorded.cost_usd.copy()
    if signal.needs.samples or signal.needs.verdicts:
        cost[:, 0] += recorded.extra_cost_usd[:, 0]
    return Labelled(p, recorded.ok[:, 0], recorded.ok[:, 1], cost[:, 0], cost[:, 1])


def _fit(labelled: Labelled, plan: AutoMixPlan) -> Threshold | DoubleThreshold | Pomdp:
    """The decider for the target: within its budget, or at the least budget that keeps the quality."""
    fit, target = DECIDERS[plan.decider], plan.target
    least, most = float(labelled.small_cost.mean()), float((labelled.small_cost + labelled.large_cost).mean())
    if target.name == COST:
        if target.value < least:
            raise ConfigError(f"{target} USD cannot be met: {plan.models[0]} alone costs {least:.3g} a query; raise it")
        return fit(labelled, target.value)
    if target.name == STRONG_SHARE:
        return fit(labelled, least + target.value * (most - least))
    wanted = (1 - target.value) * float(labelled.large.mean())
    for budget in np.linspace(least, most, _BUDGETS).tolist():
        found = fit(labelled, budget)
        if labelled.means(escalated(found, labelled.p))[0] >= wanted:
            return found
    raise ConfigError(f"{target} cannot be met with {' -> '.join(plan.models)}; loosen it or give other models")
