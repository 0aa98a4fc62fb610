"""AutoMix: what to do about the small model's answer, from p, its own verdict on it.

Aggarwal, Madaan et al. 2024 (arXiv 2310.12963). A hidden state says what a query needs: NEEDY (the small model fails,
the large one does not), GOOD (the small one is right), HOPELESS (both fail). Three deciders: one threshold; two, which
call the large model in the middle band only, so that hopeless queries are not escalated; and a POMDP, whose belief over
the states comes from how often each bin of p was seen in each state, and whose action has the most expected reward.
All are a `BinnedAcceptance`, and `fit_automix` makes one a chain that is served like any other.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations_with_replacement
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.cascade.artefact import FittedChain
from serve_app.cascade.base import Level, Signal
from serve_app.cascade.fitting.confidence import check_defined
from serve_app.cascade.fitting.held_out import HeldOut, chain_of_levels, origin
from serve_app.cascade.fitting.worth import (
    check_held_out,
    check_shifted,
    check_worth,
    held_out_by,
    kinds_of,
    on_target,
)
from serve_app.cascade.signals.calibration import BinnedAcceptance
from serve_app.cascade.signals.consistency import SelfVerification
from serve_app.data.recorded import Recorded
from serve_app.decision.target import COST, STRONG_SHARE, Target
from serve_app.errors import ConfigError, DataError, InsufficientData
from serve_app.learning.logistic import folds_of
from serve_app.numbers import significant

NEEDY, GOOD, HOPELESS = 0, 1, 2
BINS: Final = 9
"""Bins of p, centered on 0, 1/8, ..., 1: with 8 verdicts each of the nine fractions has its own."""
_FEWEST: Final = 20
_PRICES: Final = tuple(np.linspace(0.0, 1.5, 61).tolist())
"""Prices of a large call, in qualities, that the POMDP's sweep tries."""


@dataclass(frozen=True, slots=True)
class LabelledQueries:
    """A few labelled queries: p [n] in [0, 1] (nan: no verdict), quality and cost of either model [n] each.

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
            raise InsufficientData(f"AutoMix needs at least {_FEWEST} labelled queries, there are {n}: collect more")

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


def accept_from(low: float) -> BinnedAcceptance:
    """Take the answer if p is at least `low`."""
    return BinnedAcceptance((low,), (False, True))


def accept_outside(low: float, high: float) -> BinnedAcceptance:
    """Call the large model only if low <= p < high: below, the query is hopeless. Raises ValueError if low > high."""
    return BinnedAcceptance((low, high), (True, False, True)) if low != high else BinnedAcceptance((), (True,))


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

    def acceptance(self) -> BinnedAcceptance:
        """The bins in which the large model's expected gain is not worth its price."""
        gains = [sum(b * g for b, g in zip(belief, self.gain, strict=True)) for belief in self.belief]
        return BinnedAcceptance(self.edges, tuple(gain <= self.price for gain in gains))

    @classmethod
    def observed(cls, labelled: LabelledQueries, price: float, bins: int = BINS) -> Self:
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


def escalated(accepts: BinnedAcceptance, p: Floats) -> NDArray[np.bool_]:
    """Which answers are not taken, shape [n]; an unknown p (nan) never is."""
    values, at = np.unique(p, return_inverse=True)
    found: NDArray[np.bool_] = np.array([not accepts.probability(x) for x in values.tolist()], dtype=bool)[at]
    return found


def incremental_benefit(quality: float, cost: float, small: tuple[float, float]) -> float:
    """IBC (section 4.1): quality gained over the small model alone per unit of extra cost; nan without extra cost.

    `small`: its quality and cost, without verification.
    """
    extra = cost - small[1]
    return (quality - small[0]) / extra if extra > 0 else float("nan")


def fit_threshold(labelled: LabelledQueries, budget: float) -> BinnedAcceptance:
    """The threshold of best quality within a mean cost; of equals the cheapest."""
    return _best(labelled, [accept_from(low) for low in _cuts(labelled)], budget)


def fit_double_threshold(labelled: LabelledQueries, budget: float) -> BinnedAcceptance:
    """The band of best quality within a mean cost; of equals the cheapest."""
    bands = combinations_with_replacement(_cuts(labelled), 2)
    return _best(labelled, [accept_outside(low, high) for low, high in bands], budget)


def fit_pomdp(labelled: LabelledQueries, budget: float, bins: int = BINS) -> BinnedAcceptance:
    """The price of best expected quality within a mean cost: each price of the sweep is one policy.

    Quality is that of the model's own belief, so that 50 queries do not choose the policy twice over.
    """
    seen = Pomdp.observed(labelled, float("inf"), bins)
    found = [replace(seen, price=price).acceptance() for price in _PRICES]
    inside = (one for one in found if labelled.means(escalated(one, labelled.p))[1] <= budget * (1 + 1e-9))
    return next(inside, seen.acceptance())


def _cuts(labelled: LabelledQueries) -> list[float]:
    """Every threshold that differs, and one above all p."""
    return [*(float(p) for p in np.unique(labelled.p[~np.isnan(labelled.p)])), 2.0]


def _best(labelled: LabelledQueries, candidates: Sequence[BinnedAcceptance], budget: float) -> BinnedAcceptance:
    """The best candidate within the budget; the cheapest of all where none is."""
    figures = [labelled.means(escalated(one, labelled.p)) for one in candidates]
    inside = [i for i, (_, cost) in enumerate(figures) if cost <= budget * (1 + 1e-9)]
    if not inside:
        return candidates[min(range(len(figures)), key=lambda i: figures[i][1])]
    return candidates[max(inside, key=lambda i: (round(figures[i][0], 12), -figures[i][1]))]


DECIDERS: Final[Mapping[str, Callable[[LabelledQueries, float], BinnedAcceptance]]] = {
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


def fit_automix(recorded: Recorded, plan: AutoMixPlan) -> FittedChain:
    """The chain, fitted on all queries, its figures measured by cross-fitting.

    Raises ConfigError for an invalid plan or a target out of reach, InsufficientData for too few queries, DataError for
    a signal that is no fraction, or a chain that is worse than a single model at the same cost.
    """
    if len(plan.models) != 2:
        raise ConfigError(f"AutoMix needs a small and a large model, not {', '.join(plan.models) or 'none'}: name two")
    if plan.decider not in DECIDERS:
        raise ConfigError(f"decider {plan.decider!r} is not known: give {', '.join(DECIDERS)}")
    labelled = labelled_of(recorded.of(plan.models), plan.signal)
    folds = folds_of(recorded.prompts, plan.folds, plan.seed)
    check_held_out(folds)
    _fit(labelled, plan)  # a target out of reach is reported with its figures
    first = _held_out(labelled, folds, plan)[0]
    if first is None:
        raise ConfigError(
            f"{plan.target} cannot be met with {' -> '.join(plan.models)}; loosen it or give other models"
        )
    check_worth(first, recorded)
    aim = on_target(lambda aim: _held_out(labelled, folds, replace(plan, target=aim))[0], first, recorded, plan.target)
    aimed = replace(plan, target=aim)
    held_out = _held_out(labelled, folds, aimed)[0] or first
    check_worth(held_out, recorded)
    kinds, kind = kinds_of(recorded, plan.folds)
    shifted, known = _held_out(labelled, kinds, aimed)
    if shifted is not None:
        check_shifted(shifted, recorded.take(known), kind)
    small = Level(plan.models[0], plan.signal, _fit(labelled, aimed), 0.5)
    chain = chain_of_levels((small, Level(plan.models[1])), held_out, recorded, None, shifted)
    fitted_with = {"folds": plan.folds, "seed": plan.seed, "decider": plan.decider}
    if aim != plan.target:
        fitted_with["aim"] = str(aim)
    return FittedChain(chain, str(plan.target), origin(recorded, plan.signal.needs.prior, None) | fitted_with)


def _held_out(
    labelled: LabelledQueries, folds: NDArray[np.int64], plan: AutoMixPlan
) -> tuple[HeldOut | None, NDArray[np.bool_]]:
    """The chain over all queries, each by a fit without its fold, and which [n] have one that meets the target."""

    def answered(fold: int) -> tuple[NDArray[np.int64], Floats, Floats] | None:
        try:
            accepts = _fit(labelled.take(folds != fold), plan)
        except ConfigError:
            return None
        inside = labelled.take(folds == fold)
        passed_on = escalated(accepts, inside.p)
        cost = inside.small_cost + np.where(passed_on, inside.large_cost, 0.0)
        return passed_on.astype(np.int64), np.where(passed_on, inside.large, inside.small), cost

    return held_out_by(folds, plan.models, answered)


def labelled_of(recorded: Recorded, signal: Signal) -> LabelledQueries:
    """Two models' answers as AutoMix reads them. Raises DataError for a signal that is undefined or no fraction."""
    p = np.array([signal.value(row[0]) for row in recorded.evidence])
    check_defined((signal,), p[:, None], recorded.models[0])
    known = p[~np.isnan(p)]
    if known.min() < 0.0 or known.max() > 1.0:
        raise DataError(f"{signal.name} is no fraction in [0, 1]: AutoMix needs self_verification or agreement")
    cost = recorded.cost_usd.copy()
    if signal.needs.samples or signal.needs.verdicts:
        cost[:, 0] += recorded.extra_cost_usd[:, 0]
    return LabelledQueries(p, recorded.ok[:, 0], recorded.ok[:, 1], cost[:, 0], cost[:, 1])


def _fit(labelled: LabelledQueries, plan: AutoMixPlan) -> BinnedAcceptance:
    """The decider for the target: within its budget, or at the least budget that keeps the quality."""
    fit, target = DECIDERS[plan.decider], plan.target
    least, most = float(labelled.small_cost.mean()), float((labelled.small_cost + labelled.large_cost).mean())
    if target.name == COST:
        if target.value < least:
            raise ConfigError(
                f"{target} USD cannot be met: {plan.models[0]} alone costs {significant(least)} a query; raise it"
            )
        return fit(labelled, target.value)
    if target.name == STRONG_SHARE:
        return fit(labelled, least + target.value * (most - least))
    least_quality = (1 - target.value) * float(labelled.large.mean())
    for budget in np.linspace(least, most, _BUDGETS).tolist():
        found = fit(labelled, budget)
        if labelled.means(escalated(found, labelled.p))[0] >= least_quality:
            return found
    raise ConfigError(f"{target} cannot be met with {' -> '.join(plan.models)}; loosen it or give other models")
